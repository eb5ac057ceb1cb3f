"""A function of many tasks' rows: all at once, in chunks or one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _jax_internals
from optax_mtl.sources import miscompiled


def check_chunk_size(chunk_size: Any, of: str = "tasks") -> None:
  """Raises unless `chunk_size` is None or a positive int."""
  if chunk_size is not None and (
    isinstance(chunk_size, bool)
    or not isinstance(chunk_size, int)
    or chunk_size < 1
  ):
    raise ValueError(
      f"chunk_size must be None or a positive int, the number of {of} to "
      f"differentiate at once; got {chunk_size!r}."
    )


def after(results: Any, tree: Any) -> Any:
  """The tree, in a form that is not there before the results are.

  By data that a compiler cannot see through: `optimization_barrier` is gone on
  CPU before the order of a program is decided.

  Args:
    results: Tree of arrays, which may hold NaN.
    tree: Tree of arrays.

  Returns:
    The tree, with the same values.
  """
  never = jnp.zeros((), jnp.bool_)
  for leaf in jax.tree.leaves(results):
    if leaf.size:
      first = jnp.real(_jax_internals.first(leaf)).astype(jnp.float32)
      never |= jnp.isnan(first) & (first == 0)
  return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), tree)


def at_once(fun: Callable[[Any], Any], rows: Any) -> Any:
  """`fun` of each row, side by side where the compiler can be trusted."""
  if miscompiled.batches_wrongly():
    return jax.lax.platform_dependent(
      rows,
      cpu=lambda rows: jax.lax.map(fun, rows),
      default=jax.vmap(fun),
    )
  return jax.vmap(fun)(rows)


def map_rows(
  fun: Callable[[Any], Any], rows: Any, chunk_size: int | None
) -> Any:
  """`fun` of each row, `chunk_size` of them at once.

  Args:
    fun: A function of one row that returns a pytree.
    rows: A pytree with leaves [T, ...].
    chunk_size: How many rows to take at once. None is all, but on CPU one: what
      is computed for many tasks side by side does not fit the cache, and often
      comes out transposed, so that XLA copies all of it into place.

  Returns:
    The results, stacked: a tree with leaves [T, ...].
  """

  def in_turn(rows: Any) -> Any:
    return jax.lax.map(fun, rows)

  if chunk_size == 1:
    return in_turn(rows)
  if chunk_size is None:
    return jax.lax.platform_dependent(rows, cpu=in_turn, default=jax.vmap(fun))
  if chunk_size >= jax.tree.leaves(rows)[0].shape[0]:
    return at_once(fun, rows)  # no loop of one trip, nor one of none

  def in_chunks(rows: Any) -> Any:
    return _in_chunks(fun, rows, chunk_size)

  if miscompiled.batches_wrongly():
    return jax.lax.platform_dependent(rows, cpu=in_turn, default=in_chunks)
  return in_chunks(rows)


def _in_chunks(fun: Callable[[Any], Any], rows: Any, size: int) -> Any:
  """`jax.lax.map` with a `batch_size`, which fails where a result is empty."""
  total = jax.tree.leaves(rows)[0].shape[0]
  whole = total // size * size

  def split(leaf: jax.Array) -> jax.Array:
    return leaf[:whole].reshape(whole // size, size, *leaf.shape[1:])

  def join(leaf: jax.Array) -> jax.Array:
    return leaf.reshape(whole, *leaf.shape[2:])

  chunks = jax.lax.map(jax.vmap(fun), jax.tree.map(split, rows))
  results = jax.tree.map(join, chunks)
  if whole == total:
    return results
  rest = jax.vmap(fun)(jax.tree.map(lambda leaf: leaf[whole:], rows))
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), results, rest)
