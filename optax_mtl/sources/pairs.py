"""A Gram matrix from pairs of gradients, of which few are held at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optax_mtl import linalg
from optax_mtl._dtypes import solver_dtype


def gram(
  rows: Callable[[jax.Array], list[jax.Array]], num_tasks: int, size: int
) -> jax.Array:
  """The Gram matrix, from two chunks of gradients at a time.

  Args:
    rows: Function from the numbers of some tasks [size] to their gradients,
      leaves [size, ...], with zeros for the number `num_tasks`.
    num_tasks: The number of tasks T.
    size: How many tasks make a chunk, at most T.

  Returns:
    Array [T, T] in the solver's dtype, exactly symmetric.
  """
  count = -(-num_tasks // size)
  chunks = jnp.minimum(jnp.arange(count * size), num_tasks)
  chunks = chunks.reshape(count, size)
  if count == 1:
    return linalg.gram(rows(chunks[0]), size)

  def blocks_of_row(i: jax.Array) -> jax.Array:
    """Blocks [i, j] for j <= i, zeros after."""
    left = rows(chunks[i])

    def block(j: jax.Array, row: jax.Array) -> jax.Array:
      new = linalg.cross_gram(left, rows(chunks[j]), size)
      return row.at[j].set(new)

    row = jnp.zeros((count, size, size), solver_dtype())
    row = row.at[i].set(linalg.gram(left, size))
    return jax.lax.fori_loop(0, i, block, row)

  blocks = jax.lax.map(blocks_of_row, jnp.arange(count))
  whole = blocks.transpose(0, 2, 1, 3).reshape(count * size, count * size)
  whole = whole[:num_tasks, :num_tasks]
  return jnp.tril(whole) + jnp.tril(whole, -1).T
