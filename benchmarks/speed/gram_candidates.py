"""What is timed of the Gram matrix and the combination, on any device."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from optax_mtl import linalg

Leaves = Sequence[jax.Array]
Candidate = Callable[[Leaves], jax.Array | Leaves]


def candidates(num_tasks: int) -> dict[str, Candidate]:
  """`gram`, `combine` and `both`, functions of leaves [T, *shape].

  `both` is one program, with weights that need the whole Gram matrix in place
  of a solver.

  Args:
    num_tasks: The number of tasks T.

  Returns:
    Name to function.
  """

  def gram(leaves: Leaves) -> jax.Array:
    return linalg.gram(leaves, num_tasks)

  def combine(leaves: Leaves) -> Leaves:
    return linalg.combine(leaves, jnp.arange(1.0, num_tasks + 1))

  def both(leaves: Leaves) -> Leaves:
    weights = 1 / (1 + jnp.sum(jnp.abs(gram(leaves)), axis=1))
    return linalg.combine(leaves, weights / jnp.sum(weights))

  return {"gram": gram, "combine": combine, "both": both}
