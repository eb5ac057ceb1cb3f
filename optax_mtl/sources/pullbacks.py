"""Task gradients that are computed when asked for, by pulling back."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _jax_internals, _jax_programs, linalg
from optax_mtl.sources import masks, units
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.task_gradients import TaskGradients

# Pieces into which weights are cut for losses in half precision: three of
# bfloat16's 8 bits make float32's 24.
_PIECES = 3


def like(tree: Any) -> Any:
  """The tree's shapes and dtypes, and in `shard_map` its varying axes."""
  return jax.tree.map(_jax_internals.like, tree)


def one_like(losses: jax.Array) -> jax.Array:
  """Ones of the shape, dtype and, in `shard_map`, the type of some losses."""
  axes = _jax_internals.varying_axes(losses)
  return _jax_internals.vary(jnp.ones(losses.shape, losses.dtype), axes)


def unit_cotangents(losses_like: jax.ShapeDtypeStruct) -> jax.Array:
  """The tasks' unit cotangents, one per row: [T, T], of the losses' type."""
  eye = jnp.eye(losses_like.shape[0], dtype=losses_like.dtype)
  return _jax_internals.vary(eye, _jax_internals.varying_axes(losses_like))


def is_half(dtype: Any) -> bool:
  """Whether a dtype holds fewer bits than float32."""
  return jnp.finfo(dtype).bits < 32


def power_of_two(value: jax.Array) -> jax.Array:
  """The power of two next to a positive scalar; 1 for 0, NaN and inf."""
  exponent_bits = 11 if value.dtype == jnp.float64 else 8
  power = jax.lax.reduce_precision(value, exponent_bits, mantissa_bits=0)
  return jnp.where((power > 0) & jnp.isfinite(power), power, 1)


def _wide(leaf: jax.Array) -> jax.Array:
  """The leaf in float32 if it has half precision, else as it is."""
  return leaf.astype(jnp.float32) if is_half(leaf.dtype) else leaf


def scaled(leaf: jax.Array, scale: jax.Array) -> jax.Array:
  """A leaf times a scalar, in float32 at least: such terms are added up."""
  leaf = _wide(leaf)
  return leaf * scale.astype(leaf.dtype)


def divide(leaf: jax.Array, scale: jax.Array) -> jax.Array:
  """A leaf divided by a scalar, in the leaf's dtype; rounded once."""
  wide = _wide(leaf)
  return (wide / scale.astype(wide.real.dtype)).astype(leaf.dtype)


