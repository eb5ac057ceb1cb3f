"""Task gradients as a method sees them: a Gram matrix and a combination."""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks, _linalg
from optax_mtl._dtypes import solver_dtype


class TaskGradients(abc.ABC):
  """The gradients of `num_tasks` losses with respect to the same params.

  A method asks for the Gram matrix, turns it into weights, and asks for the
  weighted combination; how the gradients are held, or whether they are held at
  all, is the source's affair. An instance is passed to a method's `update` in
  the place of the updates. It is no pytree: another transformation that came
  first would have to map over gradients that may not exist, so it fails there.

  Attributes:
    num_tasks: The number of tasks `T`.
    at_params: Whether the Gram matrix is taken over the params' leaves, so that
      a mask can choose among them.
  """

  num_tasks: int
  at_params: bool = True

  @property
  @abc.abstractmethod
  def params_like(self) -> Any:
    """A tree of `ShapeDtypeStruct` with the structure of the params."""

  @abc.abstractmethod
  def gram(self, shared: Any = None) -> jax.Array:
    """Inner products of the task gradients.

    Args:
      shared: Tree of bools with the structure of the params: which leaves
        count. None: all.

    Returns:
      Array [T, T], float32 (float64 under x64).
    """

  @abc.abstractmethod
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
      weights: Array [T], the weights on the shared leaves.
      shared: Tree of bools with the structure of the params. None: all leaves
        are shared.
      head_weights: Array [T], the weights on the other leaves. Needed if
        `shared` is given.
      keep: Array [T] of bool: a task that is not kept, whose weights are 0, is
        left out even where its gradient overflowed; of stacked gradients, also
        where it is NaN. None: keep all.

    Returns:
      A tree with the structure and shapes of the params.
    """

  @abc.abstractmethod
  def finite(self) -> jax.Array:
    """Whether every entry of a task's gradient is finite, array [T] of bool."""

  @abc.abstractmethod
  def stacked(self) -> Any:
    """The gradients themselves, a tree with leaves [T, *param.shape]."""

  def _refuse(self, *_):
    raise TypeError(
      f"A {type(self).__name__} stands for {self.num_tasks} gradients and is "
      "no array: put an optax_mtl method before every other transformation, or "
      "use source='stacked' to have the gradients as a plain tree."
    )

  # What another transformation may try on what it takes for an array.
  __jax_array__ = _refuse
  __add__ = __radd__ = __sub__ = __rsub__ = _refuse
  __mul__ = __rmul__ = __truediv__ = __pow__ = __neg__ = _refuse


class StackedTaskGradients(TaskGradients):
  """A plain tree with leaves [T, *param.shape]."""

  def __init__(self, tree: Any, num_tasks: int):
    self.tree = tree
    self.num_tasks = num_tasks

  @property
  def params_like(self):
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.tree
    )

  def gram(self, shared=None):
    leaves = jax.tree.leaves(self.tree)
    if shared is not None:
      mask = jax.tree.leaves(shared)
      leaves = [g for g, keep in zip(leaves, mask, strict=True) if keep]
    return _linalg.gram(leaves, self.num_tasks)

  def combine(self, weights, *, shared=None, head_weights=None, keep=None):
    if shared is None:
      return _linalg.combine(self.tree, weights, keep)
    leaves, structure = jax.tree.flatten(self.tree)
    mask = jax.tree.leaves(shared)
    out = [
      _linalg.combine(leaf, weights if is_shared else head_weights, keep)
      for leaf, is_shared in zip(leaves, mask, strict=True)
    ]
    return jax.tree.unflatten(structure, out)

  def finite(self):
    return _linalg.finite(self.tree, self.num_tasks)

  def stacked(self):
    return self.tree


def as_task_gradients(
  updates: Any, num_tasks: int, params: Any = None
) -> TaskGradients:
  """Reads what came as `updates`: a source, or a tree of stacked gradients."""
  if isinstance(updates, TaskGradients):
    if updates.num_tasks != num_tasks:
      raise ValueError(
        f"The task gradients are of {updates.num_tasks} tasks, but the method "
        f"was built with num_tasks={num_tasks}."
      )
    return updates
  _checks.check_stacked(updates, num_tasks, params)
  return StackedTaskGradients(updates, num_tasks)


def select(mask: Any, tree: Any) -> Any:
  """Zeros where the mask is False, in the tree's structure and dtypes."""
  if mask is None:
    return tree
  return jax.tree.map(
    lambda keep, leaf: leaf if keep else jnp.zeros_like(leaf), mask, tree
  )


def merge(shared: Any, trunk: Any, heads: Any) -> Any:
  """Leaves of `trunk` where `shared` is True, of `heads` elsewhere."""
  return jax.tree.map(lambda s, t, h: t if s else h, shared, trunk, heads)


