"""Stacked gradients of the shared trunk alone; the heads by one pullback."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _jax_internals, linalg
from optax_mtl.sources import masks
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.stacked import StackedTaskGradients
from optax_mtl.sources.task_gradients import TaskGradients


class HeadGradients(abc.ABC):
  """The tasks' gradients of the heads, each a list of leaves, never stacked."""

  @abc.abstractmethod
  def combine(
    self, weights: jax.Array, keep: jax.Array | None
  ) -> list[jax.Array]:
    """Their sum with weights [T], of the tasks that a mask [T] keeps."""

  @abc.abstractmethod
  def map_rows(self, fun: Callable[[list[jax.Array]], Any]) -> Any:
    """`fun` of each task's, results [T, ...]."""

  @abc.abstractmethod
  def gradient_of(self, task: jax.Array | int) -> list[jax.Array]:
    """One task's; `task` an int or a scalar int32."""


#: A gradient's leaves; None where it is known to be zero.
Row = Sequence[jax.Array | None]


def stack_rows(rows: Sequence[Row], like: Sequence[Any]) -> list[jax.Array]:
  """Leaves [T, ...] of T rows; `like` has the leaves' shapes and dtypes."""
  return [
    jnp.stack([fill(leaf, example) for leaf in column])
    for column, example in zip(zip(*rows, strict=True), like, strict=True)
  ]


def fill(leaf: jax.Array | None, like: Any) -> jax.Array:
  """The leaf, or zeros where it is None."""
  return _jax_internals.zeros(like) if leaf is None else leaf


def combine_column(
  column: Row, weights: jax.Array, keep: jax.Array | None
) -> jax.Array | None:
  """One leaf's weighted sum over the tasks; None where all know it to be zero.

  Args:
    column: The leaf of each task.
    weights: Array [T].
    keep: Array [T] of bool, which tasks take part. None: all.

  Returns:
    The sum.
  """
  tasks = [t for t, x in enumerate(column) if x is not None]
  if not tasks:
    return None
  return linalg.combine(
    jnp.stack([x for x in column if x is not None]),
    jnp.stack([weights[t] for t in tasks]),
    None if keep is None else jnp.stack([keep[t] for t in tasks]),
  )


class OwnHeads(HeadGradients):
  """Heads whose gradients came with each task's own backward pass.

  Attributes:
    rows: The tasks' gradients. A head that one task reads is one leaf in one of
      them, so nothing is stored that is not needed.
    like: The leaves' shapes and dtypes.
  """

  def __init__(self, rows: Sequence[Row], like: Sequence[Any]):
    """See the attributes."""
    self.rows = rows
    self.like = like

  def combine(
    self, weights: jax.Array, keep: jax.Array | None
  ) -> list[jax.Array]:
    """As in `HeadGradients`."""
    columns = zip(*self.rows, strict=True)
    return [
      fill(combine_column(column, weights, keep), like)
      for column, like in zip(columns, self.like, strict=True)
    ]

  def map_rows(self, fun: Callable[[list[jax.Array]], Any]) -> Any:
    """As in `HeadGradients`."""
    results = [
      fun([fill(*pair) for pair in zip(row, self.like, strict=True)])
      for row in self.rows
    ]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *results)

  def gradient_of(self, task: jax.Array | int) -> list[jax.Array]:
    """As in `HeadGradients`."""
    chosen = [fill(None, like) for like in self.like]
    for t, row in enumerate(self.rows):
      chosen = [
        old if leaf is None else jnp.where(task == t, leaf, old)
        for leaf, old in zip(row, chosen, strict=True)
      ]
    return chosen


