"""What a method saw in its last steps, recorded in the state."""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._rule import Rule, UpdateRule, WeightRule
from optax_mtl._step import Step
from optax_mtl._transformation import Method
from optax_mtl.sources.around import MeasuredTaskGradients
from optax_mtl.wrappers._wrapped import change_rule

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)


class TrackMemory(NamedTuple):
  """What a method remembers under `track`: a row for each of the last steps.

  Rows are written in turn, the oldest first. `optax_mtl.diagnostics` makes the
  figures of them.

  Attributes:
    next_row: Scalar int32, the row that the next step writes.
    written_rows: Array [W] of bool, which rows have been written.
    gram_rows: Array [W, T, T], the Gram matrices; 0 for a task that does not
      count.
    counted_rows: Array [W, T] of bool, which tasks took part with a gradient
      that is finite.
    weight_rows: Array [W, T], the weights; None for a method without.
    slope_rows: Array [W, T], the products of the task gradients with the
      update's direction.
    sloped_rows: Array [W] of bool, whether these are known.
    inner: The memory of the method's own rule.
  """

  next_row: jax.Array
  written_rows: jax.Array
  gram_rows: jax.Array
  counted_rows: jax.Array
  weight_rows: jax.Array | None
  slope_rows: jax.Array
  sloped_rows: jax.Array
  inner: Any


def track(inner: _Transformation, window: int = 100) -> _Transformation:
  """Records what the method sees and does, for `optax_mtl.diagnostics`.

  The figures are those of the rule itself: over the trunk where there is one,
  of the tasks that were not dropped, of the gradients that `log_losses` has
  divided; with the representation source, at the representation. The Gram
  matrix is computed once, and the method reads that one. So a method that asks
  for it anyway costs no more than before but a few numbers per step; a method
  that does not, as `dwa`, costs the Gram matrix: with the implicit source T
  more backward passes.

  Of `refresh_every` and `track`, the inner one goes by the outer one:
  `refresh_every(track(method), k)` records the steps that compute the weights,
  and the steps between cost what they did; `track(refresh_every(method, k))`
  records every step, and computes the Gram matrix in each. Likewise
  `track(ema_weights(method))` records the averages, and
  `ema_weights(track(method))` what is averaged.

  Args:
    inner: A method of this package, or other wrappers around one; the rest of
      the chain comes after.
    window: How many steps are kept, W. The state grows by `W (T² + 2 T)`
      numbers.

  Returns:
    The transformation, with the same updates and update arguments.

  Raises:
    TypeError: `inner` is no method, or `window` is no Python int.
    ValueError: `window` is below 1.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.track(optax_mtl.equal_weighting(num_tasks=2))
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [1.0, 1.0]]), state)
    >>> print(optax_mtl.diagnostics(state)["conflict_rate"])
    0.5
  """
  # Rows are counted in int32.
  _checks.check_int("window", window, 1, np.iinfo(np.int32).max)

  def change(method: Method) -> Rule:
    num_tasks, rule = method.num_tasks, method.rule
    if isinstance(rule, UpdateRule):
      return _of_update(rule, window, num_tasks)
    return _of_weights(rule, window, num_tasks)

  return change_rule(inner, change, "track")


def _empty(
  window: int, num_tasks: int, weighs: bool, inner: Any
) -> TrackMemory:
  dtype = solver_dtype()

  def zeros(*shape: int, dtype: Any = dtype) -> jax.Array:
    return jnp.zeros((window, *shape), dtype)

  return TrackMemory(
    next_row=jnp.zeros((), jnp.int32),
    written_rows=zeros(dtype=jnp.bool_),
    gram_rows=zeros(num_tasks, num_tasks),
    counted_rows=zeros(num_tasks, dtype=jnp.bool_),
    weight_rows=zeros(num_tasks) if weighs else None,
    slope_rows=zeros(num_tasks),
    sloped_rows=zeros(dtype=jnp.bool_),
    inner=inner,
  )


