"""Task gradients, each times a number of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import linalg
from optax_mtl.sources import masks
from optax_mtl.sources.around import AroundTaskGradients
from optax_mtl.sources.at_representation import AtRepresentation
from optax_mtl.sources.task_gradients import TaskGradients


class ScaledTaskGradients(AroundTaskGradients):
  """The gradients of `s_i L_i`, by those of `L_i`, wherever these come from.

  Attributes:
    inner: The gradients of `L_i`.
    scales: Array [T], `s`.
  """

  def __init__(self, inner: TaskGradients, scales: jax.Array):
    """See the attributes."""
    super().__init__(inner)
    self.scales = scales

  def at_representation(self) -> AtRepresentation | None:
    """As in `TaskGradients`."""
    inner = self.inner.at_representation()
    if inner is None:
      return None

    def pull_back(at_z: Any, weights: jax.Array, keep: jax.Array | None) -> Any:
      return inner.pull_back(at_z, weights * self._scales_of(keep), keep)

    return AtRepresentation(
      inner.values, self._scaled_rows(inner.gradients), pull_back
    )

  def finite(self) -> jax.Array:
    """As in `TaskGradients`."""
    return self.inner.finite() & jnp.isfinite(self.scales)

  def stacked(self) -> Any:
    """As in `TaskGradients`."""
    return self._scaled_rows(self.inner.stacked())

  def _scaled_rows(self, rows: Any) -> Any:
    """A tree with leaves [T, ...], each row times its task's scale."""

    def scale(leaf: jax.Array) -> jax.Array:
      factors = linalg.beside(self.scales, leaf)
      return linalg.scaled(leaf, factors)

    return jax.tree.map(scale, rows)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return self._both_sides(self.inner._gram(mask), self.scales)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    # One after the other, so that no square over- or underflows by itself.
    return self.inner._squared_norms(mask) * self.scales * self.scales

  def _gradient_of(self, task: jax.Array | int) -> Any:
    return jax.tree.map(
      lambda leaf: linalg.scaled(leaf, self.scales[task]),
      self.inner._gradient_of(task),
    )

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    scales = self._scales_of(keep)
    return self.inner._combine(
      weights * scales, mask, head_weights * scales, keep
    )

  def _scales_of(self, keep: jax.Array | None) -> jax.Array:
    """The scales; 1 for a task that is left out, whose own may be NaN."""
    if keep is None:
      return self.scales
    return jnp.where(keep, self.scales, jnp.ones_like(self.scales))

  def _map_rows(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    # A function of one gradient does not know which task's it is: what is
    # mapped over are the scaled gradients, stacked.
    rows = self.inner._map_rows(lambda row: row, mask)
    return masks.map_rows(fun, self._scaled_rows(rows), self.num_tasks)

  def _map_measured(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    rows = self.inner._map_measured(lambda row: row, mask)
    return masks.map_rows(fun, self._scaled_rows(rows), self.num_tasks)

  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    return self.inner._project(gradient, mask) * self.scales

  def _cross_gram(
    self, other: TaskGradients, mask: Sequence[bool] | None
  ) -> jax.Array:
    columns = jnp.ones_like(self.scales)
    if isinstance(other, ScaledTaskGradients):
      other, columns = other.inner, other.scales
    return self._both_sides(self.inner._cross_gram(other, mask), columns)

  def _both_sides(self, matrix: jax.Array, columns: jax.Array) -> jax.Array:
    """The matrix [T, T], its rows times the scales, and its columns."""
    return matrix * self.scales[:, None] * columns[None, :]
