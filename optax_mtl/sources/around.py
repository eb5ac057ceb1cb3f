"""Task gradients that are others', but for what a subclass makes of them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from optax_mtl.sources.task_gradients import AtRepresentation, TaskGradients


class AroundTaskGradients(TaskGradients):
  """The same gradients: everything is asked of `inner`.

  Attributes:
    inner: Whose gradients they are.
  """

  def __init__(self, inner: TaskGradients):
    """See the attributes."""
    super().__init__(
      inner.num_tasks,
      names=inner.names,
      shared=inner.shared,
      heads=inner.heads,
      present=inner.present,
    )
    self.at_params = inner.at_params
    self.inner = inner

  @property
  def params_like(self) -> Any:
    """As in `TaskGradients`."""
    return self.inner.params_like

  def at_representation(self) -> AtRepresentation | None:
    """As in `TaskGradients`."""
    return self.inner.at_representation()

  def finite(self) -> jax.Array:
    """As in `TaskGradients`."""
    return self.inner.finite()

  def stacked(self) -> Any:
    """As in `TaskGradients`."""
    return self.inner.stacked()

  def _measured(self, shared: Any, name: str) -> list[bool] | None:
    if self.at_params:
      return super()._measured(shared, name)
    return self.inner._measured(shared, name)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return self.inner._gram(mask)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    return self.inner._squared_norms(mask)

  def _gradient_of(self, task: jax.Array | int) -> Any:
    return self.inner._gradient_of(task)

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    return self.inner._combine(weights, mask, head_weights, keep)

  def _map_rows(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    return self.inner._map_rows(fun, mask)

  def _map_measured(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    return self.inner._map_measured(fun, mask)

  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    return self.inner._project(gradient, mask)

  def _cross_gram(
    self, other: TaskGradients, mask: Sequence[bool] | None
  ) -> jax.Array:
    return self.inner._cross_gram(other, mask)


class MeasuredTaskGradients(AroundTaskGradients):
  """Task gradients whose Gram matrix is known, and not computed again.

  Inside of a branch too: an equal product in a branch or a loop is one that the
  compiler computes a second time.
  """

  def __init__(self, inner: TaskGradients):
    """Computes the Gram matrix, over the trunk."""
    super().__init__(inner)
    self._mask = inner._measured(None, "shared")
    self._known = inner._gram(self._mask)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return self._known if mask == self._mask else self.inner._gram(mask)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    if mask == self._mask:
      return self._known.diagonal()
    return self.inner._squared_norms(mask)