def _measured(step: Step) -> tuple[Step, jax.Array, jax.Array]:
  """The step with a known Gram matrix; that matrix, and which tasks count.

  A task whose gradient is not finite does not: its NaN in a state would have
  `skip_nonfinite` leave out a step that `drop_nonfinite` has mended.
  """
  known = MeasuredTaskGradients(step.gradients)
  gram = known.gram()
  counted = step.active & jnp.isfinite(jnp.diagonal(gram))
  both = counted[:, None] & counted[None, :]
  return (
    dataclasses.replace(step, gradients=known),
    jnp.where(both, gram, jnp.zeros_like(gram)),
    counted,
  )


def _record(
  window: int,
  memory: TrackMemory,
  inner: Any,
  gram: jax.Array,
  counted: jax.Array,
  weights: jax.Array | None,
  slopes: jax.Array | None,
) -> TrackMemory:
  """The memory with the rows of one step."""
  if memory.counted_rows.shape[0] != window:
    raise ValueError(
      f"track was built with window={window}, but its state has "
      f"{memory.counted_rows.shape[0]} rows: it is that of another window. "
      "Start with init, or build it with the window of the state."
    )

  def write(rows: jax.Array, row: jax.Array) -> jax.Array:
    row = row.astype(rows.dtype)
    return jax.lax.dynamic_update_index_in_dim(rows, row, memory.next_row, 0)

  sloped = jnp.asarray(slopes is not None)
  if slopes is None:
    slopes = jnp.zeros_like(memory.slope_rows[0])
  weight_rows = memory.weight_rows
  if weight_rows is not None and weights is not None:
    weight_rows = write(weight_rows, weights)
  following = memory.next_row + 1
  return TrackMemory(
    next_row=jnp.where(following < window, following, 0),
    written_rows=write(memory.written_rows, jnp.ones((), jnp.bool_)),
    gram_rows=write(memory.gram_rows, gram),
    counted_rows=write(memory.counted_rows, counted),
    weight_rows=weight_rows,
    slope_rows=write(memory.slope_rows, slopes),
    sloped_rows=write(memory.sloped_rows, sloped),
    inner=inner,
  )


def _of_weights(rule: WeightRule[Any], window: int, num_tasks: int) -> Rule:
  """The rule that also records."""

  def init() -> TrackMemory:
    return _empty(window, num_tasks, True, rule.init())

  def observe(step: Step, memory: TrackMemory) -> TrackMemory:
    return memory._replace(inner=rule.observe(step, memory.inner))

  def weigh(step: Step, memory: TrackMemory) -> tuple[jax.Array, TrackMemory]:
    seen, gram, counted = _measured(step)
    weights, inner = rule.weigh(seen, memory.inner)
    weights = step.only_active(weights.astype(solver_dtype()))
    mine = jnp.where(counted, weights, jnp.zeros_like(weights))
    slopes = jnp.matmul(gram, mine, precision="highest")
    if rule.max_norm is not None and step.gradients.at_params:
      # The update is limited after the rule; at a representation its norm is
      # not known here.
      norm = jnp.sqrt(jnp.maximum(jnp.sum(mine * slopes), 0))
      limit = jnp.asarray(rule.max_norm, norm.dtype)
      slopes *= jnp.where(norm > limit, limit / norm, jnp.ones_like(norm))
    memory = _record(window, memory, inner, gram, counted, weights, slopes)
    return weights, memory

  return WeightRule(weigh, init, observe, rule.max_norm)


def _of_update(rule: UpdateRule[Any], window: int, num_tasks: int) -> Rule:
  """The same where there are no weights."""

  def init(params: Any) -> TrackMemory:
    return _empty(window, num_tasks, False, rule.init(params))

  def update(step: Step, memory: TrackMemory) -> tuple[Any, TrackMemory]:
    seen, gram, counted = _measured(step)
    new, inner = rule.update(seen, memory.inner)
    slopes = None
    if step.gradients.at_params:
      slopes = step.gradients.project(new)
      slopes = jnp.where(counted, slopes, jnp.zeros_like(slopes))
    return new, _record(window, memory, inner, gram, counted, None, slopes)

  return UpdateRule(update, init)
