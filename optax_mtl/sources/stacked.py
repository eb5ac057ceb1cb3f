"""Task gradients that are a plain tree, and how updates are read as such."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks, _jax_internals, linalg
from optax_mtl.sources import masks
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.task_gradients import TaskGradients


class StackedTaskGradients(TaskGradients):
  """A plain tree with leaves [T, *param.shape].

  Attributes:
    tree: The tree.
  """

  def __init__(
    self,
    tree: Any,
    num_tasks: int,
    *,
    names: tuple[str, ...] | None = None,
    shared: Any = None,
    heads: Heads = "sum",
    present: tuple[bool, ...] | None = None,
  ):
    """See the attributes."""
    super().__init__(
      num_tasks, names=names, shared=shared, heads=heads, present=present
    )
    self.tree = tree

  @property
  def params_like(self) -> Any:
    """As in `TaskGradients`."""
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.tree
    )

  def finite(self) -> jax.Array:
    """As in `TaskGradients`."""
    return linalg.finite(self.tree, self.num_tasks)

  def stacked(self) -> Any:
    """As in `TaskGradients`."""
    return self.tree

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return linalg.gram(masks.pick(mask, self.tree), self.num_tasks)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    return linalg.squared_norms(masks.pick(mask, self.tree), self.num_tasks)

  def _gradient_of(self, task: jax.Array | int) -> Any:
    return masks.row(self.tree, task)

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    leaves, structure = jax.tree.flatten(self.tree)
    flags = [True] * len(leaves) if mask is None else mask
    out = [
      linalg.combine(leaf, weights if shared else head_weights, keep)
      for leaf, shared in zip(leaves, flags, strict=True)
    ]
    return jax.tree.unflatten(structure, out)

  def _map_rows(self, fun: Any, mask: Sequence[bool] | None) -> Any:
    return masks.map_rows(fun, masks.pick(mask, self.tree), self.num_tasks)

  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    rows = masks.pick(mask, self.tree)
    return linalg.project(rows, gradient, self.num_tasks)

  def _cross_gram(
    self, other: TaskGradients, mask: Sequence[bool] | None
  ) -> jax.Array:
    if not isinstance(other, StackedTaskGradients):
      return super()._cross_gram(other, mask)
    return linalg.cross_gram(
      masks.pick(mask, self.tree),
      masks.pick(mask, other.tree),
      self.num_tasks,
    )


def as_task_gradients(
  updates: Any, num_tasks: int | None, params: Any = None
) -> TaskGradients:
  """Reads what came as `updates`: a source, or a tree of stacked gradients.

  Args:
    updates: A `TaskGradients`, or a tree with leaves [T, *param.shape].
    num_tasks: The number of tasks T. None: what the source says, or the length
      of the leaves' first axis.
    params: The params, if known: the shapes are compared with theirs.

  Returns:
    Task gradients.

  Raises:
    TypeError: A leaf of the tree is not an array.
    ValueError: The number of tasks or a shape is another, the number cannot be
      read off a tree without leaves, or on an explicit mesh the tasks are
      spread over devices.
  """
  if isinstance(updates, TaskGradients):
    if num_tasks is not None and updates.num_tasks != num_tasks:
      tasks = f" ({', '.join(updates.names)})" if updates.names else ""
      raise ValueError(
        f"The task gradients are of {updates.num_tasks} tasks{tasks}, but the "
        f"method was built with num_tasks={num_tasks}."
      )
    return updates
  if num_tasks is None:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(updates)]
    if not shapes:
      raise ValueError(
        "The task gradients are a tree without leaves, off which the number of "
        "tasks cannot be read."
      )
    # A scalar leaf has no task axis: check_stacked names it and says so.
    num_tasks = next((shape[0] for shape in shapes if shape), 1)
  _checks.check_stacked(updates, num_tasks, params)
  _check_rows_are_whole(updates)
  return StackedTaskGradients(updates, num_tasks)


def _check_rows_are_whole(updates: Any) -> None:
  """Raises if a type says that the tasks' gradients lie on several devices."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
    axis = _jax_internals.spread_first_axis(leaf)
    if axis is not None:
      raise ValueError(
        f"{_checks.leaf_name(path)} of the task gradients has its tasks spread "
        f"over the mesh axis {axis!r}. A method needs those of all tasks side "
        "by side: spread another axis, jax.reshard(grads, PartitionSpec(None, "
        f"{axis!r})), so that each device has a part of every gradient."
      )
