"""Transformations around a method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks, metrics
from optax_mtl._base import WeightedCombination
from optax_mtl._dtypes import solver_dtype
from optax_mtl._per_task import per_task
from optax_mtl.linalg import tree_finite
from optax_mtl.sources.task_gradients import as_task_gradients

__all__ = [
  "AccumulateState",
  "RefreshEveryState",
  "SkipNonfiniteState",
  "TrackConflictsState",
  "accumulate",
  "per_task",
  "refresh_every",
  "skip_nonfinite",
  "track_conflicts",
]


class RefreshEveryState(NamedTuple):
  """State of `refresh_every`.

  Attributes:
    refresh_step: Scalar int32, updates since the last refresh.
    inner_state: The method's state; its `weights` are those of the last
      refresh.
  """

  refresh_step: jax.Array
  inner_state: Any


def refresh_every(
  inner: optax.GradientTransformationExtraArgs, every_k: Any
) -> optax.GradientTransformationExtraArgs:
  """Computes a method's weights every k-th update, and keeps them in between.

  The first update computes them. In between, the method's state stands still,
  and with the implicit source the step costs one backward pass: the T passes of
  the Gram matrix lie in the branch that is not taken.

  A task that is absent when the weights are computed has weight 0 until the
  next time.

  Args:
    inner: A method of this package, as its constructor returns it; the rest of
      the chain comes after.
    every_k: How many updates use the same weights, at least 1.

  Returns:
    A transformation with the update arguments of `inner`.

  Raises:
    TypeError: `inner` is not a method of this package.
    ValueError: `every_k` is below 1.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.refresh_every(optax_mtl.mgda(num_tasks=2), 10)
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 2.0]]), state)
    >>> updates, state = tx.update(jnp.array([[2.0, 0.0], [0.0, 2.0]]), state)
    >>> print(updates.round(3))
    [1.6 0.4]
  """
  if not isinstance(inner, WeightedCombination):
    raise TypeError(
      "refresh_every wraps a method of optax_mtl itself, got "
      f"{type(inner).__name__}. Put it inside the chain: "
      "optax.chain(refresh_every(method, k), optax.adam(...))."
    )
  _checks.check_range("every_k", every_k, 1)

  def init_fn(params):
    return RefreshEveryState(jnp.zeros((), jnp.int32), inner.init(params))

  def update_fn(updates, state, params=None, *, active=None, **extra_args):
    step = inner.prepare(updates, params, active, extra_args)
    inner_state = jax.lax.cond(
      state.refresh_step == 0,
      lambda old: inner.weigh(step, old),
      lambda old: old,
      state.inner_state,
    )
    count = (state.refresh_step + 1) % jnp.asarray(every_k, jnp.int32)
    updates = inner.combine(step, inner_state.weights, params)
    return updates, RefreshEveryState(count, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class AccumulateState(NamedTuple):
  """State of `accumulate`.

  Attributes:
    mini_step: Scalar int32, batches accumulated so far.
    gradient_sum: Tree with leaves [T, *param.shape], at least float32.
    loss_sum: Array [T].
    batch_count: Array [T] int32, the batches in which a task was active.
    inner_state: The state of what is wrapped.
  """

  mini_step: jax.Array
  gradient_sum: Any
  loss_sum: jax.Array
  batch_count: jax.Array
  inner_state: Any


def accumulate(
  inner: optax.GradientTransformation, num_tasks: int, every_k: Any
) -> optax.GradientTransformationExtraArgs:
  """Averages task gradients over k batches before each update.

  What `optax.MultiSteps` is for one gradient: its accumulators have the params'
  shapes, these have [T, *shape]. Each task's gradient and loss are averaged
  over the batches in which it was active; a task that was in none is absent
  from the update. Other extra args are those of the last batch. In between, the
  updates are zero and nothing of `inner` runs.

  Args:
    inner: A method, or a chain that begins with one.
    num_tasks: The number of tasks `T`.
    every_k: How many batches make an update, at least 1.

  Returns:
    A transformation with the update arguments of `inner`. With a source that
    stores no gradients, they are computed for every batch.

  Raises:
    ValueError: `every_k` is below 1, or the updates are not stacked.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.accumulate(optax_mtl.mgda(2), num_tasks=2, every_k=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[2.0, 0.0], [0.0, 0.0]]), state)
    >>> print(updates)
    [0. 0.]
    >>> updates, state = tx.update(jnp.array([[0.0, 0.0], [0.0, 4.0]]), state)
    >>> print(updates.round(3))
    [0.8 0.4]
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  _checks.check_range("every_k", every_k, 1)
  inner = optax.with_extra_args_support(inner)

  def wide(dtype):
    # Strict promotion refuses to name a common dtype, even one that is meant.
    with jax.numpy_dtype_promotion("standard"):
      return jnp.promote_types(dtype, jnp.float32)

  def init_fn(params):
    return AccumulateState(
      mini_step=jnp.zeros((), jnp.int32),
      gradient_sum=jax.tree.map(
        lambda p: jnp.zeros(
          (num_tasks, *jnp.shape(p)), wide(jnp.result_type(p))
        ),
        params,
      ),
      loss_sum=jnp.zeros((num_tasks,), solver_dtype()),
      batch_count=jnp.zeros((num_tasks,), jnp.int32),
      inner_state=inner.init(params),
    )

  def update_fn(updates, state, params=None, *, active=None, **extra_args):
    gradients = as_task_gradients(updates, num_tasks, params).stacked()
    if active is None:
      present = jnp.ones((num_tasks,), jnp.bool_)
    else:
      present = _checks.task_mask(active, num_tasks, "active")

    def add(total, new):
      mask = present.reshape((-1,) + (1,) * (new.ndim - 1))
      return total + jnp.where(mask, new, jnp.zeros_like(new)).astype(
        total.dtype
      )

    gradient_sum = jax.tree.map(add, state.gradient_sum, gradients)
    loss_sum = state.loss_sum
    if extra_args.get("losses") is not None:
      losses = _checks.task_vector(extra_args["losses"], num_tasks, "losses")
      loss_sum = add(loss_sum, losses)
    count = state.batch_count + present.astype(jnp.int32)
    mini_step = state.mini_step + 1

    def mean(total):
      number = jnp.maximum(count, 1).astype(total.dtype)
      return total / number.reshape((-1,) + (1,) * (total.ndim - 1))

    def emit(inner_state):
      averaged = jax.tree.map(
        lambda total, new: mean(total).astype(new.dtype),
        gradient_sum,
        gradients,
      )
      extra = dict(extra_args)
      if extra.get("losses") is not None:
        extra["losses"] = mean(loss_sum)
      if active is not None:
        extra["active"] = count > 0
      new, inner_state = inner.update(averaged, inner_state, params, **extra)
      return new, AccumulateState(
        mini_step=jnp.zeros_like(mini_step),
        gradient_sum=jax.tree.map(jnp.zeros_like, gradient_sum),
        loss_sum=jnp.zeros_like(loss_sum),
        batch_count=jnp.zeros_like(count),
        inner_state=inner_state,
      )

    shapes = jax.eval_shape(emit, state.inner_state)[0]

    def wait(inner_state):
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      return zeros, AccumulateState(
        mini_step, gradient_sum, loss_sum, count, inner_state
      )

    due = mini_step >= jnp.asarray(every_k, jnp.int32)
    return jax.lax.cond(due, emit, wait, state.inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class SkipNonfiniteState(NamedTuple):
  """State of `skip_nonfinite`.

  Attributes:
    skipped_in_a_row: Scalar int32.
    skipped_total: Scalar int32.
    inner_state: The state of what is wrapped.
  """

  skipped_in_a_row: jax.Array
  skipped_total: jax.Array
  inner_state: Any


def skip_nonfinite(
  inner: optax.GradientTransformation, max_consecutive: int = 5
) -> optax.GradientTransformationExtraArgs:
  """Leaves out updates that are not finite, and keeps the state from them.

  What `optax.apply_if_finite` is for one gradient. A step is skipped if the
  update or the new state of `inner` holds a NaN or inf: the update is zero
  then, and the state stays. After `max_consecutive` skipped steps in a row the
  next one goes through as it is, so that a run that broke for good shows it. To
  go on with the tasks that are finite instead, build the method with
  `on_nonfinite="drop"`.

  Args:
    inner: A method, or a chain that begins with one.
    max_consecutive: How many steps in a row may be skipped. Default 5.

  Returns:
    A transformation with the update arguments of `inner`.

  Raises:
    ValueError: `max_consecutive` is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.skip_nonfinite(optax_mtl.mgda(num_tasks=2))
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [jnp.nan, 2.0]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates, state.skipped_total)
    [0. 0.] 1
  """
  _checks.check_range("max_consecutive", max_consecutive, 0)
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    zero = jnp.zeros((), jnp.int32)
    return SkipNonfiniteState(zero, zero, inner.init(params))

  def update_fn(updates, state, params=None, **extra_args):
    new, inner_state = inner.update(
      updates, state.inner_state, params, **extra_args
    )
    inexact = [
      leaf
      for leaf in jax.tree.leaves((new, inner_state))
      if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    fine = tree_finite(inexact)
    goes = fine | (state.skipped_in_a_row >= max_consecutive)
    pick = lambda a, b: jnp.where(goes, a, b)  # noqa: E731
    skipped = (~fine).astype(jnp.int32)
    return jax.tree.map(lambda u: pick(u, jnp.zeros_like(u)), new), (
      SkipNonfiniteState(
        skipped_in_a_row=jnp.where(goes, 0, state.skipped_in_a_row + 1),
        skipped_total=state.skipped_total + jnp.where(goes, 0, skipped),
        inner_state=jax.tree.map(pick, inner_state, state.inner_state),
      )
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class TrackConflictsState(NamedTuple):
  """State of `track_conflicts`.

  Attributes:
    cosines: Array [T, T], the cosines between the task gradients.
    conflict_rate: Scalar, the share of pairs of active tasks whose inner
      product is negative.
    inner_state: The state of what is wrapped.
  """

  cosines: jax.Array
  conflict_rate: jax.Array
  inner_state: Any


def track_conflicts(
  inner: optax.GradientTransformation, num_tasks: int
) -> optax.GradientTransformationExtraArgs:
  """Records how far the task gradients of the last step conflicted.

  Read the figures with `optax.tree.get(opt_state, "conflict_rate")`. They cost
  a Gram matrix over all leaves: little beside stacked gradients, but T more
  backward passes with the implicit source.

  Args:
    inner: A method, or a chain that begins with one.
    num_tasks: The number of tasks `T`.

  Returns:
    A transformation with the update arguments of `inner`.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> method = optax_mtl.equal_weighting(num_tasks=2)
    >>> tx = optax_mtl.track_conflicts(method, num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(state.conflict_rate)
    1.0
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  inner = optax.with_extra_args_support(inner)

  def init_fn(params):
    dtype = solver_dtype()
    return TrackConflictsState(
      cosines=jnp.eye(num_tasks, dtype=dtype),
      conflict_rate=jnp.zeros((), dtype),
      inner_state=inner.init(params),
    )

  def update_fn(updates, state, params=None, **extra_args):
    gram = as_task_gradients(updates, num_tasks, params).gram()
    active = extra_args.get("active")
    if active is not None:
      active = _checks.task_mask(active, num_tasks, "active")
      both = active[:, None] & active[None, :]
      gram = jnp.where(both, gram, jnp.zeros_like(gram))
    new, inner_state = inner.update(
      updates, state.inner_state, params, **extra_args
    )
    return new, TrackConflictsState(
      metrics.conflict_cosines(gram),
      metrics.conflict_rate(gram, active),
      inner_state,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
