"""The leaves that count for an update rule: the trunk's, if there is one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import linalg
from optax_mtl._dtypes import wide
from optax_mtl._step import Step
from optax_mtl.sources import masks


def in_trunk(step: Step) -> list[bool] | None:
  """One bool a leaf, whether it is the trunk's; None: all are."""
  shared = step.gradients.shared
  return None if shared is None else jax.tree.leaves(shared)


def trunk_of(step: Step, tree: Any) -> list[Any]:
  """The leaves of a tree like the params that are the trunk's."""
  return masks.pick(in_trunk(step), tree)


def trunk_rows(step: Step) -> list[jax.Array]:
  """The gradients at the trunk's leaves, [T, *shape], 0 for absent tasks."""
  leaves = trunk_of(step, step.gradients.stacked())
  return [step.only_active(leaf) for leaf in leaves]


def as_update(step: Step, leaves: Sequence[jax.Array]) -> Any:
  """An update like the params of new trunk's leaves, in the gradients' dtypes.

  Args:
    step: The step.
    leaves: The trunk's leaves [*shape].

  Returns:
    A tree like the params, 0 outside the trunk.
  """
  mask, like = in_trunk(step), step.gradients.params_like
  picked = zip(leaves, trunk_of(step, like), strict=True)
  return masks.put(mask, [x.astype(p.dtype) for x, p in picked], like)


def replaced(step: Step, leaves: Sequence[jax.Array], tree: Any) -> Any:
  """A tree of a memory with new leaves in the trunk; the others stay."""
  mask = in_trunk(step)
  whole = [True] * len(jax.tree.leaves(tree)) if mask is None else mask
  return masks.merge(whole, leaves, tree)


def zero_rows(num_tasks: int, params: Any) -> Any:
  """A gradient of zeros for each task, in the solver's precision.

  Args:
    num_tasks: The number of tasks `T`.
    params: The params.

  Returns:
    A tree with leaves [T, *param.shape], spread over devices as the params are.
  """

  def zeros(param: Any) -> jax.Array:
    leaf = wide(jnp.asarray(param))
    return linalg.zeros(num_tasks, leaf, leaf.dtype)

  return jax.tree.map(zeros, params)