class TrunkTaskGradients(TaskGradients):
  """Gradients of the trunk, stacked, and of the heads, which are not.

  A head has the gradient of one task, so to stack it is to store T - 1 times
  nothing.

  Attributes:
    trunk: The trunk's leaves, each [T, *param.shape].
    head_gradients: The heads' gradients.
  """

  def __init__(
    self,
    trunk: list[jax.Array],
    head_gradients: HeadGradients,
    params_like: Any,
    num_tasks: int,
    *,
    shared: Any,
    names: tuple[str, ...] | None = None,
    heads: Heads = "sum",
    present: tuple[bool, ...] | None = None,
  ):
    """See the attributes."""
    super().__init__(
      num_tasks, names=names, shared=shared, heads=heads, present=present
    )
    self.trunk = trunk
    self.head_gradients = head_gradients
    self._params_like = params_like

  @property
  def params_like(self) -> Any:
    """As in `TaskGradients`."""
    return self._params_like

  def finite(self) -> jax.Array:
    """As in `TaskGradients`."""
    fine = linalg.finite(self.trunk, self.num_tasks)
    return fine & self.head_gradients.map_rows(linalg.tree_finite)

  def stacked(self) -> Any:
    """As in `TaskGradients`."""
    heads = self.head_gradients.map_rows(lambda row: row)
    return self._join(self.trunk, heads)

  def _flags(self) -> list[bool]:
    return jax.tree.leaves(self.shared)

  def _join(self, trunk: Sequence[Any], heads: Sequence[Any]) -> Any:
    """The whole tree from the leaves of the trunk and of the heads."""
    of_trunk, of_heads = iter(trunk), iter(heads)
    leaves = [next(of_trunk if f else of_heads) for f in self._flags()]
    return jax.tree.unflatten(jax.tree.structure(self._params_like), leaves)

  def _within_trunk(self, mask: Sequence[bool] | None) -> list[bool]:
    """The mask, which selects leaves of the trunk, as one on the trunk."""
    flags = self._flags()
    mask = [True] * len(flags) if mask is None else mask
    return [m for m, within in zip(mask, flags, strict=True) if within]

  def _rows(self, mask: Sequence[bool] | None) -> list[jax.Array]:
    return masks.pick(self._within_trunk(mask), self.trunk)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return linalg.gram(self._rows(mask), self.num_tasks)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    return linalg.squared_norms(self._rows(mask), self.num_tasks)

  def _gradient_of(self, task: jax.Array | int) -> Any:
    heads = []
    if not all(self._flags()):
      heads = self.head_gradients.gradient_of(task)
    return self._join(masks.row(self.trunk, task), heads)

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    trunk = [
      linalg.combine(leaf, weights if shared else head_weights, keep)
      for leaf, shared in zip(self.trunk, self._within_trunk(mask), strict=True)
    ]
    heads = []
    if not all(self._flags()):
      heads = self.head_gradients.combine(head_weights, keep)
    return self._join(trunk, heads)

  def _map_rows(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    return masks.map_rows(fun, self._rows(mask), self.num_tasks)

  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    return linalg.project(self._rows(mask), gradient, self.num_tasks)

  def _cross_gram(
    self, other: TaskGradients, mask: Sequence[bool] | None
  ) -> jax.Array:
    if not isinstance(other, TrunkTaskGradients):
      return super()._cross_gram(other, mask)
    return linalg.cross_gram(
      self._rows(mask), other._rows(mask), self.num_tasks
    )


def from_rows(
  rows: Sequence[Row],
  params_like: Any,
  *,
  names: tuple[str, ...] | None,
  shared: Any,
  heads: Heads,
  present: tuple[bool, ...] | None = None,
) -> StackedTaskGradients | TrunkTaskGradients:
  """Task gradients of rows that were computed one by one.

  Args:
    rows: T gradients, each a list of leaves.
    params_like: A tree of the params' shapes and dtypes.
    names: As in `TaskGradients`, as what follows.
    shared: The trunk, a tree of bools, or None.
    heads: "sum" or "weighted".
    present: Which tasks are there, or None: all.

  Returns:
    Everything stacked, or the trunk alone if there is one.
  """
  facts: dict[str, Any] = {
    "names": names,
    "shared": shared,
    "heads": heads,
    "present": present,
  }
  like, structure = jax.tree.flatten(params_like)
  if shared is None:
    tree = jax.tree.unflatten(structure, stack_rows(rows, like))
    return StackedTaskGradients(tree, len(rows), **facts)
  in_trunk = jax.tree.leaves(shared)
  in_heads = [not flag for flag in in_trunk]
  trunk = stack_rows(
    [masks.pick_leaves(in_trunk, row) for row in rows],
    masks.pick_leaves(in_trunk, like),
  )
  own = OwnHeads(
    [masks.pick_leaves(in_heads, row) for row in rows],
    masks.pick_leaves(in_heads, like),
  )
  return TrunkTaskGradients(trunk, own, params_like, len(rows), **facts)
