"""Task gradients whose inner products are taken at a representation."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _jax_programs, linalg
from optax_mtl.sources import masks, pullbacks, units
from optax_mtl.sources.at_representation import AtRepresentation
from optax_mtl.sources.backward import row_of
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.sources.trunk import (
  OwnHeads,
  Row,
  combine_column,
  fill,
  stack_rows,
)


class _AtRepresentation(TaskGradients):
  """Gradients at the trunk's output; the combination runs to the params.

  The Gram matrix is the one at the representation, whichever leaves are shared.
  """

  at_params = False

  @abc.abstractmethod
  def _at_z(self) -> list[jax.Array]:
    """The gradients at the representation, leaves [T, ...]."""

  def _measured(self, shared: Any, name: str) -> list[bool] | None:
    if shared is not None:
      raise ValueError(
        f"{name}= chooses among the params' leaves, but with the "
        "representation source the Gram matrix is taken at the "
        f"representation. Leave {name}= out, or use another source."
      )
    return None

  def _map_measured(
    self,
    fun: Callable[[list[jax.Array]], Any],
    mask: Sequence[bool] | None,
  ) -> Any:
    del mask
    return masks.map_rows(fun, self._at_z(), self.num_tasks)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    del mask
    return linalg.gram(self._at_z(), self.num_tasks)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    del mask
    return linalg.squared_norms(self._at_z(), self.num_tasks)


class ApartTaskGradients(_AtRepresentation, pullbacks.UnstoredTaskGradients):
  """Where each loss has been pulled back through the heads by itself.

  Then the heads' own gradients are known, as are the gradients at the
  representation, and all that is left to be done is one pass through the trunk.

  Attributes:
    rows: Of each task, its gradient with respect to the params that does not
      pass through the representation, and that at the representation.
  """

  def __init__(
    self,
    rows: Sequence[tuple[Row, Row]],
    trunk_vjp: Callable[[Any], Any],
    z: Any,
    params_like: Any,
    *,
    names: tuple[str, ...] | None = None,
    shared: Any = None,
    heads: Heads = "sum",
  ):
    """See the attributes.

    Args:
      rows: As above.
      trunk_vjp: Function from a cotangent of the representation to a list of
        the params' leaves.
      z: The representation.
      params_like: A tree of the params' shapes and dtypes.
      names: As in `TaskGradients`, as what follows.
      shared: The trunk, a tree of bools, or None.
      heads: "sum" or "weighted".
    """
    super().__init__(
      len(rows), params_like, names=names, shared=shared, heads=heads
    )
    self._own = OwnHeads([own for own, _ in rows], jax.tree.leaves(params_like))
    self._values = z
    z_like = jax.tree.leaves(pullbacks.like(z))
    self._z = OwnHeads([at_z for _, at_z in rows], z_like)
    structure = jax.tree.structure(z)
    self._trunk = _jax_programs.trace(
      lambda leaves: trunk_vjp(jax.tree.unflatten(structure, leaves)),
      self._z.like,
    )

  def _at_z(self) -> list[jax.Array]:
    return stack_rows(self._z.rows, self._z.like)

  def at_representation(self) -> AtRepresentation | None:
    """As in `TaskGradients`."""

    def pull_back(at_z: Any, weights: jax.Array, keep: jax.Array | None) -> Any:
      own = [
        combine_column(column, weights, keep)
        for column in zip(*self._own.rows, strict=True)
      ]
      return self._tree(own, row_of(self._trunk, jax.tree.leaves(at_z)))

    structure = jax.tree.structure(self._values)
    rows = jax.tree.unflatten(structure, self._at_z())
    return AtRepresentation(self._values, rows, pull_back)

  def _through_trunk(self, weights: jax.Array, keep: jax.Array | None) -> Row:
    """The part of the weighted sum that passes through the representation."""
    bits = min((jnp.finfo(x.dtype).bits for x in self._z.like), default=64)
    if jnp.finfo(weights.dtype).bits <= bits:
      return row_of(self._trunk, self._z.combine(weights, keep))
    # Relative to the largest, so that the sum fits the representation's dtype
    # wherever the gradients do.
    scale = pullbacks.power_of_two(jnp.max(jnp.abs(weights)))
    row = row_of(self._trunk, self._z.combine(weights / scale, keep))
    return [
      leaf if leaf is None else pullbacks.scaled(leaf, scale).astype(leaf.dtype)
      for leaf in row
    ]

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    flags = [True] * len(self._own.like) if mask is None else mask
    through = self._through_trunk(weights, keep)
    if head_weights is not weights and any(
      leaf is not None and not shared
      for leaf, shared in zip(through, flags, strict=True)
    ):
      # Leaves that the trunk reads and that do not take its weights.
      others = self._through_trunk(head_weights, keep)
      through = [
        new if shared else other
        for new, other, shared in zip(through, others, flags, strict=True)
      ]
    own = [
      combine_column(column, weights if shared else head_weights, keep)
      for column, shared in zip(
        zip(*self._own.rows, strict=True), flags, strict=True
      )
    ]
    return self._tree(own, through)

  def _tree(self, own: Row, through: Row) -> Any:
    """The sum of the two ways by which a loss depends on the params."""
    parts = zip(own, through, self._own.like, strict=True)
    return jax.tree.unflatten(
      jax.tree.structure(self._params_like),
      [
        fill(a if b is None else b if a is None else a + b, like)
        for a, b, like in parts
      ],
    )

  def _gradient_of(self, task: jax.Array | int) -> Any:
    through = row_of(self._trunk, self._z.gradient_of(task))
    return self._tree(self._own.gradient_of(task), through)

  def _map_rows(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    results: list[Any] = []
    for own, at_z in zip(self._own.rows, self._z.rows, strict=True):
      leaves = [fill(*pair) for pair in zip(at_z, self._z.like, strict=True)]
      if results:
        # One after another, so that no two gradients are held.
        leaves = units.after(results[-1], leaves)
      gradient = self._tree(own, row_of(self._trunk, leaves))
      results.append(fun(masks.pick(mask, gradient)))
    return jax.tree.map(lambda *parts: jnp.stack(parts), *results)


class TogetherTaskGradients(_AtRepresentation, pullbacks.PullbackTaskGradients):
  """Where one program pulls all losses back.

  Attributes:
    pull_to_representation: Function from a cotangent of the losses [T] to the
      gradient with respect to the representation.
    own: Function from the same to the gradient with respect to the params that
      does not pass through the representation.
    through_trunk: Function from a cotangent of the representation to the
      params' gradient.
    values: The representation.
  """

  def __init__(
    self,
    pullback: Callable[[jax.Array], Any],
    pull_to_representation: Callable[[jax.Array], Any],
    own: Callable[[jax.Array], Any],
    through_trunk: Callable[[Any], Any],
    values: Any,
    losses_like: jax.ShapeDtypeStruct,
    params_like: Any,
    chunk_size: int | None,
    *,
    names: tuple[str, ...] | None = None,
    shared: Any = None,
    heads: Heads = "sum",
  ):
    """See the attributes."""
    super().__init__(
      pullback,
      losses_like,
      params_like,
      chunk_size,
      names=names,
      shared=shared,
      heads=heads,
    )
    self.pull_to_representation = pull_to_representation
    self.own = own
    self.through_trunk = through_trunk
    self.values = values

  def at_representation(self) -> AtRepresentation | None:
    """As in `TaskGradients`."""

    def pull_back(at_z: Any, weights: jax.Array, keep: jax.Array | None) -> Any:
      # As in a combination: a task that is not kept has weight 0.
      kept = weights if keep is None else jnp.where(keep, weights, 0)
      own = pullbacks.pull_back(self.own, kept, self.losses_like.dtype)
      return jax.tree.map(jnp.add, own, self.through_trunk(at_z))

    structure = jax.tree.structure(self.values)
    rows = jax.tree.unflatten(structure, self._at_z())
    return AtRepresentation(self.values, rows, pull_back)

  def _map_measured(
    self,
    fun: Callable[[list[jax.Array]], Any],
    mask: Sequence[bool] | None,
  ) -> Any:
    del mask
    return units.map_rows(
      lambda unit: fun(jax.tree.leaves(self.pull_to_representation(unit))),
      pullbacks.unit_cotangents(self.losses_like),
      self.chunk_size,
    )

  def _at_z(self) -> list[jax.Array]:
    return self._map_measured(lambda row: row, None)
