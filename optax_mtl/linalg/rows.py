"""Trees with a row for each task: new ones, choosing, numbers for each row."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

_Tree = TypeVar("_Tree")


def zeros(num_rows: int, leaf: ArrayLike, dtype: DTypeLike) -> jax.Array:
  """Rows of zeros for a leaf, spread over the devices as the leaf is.

  Args:
    num_rows: The number of rows n.
    leaf: Array [*shape].
    dtype: The dtype of the zeros.

  Returns:
    Array [n, *shape]. Where shardings are part of types the one has the type of
    the other; where an array is at hand and not a tracer it lies where that
    lies.
  """
  row = jnp.zeros_like(leaf, dtype)
  return jnp.broadcast_to(row[None], (num_rows, *row.shape))


def beside(values: jax.Array, leaf: Any) -> jax.Array:
  """Values [T] with the axes that broadcast them along a leaf [T, ...]."""
  return values.reshape((-1,) + (1,) * (leaf.ndim - 1))


def choose(mask: jax.Array, new: _Tree, old: _Tree | None = None) -> _Tree:
  """The rows of `new` where a mask says so, elsewhere those of `old`.

  Args:
    mask: Array [T] of bool.
    new: Tree of arrays [T, ...]. What is not chosen may be NaN.
    old: Tree like `new`. None: zeros.

  Returns:
    A tree like `new`.
  """

  def pick(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(beside(mask, new), new, old)

  if old is None:
    old = jax.tree.map(jnp.zeros_like, new)
  return jax.tree.map(pick, new, old)
