"""Which leaves of the params are the shared trunk."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optax_mtl import _checks, _jax_internals

#: What the leaves outside the trunk get: the sum of the tasks' gradients, or
#: the weighted sum that the trunk gets.
Heads = Literal["sum", "weighted"]


def trunk_of(shared: Any, params: Any) -> Any:
  """The trunk that a source was told with `shared=`, a tree of bools or None.

  Raises:
    TypeError: A leaf of the mask is not a bool.
    ValueError: The mask is no prefix of the params, or matches no leaf.
  """
  if shared is None:
    return None
  return _checks.resolve_mask(shared, params, "shared")


def check_within(mask: Any, trunk: Any, name: str) -> None:
  """Raises if a mask selects a leaf that is not of the trunk.

  Args:
    mask: A tree of bools.
    trunk: A tree of bools of the same structure.
    name: What to call the mask in an error.

  Raises:
    ValueError: It does.
  """
  chosen = jax.tree_util.tree_leaves_with_path(mask)
  for (path, wanted), within in zip(
    chosen, jax.tree.leaves(trunk), strict=True
  ):
    if wanted and not within:
      raise ValueError(
        f"{name}= selects {_checks.leaf_name(path)}, which is not in the "
        "shared trunk that the task gradients were told with shared=: choose "
        "among the trunk's leaves."
      )


def pick(mask: Sequence[bool] | None, tree: Any) -> list[Any]:
  """The leaves that the mask, one bool a leaf, selects; None: all."""
  return pick_leaves(mask, jax.tree.leaves(tree))


def pick_leaves(
  mask: Sequence[bool] | None, leaves: Sequence[Any]
) -> list[Any]:
  """As `pick`, of leaves some of which may be None."""
  if mask is None:
    return list(leaves)
  return [leaf for leaf, keep in zip(leaves, mask, strict=True) if keep]


# Jitted so that leaves of one shape are traced and lowered once.
@jax.jit
def _row(leaf: jax.Array, task: jax.Array | int) -> jax.Array:
  return jax.lax.dynamic_index_in_dim(
    leaf, task, keepdims=False, allow_negative_indices=False
  )


def row(tree: Any, task: jax.Array | int) -> Any:
  """One task's leaves of a tree with leaves [T, ...], by its number from 0."""
  return jax.tree.map(lambda leaf: _row(leaf, task), tree)


def map_rows(
  fun: Callable[[list[jax.Array]], Any], leaves: list[jax.Array], num_tasks: int
) -> Any:
  """`fun` of each task's leaves, one after another; there may be none."""
  tasks = jnp.arange(num_tasks)
  return jax.lax.map(lambda row: fun(row[0]), (leaves, tasks))


def merge(mask: Sequence[bool], trunk: Sequence[Any], tree: Any) -> Any:
  """The tree, with the leaves that the mask selects taken from `trunk`."""
  leaves, structure = jax.tree.flatten(tree)
  new = iter(trunk)
  out = [
    next(new) if keep else leaf for leaf, keep in zip(leaves, mask, strict=True)
  ]
  return jax.tree.unflatten(structure, out)


def put(mask: Sequence[bool] | None, picked: Sequence[Any], like: Any) -> Any:
  """A tree like `like`, `picked` where the mask is True and 0 elsewhere."""
  leaves, structure = jax.tree.flatten(like)
  if mask is None:
    return jax.tree.unflatten(structure, picked)
  zeros = [_jax_internals.zeros(leaf) for leaf in leaves]
  return merge(mask, picked, jax.tree.unflatten(structure, zeros))
