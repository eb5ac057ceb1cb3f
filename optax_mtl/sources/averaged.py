"""Task gradients that are means over devices, each with its part of a batch.

In `shard_map` and `pmap` a device has its own part of the batch, and the loss
there is the mean over that part. What a method has to see is the gradients of
the mean over all devices: weights that each device computes from its own
gradients differ, and the replicas drift apart.

Where gradients are stored, they are averaged. Where they are not, all that is
made of them is: with `J` a device's own Jacobian, column t of the Gram matrix
is `J m`, averaged, with `m` the average of `Jᵀ e_t`. So the devices exchange
one gradient for each that they pull back, and [T] numbers a column.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax

from optax_mtl import _jax_internals
from optax_mtl.sources.at_representation import AtRepresentation
from optax_mtl.sources.pullbacks import UnstoredTaskGradients
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.sources.trunk import HeadGradients, TrunkTaskGradients

#: One or several named axes.
AxisName = str | tuple[str, ...]


class Axes:
  """The named axes over which losses and gradients are averaged; or none.

  Attributes:
    names: The names.
  """

  def __init__(self, axis_name: AxisName | None):
    """See the attributes."""
    if axis_name is None:
      axis_name = ()
    self.names = (axis_name,) if isinstance(axis_name, str) else axis_name

  def spread(self, tree: Any) -> Any:
    """The tree with a copy on each device, to be differentiated there.

    Of what is the same on all devices, `shard_map` sums derivatives over the
    devices by itself.
    """
    if not self.names:
      return tree
    axes = frozenset(self.names)
    return jax.tree.map(
      lambda x: _jax_internals.vary_in_shard_map(x, axes), tree
    )

  def losses(self, losses: Any, params: Any) -> Any:
    """The mean of the losses.

    Args:
      losses: Tree of arrays, as they are on each device.
      params: The params that they are of, as `spread` returned them.

    Raises:
      ValueError: The losses differ between devices over which nobody averages
        them, or are averaged already. Neither can be told where types do not
        say over what an array varies.
    """
    of_each = [_jax_internals.varying_axes(x) for x in jax.tree.leaves(losses)]
    of_params = frozenset[str]().union(
      *map(_jax_internals.varying_axes, jax.tree.leaves(params))
    )
    for name in sorted(frozenset[str]().union(*of_each) - of_params):
      raise ValueError(
        f"The losses differ between the devices of the axis {name!r}, each of "
        "the batch's part there. JAX would sum their gradients over the "
        f"devices, and not the losses. Pass axis_name={name!r} to the source "
        "for the means of both over the devices; or make the losses the same "
        f"on all of them, with jax.lax.pmean or psum(..., {name!r}) inside the "
        "loss function."
      )
    for name in self.names:
      if name in of_params and not all(name in axes for axes in of_each):
        raise ValueError(
          f"The losses are the same on all devices of the axis {name!r} "
          f"already, and axis_name={name!r} would average them again. Return "
          "the losses of each device's own part of the batch, or leave "
          "axis_name= out."
        )
    return self.mean(losses)

  def mean(self, tree: Any) -> Any:
    """The mean of a tree of floating-point arrays over the devices."""
    return jax.lax.pmean(tree, self.names) if self.names else tree

  def of(self, gradients: Any) -> Any:
    """The means of task gradients; of a plain tree, a plain tree."""
    if not self.names:
      return gradients
    if not isinstance(gradients, TaskGradients):
      return self.mean(gradients)
    if isinstance(gradients, TrunkTaskGradients):
      return TrunkTaskGradients(
        self.mean(gradients.trunk),
        _AveragedHeads(gradients.head_gradients, self),
        gradients.params_like,
        gradients.num_tasks,
        shared=gradients.shared,
        names=gradients.names,
        heads=gradients.heads,
        present=gradients.present,
      )
    if not gradients.at_params:
      return _AveragedAtRepresentation(gradients, self)
    return AveragedTaskGradients(gradients, self)


class _AveragedHeads(HeadGradients):
  """Heads' gradients, averaged after they are combined."""

  def __init__(self, local: HeadGradients, axes: Axes):
    self._local = local
    self._axes = axes

  def combine(
    self, weights: jax.Array, keep: jax.Array | None
  ) -> list[jax.Array]:
    weights, keep = self._axes.spread((weights, keep))
    return self._axes.mean(self._local.combine(weights, keep))

  def map_rows(self, fun: Callable[[list[jax.Array]], Any]) -> Any:
    return self._local.map_rows(lambda row: fun(self._axes.mean(row)))

  def gradient_of(self, task: jax.Array | int) -> list[jax.Array]:
    return self._axes.mean(self._local.gradient_of(self._axes.spread(task)))


class AveragedTaskGradients(UnstoredTaskGradients):
  """The means over devices of gradients that are not stored.

  Attributes:
    local: A device's own.
    axes: The axes over which the devices differ.
  """

  def __init__(self, local: TaskGradients, axes: Axes):
    """See the attributes."""
    super().__init__(
      local.num_tasks,
      local.params_like,
      names=local.names,
      shared=local.shared,
      heads=local.heads,
      present=local.present,
    )
    self.local = local
    self.axes = axes

  def stacked(self) -> Any:
    """As in `TaskGradients`; all tasks are averaged at once."""
    return self.axes.mean(self.local.stacked())

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    columns = self._map_rows(lambda row: self._project(row, mask), mask)
    # Column t and row t are the same number up to rounding; a solver may rely
    # on their being equal.
    return (columns + columns.T) / 2

  def _gradient_of(self, task: jax.Array | int) -> Any:
    return self.axes.mean(self.local._gradient_of(task))

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    same = head_weights is weights
    weights, head_weights, keep = self.axes.spread(
      (weights, head_weights, keep)
    )
    head_weights = weights if same else head_weights
    return self.axes.mean(
      self.local._combine(weights, mask, head_weights, keep)
    )

  def _map_rows(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    return self.local._map_rows(lambda row: fun(self.axes.mean(row)), mask)

  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    products = self.local._project(self.axes.spread(gradient), mask)
    return self.axes.mean(products)


class _AveragedAtRepresentation(AveragedTaskGradients):
  """The same for gradients at a representation.

  The representation of the whole batch lies in parts on n devices, and the mean
  loss's gradient there is, on each, one n-th of the local loss's.
  """

  at_params = False

  def _measured(self, shared: Any, name: str) -> list[bool] | None:
    return self.local._measured(shared, name)

  def _number(self) -> int:
    return jax.lax.psum(1, self.axes.names)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return self.axes.mean(self.local._gram(mask)) / self._number()

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    return self.axes.mean(self.local._squared_norms(mask)) / self._number()

  def _map_measured(
    self,
    fun: Callable[[list[jax.Array]], Any],
    mask: Sequence[bool] | None,
  ) -> Any:
    self._refuse_entries()

  def at_representation(self) -> AtRepresentation | None:
    self._refuse_entries()

  def _refuse_entries(self) -> NoReturn:
    raise TypeError(
      "This method looks at the entries of each task's gradient at the "
      "representation, which lies in parts on several devices (axis_name="
      f"{self.axes.names}). Use a method that reads the Gram matrix, or "
      "value_and_task_grads, whose gradients are at the params."
    )