def pull_back(
  pullback: Callable[[jax.Array], Any], weights: jax.Array, dtype: Any
) -> Any:
  """The weighted sum of task gradients, by a linear function of cotangents.

  The cotangents have the losses' dtype. Where that is narrower than the
  weights', the weights are divided by a power of two next to the largest before
  they are cast, and the result is multiplied by it, so that none overflows. In
  half precision, where a weight would lose more than half of its digits, what
  the cast left over is pulled back as well, unless nothing was left.

  Args:
    pullback: Function from cotangents [T] to a tree.
    weights: Array [T].
    dtype: The cotangents' dtype.

  Returns:
    The tree, in the dtypes in which the pullback returns it.
  """
  wide = weights.dtype
  if jnp.finfo(wide).bits <= jnp.finfo(dtype).bits:
    return pullback(weights.astype(dtype))

  def piece(rest: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest digits of `rest`, their scale, and what is left."""
    scale = power_of_two(jnp.max(jnp.abs(rest)))
    digits = (rest / scale).astype(dtype)
    return digits, scale, rest - digits.astype(wide) * scale

  digits, scale, rest = piece(weights)
  first = pullback(digits)
  total = jax.tree.map(lambda leaf: scaled(leaf, scale), first)

  def add(
    carry: tuple[Any, jax.Array], _: None
  ) -> tuple[tuple[Any, jax.Array], None]:
    total, rest = carry
    digits, scale, left = piece(rest)

    def more(total: Any) -> Any:
      return jax.tree.map(
        lambda old, leaf: old + scaled(leaf, scale), total, pullback(digits)
      )

    total = jax.lax.cond(jnp.any(digits != 0), more, lambda t: t, total)
    return (total, left), None

  if is_half(dtype):
    (total, _), _ = jax.lax.scan(add, (total, rest), length=_PIECES - 1)
  return jax.tree.map(lambda sum, leaf: sum.astype(leaf.dtype), total, first)


def _square(leaves: list[jax.Array]) -> jax.Array:
  """The squared length of one gradient."""
  return linalg.squared_norms([leaf[None] for leaf in leaves], 1)[0]


class UnstoredTaskGradients(TaskGradients):
  """Task gradients that are never stored: all is made of a map over them."""

  def __init__(self, num_tasks: int, params_like: Any, **facts: Any):
    """See `TaskGradients`, for `facts` too.

    Args:
      num_tasks: The number of tasks T.
      params_like: A tree of the params' shapes and dtypes.
      **facts: What `TaskGradients` takes.
    """
    super().__init__(num_tasks, **facts)
    self._params_like = params_like

  @property
  def params_like(self) -> Any:
    """As in `TaskGradients`."""
    return self._params_like

  def finite(self) -> jax.Array:
    """As in `TaskGradients`."""
    return self._map_rows(linalg.tree_finite, None)

  def stacked(self) -> Any:
    """As in `TaskGradients`."""
    leaves = self._map_rows(lambda row: row, None)
    return jax.tree.unflatten(jax.tree.structure(self._params_like), leaves)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    return self._map_rows(_square, mask)

  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    def product(row: list[jax.Array]) -> jax.Array:
      stack = [leaf[None] for leaf in row]
      return linalg.project(stack, gradient, 1)[0]

    return self._map_rows(product, mask)


class PullbackTaskGradients(UnstoredTaskGradients):
  """Task gradients from one pullback of all losses.

  Attributes:
    pullback: Function from a cotangent of the losses [T] to a gradient, fast
      inside loops.
    plain_pullback: The same as JAX made it, to be transposed. What `pullback`
      does by platform would become branches, in which convolutions are slow.
    losses_like: `ShapeDtypeStruct` of the losses.
    chunk_size: How many tasks to take at once, as for `units.map_rows`.
  """

  def __init__(
    self,
    pullback: Callable[[jax.Array], Any],
    losses_like: jax.ShapeDtypeStruct,
    params_like: Any,
    chunk_size: int | None,
    *,
    names: tuple[str, ...] | None = None,
    shared: Any = None,
    heads: Heads = "sum",
  ):
    """See the attributes; the pullback is the plain one."""
    super().__init__(
      losses_like.shape[0],
      params_like,
      names=names,
      shared=shared,
      heads=heads,
    )
    self.pullback = canonicalize(pullback, losses_like)
    self.plain_pullback = pullback
    self.losses_like = losses_like
    self.chunk_size = chunk_size

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    # A task that is not kept has weight 0, and that is all one can do: where
    # its derivative itself is NaN or inf, 0 times it is NaN in each pullback.
    del keep
    dtype = self.losses_like.dtype
    if mask is None or head_weights is weights:
      return pull_back(self.pullback, weights, dtype)
    program = _jax_programs.trace(
      lambda cotangent: jax.tree.leaves(self.pullback(cotangent)),
      self.losses_like,
    )
    both = _jax_programs.separate(program, mask)
    if both is not None:
      structure = jax.tree.structure(self._params_like)
      return jax.tree.unflatten(structure, both(weights, head_weights))
    trunk = pull_back(self.pullback, weights, dtype)
    # Only the heads' leaves of this second pass are used, so the compiler
    # drops the part that runs through the trunk.
    heads = pull_back(self.pullback, head_weights, dtype)
    return masks.merge(mask, masks.pick(mask, trunk), heads)

  def _gradient_of(self, task: jax.Array | int) -> Any:
    return self.pullback(masks.row(unit_cotangents(self.losses_like), task))

  def _map_rows(
    self,
    fun: Callable[[list[jax.Array]], Any],
    mask: Sequence[bool] | None,
  ) -> Any:
    return units.map_rows(
      lambda unit: fun(masks.pick(mask, self.pullback(unit))),
      unit_cotangents(self.losses_like),
      self.chunk_size,
    )