def map_units(fun: Any, units: jax.Array, chunk_size: int | None) -> Any:
  """`fun` of each row of `units`, `chunk_size` of them at once.

  None is all at once, but on CPU one after another: what is computed for many
  tasks side by side does not fit the cache, and often comes out transposed, so
  that XLA copies all of it into place.
  """

  def in_turn(units):
    return jax.lax.map(fun, units)

  at_once = jax.vmap(fun)
  if chunk_size is None:
    return jax.lax.platform_dependent(units, cpu=in_turn, default=at_once)
  if chunk_size == 1:
    return in_turn(units)
  if chunk_size >= units.shape[0]:
    return at_once(units)  # no loop of one trip, nor one of none
  return jax.lax.map(fun, units, batch_size=chunk_size)


class PullbackTaskGradients(TaskGradients):
  """Task gradients that are computed when asked for, and never stored.

  Attributes:
    pullback: Function from a cotangent of the losses [T] to a gradient.
    losses_like: `ShapeDtypeStruct` of the losses.
    chunk_size: How many tasks to take at once, as for `map_units`.
  """

  def __init__(self, pullback, losses_like, params_like, chunk_size):
    self.pullback = pullback
    self.losses_like = losses_like
    self.num_tasks = losses_like.shape[0]
    self.chunk_size = chunk_size
    self._params_like = params_like

  @property
  def params_like(self):
    return self._params_like

  def _cotangent(self, weights: jax.Array) -> jax.Array:
    return weights.astype(self.losses_like.dtype)

  def _units(self) -> jax.Array:
    """The tasks' unit cotangents, one per row."""
    return jnp.eye(self.num_tasks, dtype=self.losses_like.dtype)

  def map_tasks(self, fun: Any) -> Any:
    """`fun(cotangent)` for each task's unit cotangent."""
    return map_units(fun, self._units(), self.chunk_size)

  def combine(self, weights, *, shared=None, head_weights=None, keep=None):
    # A task that is not kept has weight 0, and that is all one can do: where
    # its derivative itself is NaN or inf, 0 times it is NaN in each pullback.
    del keep
    trunk = self.pullback(self._cotangent(weights))
    if shared is None or all(jax.tree.leaves(shared)):
      return trunk
    # Only the heads' leaves of this second pass are used, so the compiler
    # drops the part that runs through the trunk.
    return merge(shared, trunk, self.pullback(self._cotangent(head_weights)))

  def finite(self):
    return self.map_tasks(lambda unit: tree_finite(self.pullback(unit)))

  def stacked(self):
    return self.map_tasks(self.pullback)


class ImplicitTaskGradients(PullbackTaskGradients):
  """The source that stores nothing: `M[:, t] = J (Jᵀ e_t)`, column by column.

  The last column needs no `J`: all of it but the diagonal entry stands in the
  other columns, and that entry is the squared length of `Jᵀ e_t`.

  Attributes:
    pushforward: Function from a tangent of the params to one of the losses.
  """

  def __init__(
    self, pullback, pushforward, losses_like, params_like, chunk_size
  ):
    super().__init__(pullback, losses_like, params_like, chunk_size)
    self.pushforward = pushforward

  def gram(self, shared=None):
    def gradient(unit):
      return select(shared, self.pullback(unit))

    units = self._units()
    last = jax.tree.map(lambda leaf: leaf[None], gradient(units[-1]))
    square = _linalg.gram(last, 1)
    if self.num_tasks == 1:
      return square
    columns = map_units(
      lambda unit: self.pushforward(gradient(unit)),
      units[:-1],
      self.chunk_size,
    ).astype(solver_dtype())
    # Column t and row t are the same number up to rounding; a solver may rely
    # on their being equal.
    first, rest = columns[:, :-1], columns[:, -1:]
    return jnp.block([[(first + first.T) / 2, rest], [rest.T, square]])


class RepresentationTaskGradients(PullbackTaskGradients):
  """Gradients at the trunk's output; the combination runs to the params.

  The Gram matrix is the one at the representation, whichever leaves are shared.

  Attributes:
    at_representation: Function from a cotangent of the losses [T] to the
      gradient with respect to the representation.
  """

  at_params = False

  def __init__(
    self, pullback, at_representation, losses_like, params_like, chunk_size
  ):
    super().__init__(pullback, losses_like, params_like, chunk_size)
    self.at_representation = at_representation

  def gram(self, shared=None):
    del shared
    return _linalg.gram(self.map_tasks(self.at_representation), self.num_tasks)


def tree_finite(tree: Any) -> jax.Array:
  """Whether all entries of all leaves are finite, a scalar bool."""
  fine = jnp.ones((), jnp.bool_)
  for leaf in jax.tree.leaves(tree):
    fine &= jnp.all(jnp.isfinite(leaf))
  return fine
