"""Task gradients measured at a shared representation (MGDA-UB)."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks, _jax_programs, linalg
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pullbacks, units
from optax_mtl.sources.averaged import Axes, AxisName
from optax_mtl.sources.backward import differentiate, row_of
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.task_gradients import AtRepresentation, TaskGradients
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


def value_and_representation_grads(
  trunk_fn: Callable[..., Any],
  heads_fn: Callable[..., Any],
  has_aux: bool = False,
  *,
  chunk_size: int | None = None,
  shared: Any = None,
  heads: Heads = "sum",
  axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, Any]]:
  """Losses, and task gradients measured at a shared representation.

  A method sees the Gram matrix of the gradients with respect to the trunk's
  output. Each loss is pulled back through the heads once, by itself, without
  what it does not depend on; the update then takes one backward pass through
  the trunk. So heads that share nothing cost what the sum of the losses costs.
  This is the upper bound of Sener & Koltun (MGDA-UB), here for every method
  that uses a Gram matrix. Zero combinations are the same at the representation
  and at the params if the trunk's Jacobian has full rank; that a combination
  descends every task at the representation does not make it do so at the
  params.

  That goes for up to 16 losses that `heads_fn` puts together from single ones,
  as in a list, a dict or a `jnp.stack`. A vector that is computed as one (the
  result of a `vmap` over stacked heads), more losses, and those with a
  `chunk_size` are pulled back by one program, which runs through all heads for
  each task, and for the update once more.

  What is kept for each task is its gradient at the representation, and those of
  the heads that it reads. Where heads are much smaller than the representation,
  T of these, twice while the Gram matrix is computed, are the most memory that
  a step takes; a `chunk_size` does not change that.

  Where each is pulled back by itself, a loss whose derivative is NaN or inf
  spoils no other: see `value_and_task_grads`.

  Args:
    trunk_fn: Function `(params, *args) -> representation`, an array or a pytree
      of arrays that all tasks read. With `has_aux`, a pair with any pytree.
    heads_fn: Function `(params, representation, *args) -> losses`, in the forms
      that `value_and_task_grads` takes. With `has_aux`, a pair with any pytree.
    has_aux: Whether both return pairs.
    chunk_size: How many tasks to differentiate at once, by one program that is
      compiled once. None: each by a program of its own, and where that is not
      to be had all at once, but on CPU one.
    shared: Which leaves of the params take the method's weights, as for
      `value_and_task_grads`: as a rule those that `trunk_fn` reads. It changes
      nothing of the Gram matrix, which is the one at the representation. None:
      all leaves.
    heads: "sum" or "weighted", what the other leaves get.
    axis_name: As for `value_and_task_grads`: the axis over whose devices the
      batch, and with it the representation, is spread.

  Returns:
    A function `(params, *args) -> (losses, grads)`, with `has_aux`
    `((losses, (trunk_aux, heads_aux)), grads)`: losses an array [T] or a dict
    of scalars, as `heads_fn` returned them, and grads a `TaskGradients`.

  Raises:
    TypeError: A param or a loss is not floating point, or `has_aux` is set and
      a function returns no pair.
    ValueError: A loss is not a scalar, `chunk_size` is not positive, `shared`
      selects no leaf, or `heads` is unknown.

  References:
    Sener & Koltun, `Multi-Task Learning as Multi-Objective Optimization
    <https://arxiv.org/abs/1810.04650>`_, NeurIPS 2018.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> trunk = lambda params, x: x * params["trunk"]
    >>> def heads(params, z, x):
    ...   return jnp.stack([z.sum(), (params["head"] * z).sum()])
    >>> params = {"trunk": jnp.array([1.0, 1.0]), "head": jnp.array([0.0, 2.0])}
    >>> losses, grads = optax_mtl.value_and_representation_grads(trunk, heads)(
    ...   params, jnp.array([3.0, 4.0])
    ... )
    >>> print(losses, grads.gram().tolist())
    [7. 8.] [[2.0, 2.0], [2.0, 4.0]]
  """
  _checks.check_choice("heads", heads, ("sum", "weighted"))
  units.check_chunk_size(chunk_size)
  axes = Axes(axis_name)

  def value_and_grads(params: Any, *args: Any) -> tuple[Any, Any]:
    miscompiled.warn_on_cpu()
    _checks.check_inexact(params, "params")
    in_trunk = masks.trunk_of(shared, params)
    params = axes.spread(params)
    names = losses_lib.Recorder()

    def trunk_of(params: Any) -> tuple[Any, Any]:
      return losses_lib.split(trunk_fn(params, *args), has_aux, "trunk_fn")

    def heads_of(params: Any, representation: Any) -> tuple[jax.Array, Any]:
      value, aux = losses_lib.split(
        heads_fn(params, representation, *args), has_aux, "heads_fn"
      )
      return names.stack(value), aux

    z, trunk_vjp, trunk_aux = jax.vjp(trunk_of, params, has_aux=True)
    what = "the representation"
    if not has_aux and type(z) is tuple and len(z) == 2:
      what += " (a pair; if it is one with aux, say so with has_aux=True)"
    _checks.check_inexact(z, what)
    losses, backward, heads_aux = differentiate(
      lambda both: heads_of(*both), (params, z)
    )

    def through_trunk(at_z: Any) -> list[jax.Array]:
      return jax.tree.leaves(trunk_vjp(at_z)[0])

    def pullback(cotangent: jax.Array) -> Any:
      direct, at_z = backward.of_all(cotangent)
      (through,) = trunk_vjp(at_z)
      return jax.tree.map(jnp.add, direct, through)

    like = pullbacks.like(params)
    facts: dict[str, Any] = {
      "names": names.names,
      "shared": in_trunk,
      "heads": heads,
    }
    each = backward.of_each(chunk_size)
    if each is None:
      grads = TogetherTaskGradients(
        pullback,
        canonicalize(lambda cotangent: backward.of_all(cotangent)[1], losses),
        lambda cotangent: backward.of_all(cotangent)[0],
        lambda at_z: trunk_vjp(at_z)[0],
        z,
        pullbacks.like(losses),
        like,
        chunk_size,
        **facts,
      )
    else:
      count = len(jax.tree.leaves(like))
      grads = ApartTaskGradients(
        [(row[:count], row[count:]) for row in each],
        through_trunk,
        z,
        like,
        **facts,
      )
    value = names.back(axes.losses(losses, params))
    aux = (trunk_aux, heads_aux)
    return ((value, aux) if has_aux else value), axes.of(grads)

  return value_and_grads
