"""Stacked gradients of the shared trunk alone; the heads by one pullback."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import linalg
from optax_mtl.sources import masks
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.task_gradients import TaskGradients


class TrunkTaskGradients(TaskGradients):
  """Gradients of the trunk, stacked, and of the heads, computed when asked for.

  A head has the gradient of one task, so to stack it is to store T - 1 times
  nothing. Here the heads are pulled back once, with all tasks' weights.

  Attributes:
    trunk: The trunk's leaves, each [T, *param.shape].
    pull_heads: Function from weights [T], and a mask [T] of tasks that are kept
      or None, to the heads' leaves, combined.
    map_heads: Function that maps a function over the tasks' gradients of the
      heads, each a list of leaves, and stacks the results.
  """

  def __init__(
    self,
    trunk: list[jax.Array],
    pull_heads: Callable[[jax.Array, jax.Array | None], list[jax.Array]],
    map_heads: Callable[[Callable[[list[jax.Array]], Any]], Any],
    params_like: Any,
    num_tasks: int,
    *,
    shared: Any,
    names: tuple[str, ...] | None = None,
    heads: Heads = "sum",
  ):
    """See the attributes."""
    super().__init__(num_tasks, names=names, shared=shared, heads=heads)
    self.trunk = trunk
    self.pull_heads = pull_heads
    self.map_heads = map_heads
    self._params_like = params_like

  @property
  def params_like(self) -> Any:
    """As in `TaskGradients`."""
    return self._params_like

  def finite(self) -> jax.Array:
    """As in `TaskGradients`."""
    fine = linalg.finite(self.trunk, self.num_tasks)
    return fine & self.map_heads(linalg.tree_finite)

  def stacked(self) -> Any:
    """As in `TaskGradients`."""
    return self._join(self.trunk, self.map_heads(lambda row: row))

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

  def _gradient_of(self, task: jax.Array) -> Any:
    alone = jnp.arange(self.num_tasks, dtype=jnp.int32) == task
    heads = []
    if not all(self._flags()):
      heads = self.pull_heads(self._ones(alone), alone)
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
    heads = [] if all(self._flags()) else self.pull_heads(head_weights, keep)
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
