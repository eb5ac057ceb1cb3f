"""Task gradients as a method sees them: a Gram matrix and a combination."""

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.sources import masks
from optax_mtl.sources.at_representation import AtRepresentation
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.no_array import NoArray
from optax_mtl.sources.second_batch import check_second_batch


class TaskGradients(NoArray, abc.ABC):
  """The gradients of `num_tasks` losses with respect to the same params.

  A method asks for the Gram matrix, turns it into weights, and asks for the
  weighted combination; how the gradients are held, or whether they are held at
  all, is the source's affair. An instance is passed to a method's `update` in
  the place of the updates. It is no pytree: another transformation that came
  first would have to map over gradients that may not exist, so it fails there.

  Attributes:
    num_tasks: The number of tasks `T`.
    names: The tasks' names, where the losses came as a dict: its sorted keys,
      in the order of the rows. None: they have none.
    at_params: Whether the Gram matrix is taken over the params' leaves, so that
      one can choose among them.
    shared: Tree of bools with the structure of the params, the shared trunk, if
      the source or `on_trunk` was told. None: all leaves are.
    heads: "sum" or "weighted": what the leaves outside the trunk get when the
      gradients are combined.
    present: One bool a task: whether there is such a task in this step, known
      while tracing. A method takes the others for inactive. None: all are.
  """

  at_params: bool = True

  def __init__(
    self,
    num_tasks: int,
    *,
    names: tuple[str, ...] | None = None,
    shared: Any = None,
    heads: Heads = "sum",
    present: tuple[bool, ...] | None = None,
  ):
    """See the attributes."""
    _checks.check_choice("heads", heads, ("sum", "weighted"))
    self.num_tasks = num_tasks
    self.names = names
    self.shared = shared
    self.heads: Heads = heads
    self.present = None if present is None or all(present) else present

  @property
  @abc.abstractmethod
  def params_like(self) -> Any:
    """A tree of `ShapeDtypeStruct` with the structure of the params."""

  def taking_part(self, active: Any) -> jax.Array | None:
    """Which tasks take part in a step: those that are active and present.

    Args:
      active: The extra arg `active=`, or None: all.

    Returns:
      Array [T] of bool, or None: all.

    Raises:
      TypeError: `active` is not bool.
      ValueError: `active` does not hold T bools.
    """
    if active is not None:
      active = _checks.task_mask(active, self.num_tasks, "active")
    if self.present is None:
      return active
    present = jnp.array(self.present)
    return present if active is None else active & present

  def gram(self, shared: Any = None, *, name: str = "shared") -> jax.Array:
    """Inner products of the task gradients.

    Args:
      shared: Which leaves count: a pytree prefix of bools, or a callable from
        the params (or what has their shapes) to one. None: the trunk.
      name: What to call `shared` in an error.

    Returns:
      Array [T, T], float32 (float64 under x64).

    Raises:
      ValueError: `shared` selects no leaf or one outside the trunk, or the Gram
        matrix is not taken over the params' leaves.
    """
    return self._gram(self._measured(shared, name))

  def squared_norms(
    self, shared: Any = None, *, name: str = "shared"
  ) -> jax.Array:
    """The diagonal of the Gram matrix, without the cost of the rest.

    Args:
      shared: Which leaves count, as for `gram`. None: the trunk.
      name: What to call `shared` in an error.

    Returns:
      Array [T], float32 (float64 under x64).

    Raises:
      ValueError: As `gram`.
    """
    return self._squared_norms(self._measured(shared, name))

  def map_gradients(
    self,
    fun: Callable[[list[jax.Array]], Any],
    shared: Any = None,
    *,
    name: str = "shared",
  ) -> Any:
    """A function of each task's gradient by itself, for numbers of its entries.

    Nothing of size T times the params is stored where gradients are not: with
    the implicit source it costs T backward passes. With the representation
    source the gradients are those at the representation, as for `gram`.

    Args:
      fun: Function from one gradient, a list of its leaves, to a pytree of
        arrays.
      shared: Which leaves it is given, as for `gram`. None: the trunk.
      name: What to call `shared` in an error.

    Returns:
      What it returned for each task, stacked: leaves [T, ...].

    Raises:
      ValueError: As `gram`.
    """
    return self._map_measured(fun, self._measured(shared, name))

  def gradient_of(self, task: ArrayLike) -> Any:
    """The gradient of one task.

    One backward pass where gradients are not stored. A traced number that is
    out of range is clipped, as indices are in JAX.

    Args:
      task: The task's number, an int or a scalar int array, also while tracing.

    Returns:
      A tree with the structure, shapes and dtypes of the params.

    Raises:
      TypeError: `task` is no integer.
      ValueError: `task` is an int, and there is no such task.
    """
    return self._gradient_of(_checks.task_number(task, self.num_tasks))

  def cross_gram(self, other: "TaskGradients") -> jax.Array:
    """Inner products with the gradients of another batch, over the trunk.

    Args:
      other: Gradients of the same tasks with respect to the same params.

    Returns:
      Array [T, T], float32 (float64 under x64): entry [s, t] is that of task
      `s` of these and task `t` of the other gradients.

    Raises:
      ValueError: The two differ in their tasks, params or trunk, or either is
        not taken over the params' leaves.
    """
    check_second_batch(self, other)
    mask = self._choose(None, "shared")
    if mask != other._choose(None, "shared"):
      raise ValueError(
        "Both batches must have the same shared trunk: give both sources the "
        "same shared=."
      )
    return self._cross_gram(other, mask)

  def project(self, update: Any) -> jax.Array:
    """Inner products with an update, over the trunk.

    To first order a step `-η update` lowers loss `i` by `η` times entry `i`.

    Args:
      update: A tree with the structure of the params.

    Returns:
      Array [T], float32 (float64 under x64).

    Raises:
      ValueError: The inner products are not taken over the params' leaves.
    """
    if not self.at_params:
      raise ValueError(
        "An update is one of the params, and the gradients at a representation "
        "have no inner product with it. Use another source."
      )
    mask = self._measured(None, "shared")
    leaves = jax.tree.map(
      lambda leaf, like: jnp.asarray(leaf).astype(like.dtype),
      masks.pick(mask, update),
      masks.pick(mask, self.params_like),
    )
    return self._project(leaves, mask)

  def combine(
    self,
    weights: jax.Array,
    *,
    shared: Any = None,
    head_weights: jax.Array | None = None,
    keep: jax.Array | None = None,
  ) -> Any:
    """The weighted sum of the task gradients.

    Args:
      weights: Array [T], the weights on the trunk.
      shared: Which leaves take these weights, as for `gram`. None: the trunk.
      head_weights: Array [T], the weights on the other leaves. None: as `heads`
        says, 1 for each task that is kept, or `weights`.
      keep: Array [T] of bool: a task that is not kept, whose weights are 0, is
        left out even where its gradient overflowed; of stacked gradients, also
        where it is NaN. None: keep all.

    Returns:
      A tree with the structure, shapes and dtypes of the params.

    Raises:
      ValueError: `shared` selects no leaf, or one outside the trunk.
    """
    mask = self._choose(shared, "shared")
    if head_weights is None:
      head_weights = weights if self.heads == "weighted" else self._ones(keep)
    return self._combine(weights, mask, head_weights, keep)

  def with_heads(self, update: Any, keep: jax.Array | None = None) -> Any:
    """An update of the trunk, with the heads' own gradients beside it.

    For rules that have no weights: the leaves outside the trunk get the sum of
    the gradients of the tasks that are kept.

    Args:
      update: Tree with the structure of the params; its leaves outside the
        trunk are not looked at.
      keep: Array [T] of bool. None: keep all.

    Returns:
      A tree with the structure of the params.
    """
    mask = self._choose(None, "shared")
    if mask is None:
      return update
    ones = self._ones(keep)
    zeros = jnp.zeros_like(ones)
    return masks.merge(
      mask, masks.pick(mask, update), self._combine(zeros, mask, ones, keep)
    )

  def at_representation(self) -> AtRepresentation | None:
    """What there is at the representation; None where gradients are at params.

    For methods that make an update there which is no weighted sum.

    Raises:
      TypeError: The representation lies in parts on several devices.
    """
    return None

  @abc.abstractmethod
  def finite(self) -> jax.Array:
    """Whether every entry of a task's gradient is finite, array [T] of bool."""

  @abc.abstractmethod
  def stacked(self) -> Any:
    """The gradients themselves, a tree with leaves [T, *param.shape]."""

  def on_trunk(self, shared: Any, heads: Heads = "sum") -> "TaskGradients":
    """The same gradients, of which a method sees the trunk alone.

    Args:
      shared: Which leaves are the trunk, as for `gram`.
      heads: "sum" or "weighted": what the other leaves get.

    Returns:
      Task gradients that know their trunk.

    Raises:
      ValueError: `shared` selects no leaf, a trunk is known already, or `heads`
        is neither.
    """
    _checks.check_choice("heads", heads, ("sum", "weighted"))
    if self.shared is not None:
      raise ValueError(
        "These task gradients know their shared trunk already: it was given as "
        "shared= to the source, or by another on_trunk. Say it once."
      )
    view = copy.copy(self)
    view.shared = _checks.resolve_mask(shared, self.params_like, "shared")
    view.heads = heads
    return view

  def _choose(self, shared: Any, name: str) -> list[bool] | None:
    """One bool a leaf, those that `shared` selects; None: all leaves."""
    mask = self.shared
    if shared is not None:
      mask = _checks.resolve_mask(shared, self.params_like, name)
      if self.shared is not None:
        masks.check_within(mask, self.shared, name)
    flags = jax.tree.leaves(mask) if mask is not None else []
    return None if all(flags) else flags

  def _measured(self, shared: Any, name: str) -> list[bool] | None:
    """Which leaves inner products are taken over; as `_choose`."""
    return self._choose(shared, name)

  def _map_measured(
    self,
    fun: Callable[[list[jax.Array]], Any],
    mask: Sequence[bool] | None,
  ) -> Any:
    """`fun` of each gradient where inner products are taken."""
    return self._map_rows(fun, mask)

  def _ones(self, keep: jax.Array | None) -> jax.Array:
    """The weights of a plain sum over the tasks that are kept."""
    if keep is None:
      return jnp.ones((self.num_tasks,), solver_dtype())
    return keep.astype(solver_dtype())

  # What a source fills in. `mask` has one bool a leaf; None: all leaves.

  @abc.abstractmethod
  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    """The Gram matrix over the leaves that the mask selects."""

  @abc.abstractmethod
  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    """The Gram matrix's diagonal over the leaves that the mask selects."""

  @abc.abstractmethod
  def _gradient_of(self, task: jax.Array | int) -> Any:
    """The gradient of one task, all leaves; `task` an int or a scalar int32."""

  @abc.abstractmethod
  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    """The combination, `head_weights` on what the mask leaves out."""

  @abc.abstractmethod
  def _map_rows(self, fun: Any, mask: Sequence[bool] | None) -> Any:
    """`fun` of each task's gradient, a list of leaves; results [T, ...]."""

  @abc.abstractmethod
  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    """Inner products [T] of each task's gradient with another."""

  def _cross_gram(
    self, other: "TaskGradients", mask: Sequence[bool] | None
  ) -> jax.Array:
    columns = other._map_rows(lambda row: self._project(row, mask), mask)
    return columns.astype(solver_dtype()).T
