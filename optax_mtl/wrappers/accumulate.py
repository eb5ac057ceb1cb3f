"""Task gradients averaged over several batches before each update."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks, _jax_internals, _state_checks, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._transformation import warn_of_slips
from optax_mtl.sources.stacked import as_task_gradients
from optax_mtl.wrappers._wrapped import (
  Wrapped,
  init_around,
  within_translators,
  wrapped,
)


class AccumulateState(NamedTuple):
  """State of `accumulate`.

  Attributes:
    mini_step: Scalar int32, batches accumulated so far.
    update_step: Scalar int32, updates made so far.
    gradient_sum: Tree with leaves [T, *param.shape], at least float32.
    loss_sum: Array [T].
    total_count: Array [T], the batches in which a task was active; or, with
      `counts=`, the sum of those.
    inner_state: The state of what is wrapped.
  """

  mini_step: jax.Array
  update_step: jax.Array
  gradient_sum: Any
  loss_sum: jax.Array
  total_count: jax.Array
  inner_state: Any


def accumulate(
  inner: optax.GradientTransformation,
  num_tasks: int,
  every_k: ArrayLike | Callable[[jax.Array], ArrayLike],
) -> Wrapped:
  """Averages task gradients over k batches before each update.

  What `optax.MultiSteps` is for one gradient: its accumulators have the params'
  shapes, these have [T, *shape]. Each task's gradient and loss are averaged
  over the batches in which it was active; a task that was in none is absent
  from the update. Other extra args are those of the last batch. In between, the
  updates are zero and nothing of `inner` runs: so the whole chain belongs
  inside. An Adam that comes after it would step on the zeros.

  A loss that is a mean over labels, of which batches have unequally many, needs
  `counts=` [T] with each update, or a dict by the tasks' names: how many labels
  each mean is over. What is averaged is then weighted by them, which gives the
  mean over all labels, and a task with a count of zero is absent; a mean of the
  batches' means would give a label more weight, the fewer there are beside it.
  A count that is negative is an error where it is known, and counts as zero
  under `jit`; one that is NaN shows in the update. Give counts with each of the
  k batches or with none: a batch without them counts as one label.

  Args:
    inner: A method, or a chain that begins with one.
    num_tasks: The number of tasks `T`.
    every_k: How many batches make an update, at least 1. Or a schedule, as
      `optax.MultiSteps` takes it: a function from the number of updates made so
      far, a scalar int32, to how many batches make the next one.

  Returns:
    A transformation with the update arguments of `inner`, and `counts`. With a
    source that stores no gradients, or only those of the trunk, all of them are
    computed for every batch.

  Raises:
    TypeError: `inner` holds no method, or a schedule returns no integer.
    ValueError: `every_k` is below 1, the updates are not stacked, or a count is
      negative or of tasks with other names.

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
  _checks.check_whole("every_k", every_k, 1)
  if isinstance(inner, Wrapped) and inner.translates:
    return within_translators(
      lambda tx: accumulate(tx, num_tasks, every_k), inner
    )
  _checks.check_transformation("inner", inner)
  inner_tx = optax.with_extra_args_support(inner)

  def batches(update_step: jax.Array) -> jax.Array:
    """How many make this update, a scalar int32."""
    if not callable(every_k):
      return jnp.asarray(every_k, jnp.int32)
    number = jnp.asarray(every_k(update_step))
    if not jnp.issubdtype(number.dtype, jnp.integer) or number.ndim:
      raise TypeError(
        "accumulate needs a schedule that says how many batches make the next "
        f"update, a scalar int; it returned {number.dtype}"
        f"{list(number.shape)}."
      )
    return number.astype(jnp.int32)

  def wide(dtype: Any) -> Any:
    # Strict promotion refuses to name a common dtype, even one that is meant.
    with jax.numpy_dtype_promotion("standard"):
      return jnp.promote_types(dtype, jnp.float32)

  def init(params: Any) -> AccumulateState:
    _checks.check_inexact(params, "the params")
    return AccumulateState(
      mini_step=jnp.zeros((), jnp.int32),
      update_step=jnp.zeros((), jnp.int32),
      gradient_sum=jax.tree.map(
        lambda p: linalg.zeros(num_tasks, p, wide(jnp.result_type(p))),
        params,
      ),
      loss_sum=jnp.zeros((num_tasks,), solver_dtype()),
      total_count=jnp.zeros((num_tasks,), solver_dtype()),
      inner_state=init_around("accumulate", inner_tx, params),
    )

  def update(
    updates: Any,
    state: AccumulateState,
    params: Any = None,
    *,
    active: Any = None,
    counts: Any = None,
    **extra_args: Any,
  ) -> tuple[Any, AccumulateState]:
    _state_checks.check_kind("accumulate", state, AccumulateState)
    source = as_task_gradients(updates, num_tasks, params)
    gradients = source.stacked()
    active = source.taking_part(active)
    number = jnp.ones((num_tasks,), solver_dtype())
    warn_of_slips("accumulate", {**extra_args, "counts": counts}, {"counts"})
    if counts is not None:
      _checks.common_names(
        {
          "the task gradients": source.names,
          "counts=": _checks.task_names(counts),
          "losses=": _checks.task_names(extra_args.get("losses")),
        }
      )
      number = _checks.task_vector(counts, num_tasks, "counts")
      _checks.check_not_negative(number, "counts=", "since they count labels")
      number = jnp.maximum(number, 0)
      # A count that is not finite shows, and is no task's absence.
      active = (number != 0) & (True if active is None else active)
    present = jnp.ones((num_tasks,), jnp.bool_) if active is None else active
    number = jnp.where(present, number, jnp.zeros_like(number))

    def add(total: jax.Array, new: jax.Array) -> jax.Array:
      new = linalg.choose(present, new).astype(total.dtype)
      if counts is None:
        return total + new
      return total + new * linalg.beside(number, new).astype(total.dtype)

    gradient_sum = jax.tree.map(add, state.gradient_sum, gradients)
    loss_sum = state.loss_sum
    if extra_args.get("losses") is not None:
      losses = _checks.task_vector(extra_args["losses"], num_tasks, "losses")
      loss_sum = add(loss_sum, losses)
    count = state.total_count + number
    mini_step = state.mini_step + 1

    def mean(total: jax.Array) -> jax.Array:
      divisor = jnp.where(count == 0, jnp.ones_like(count), count)
      return total / linalg.beside(divisor.astype(total.dtype), total)

    def emit(inner_state: Any) -> tuple[Any, AccumulateState]:
      averaged = jax.tree.map(
        lambda total, new: mean(total).astype(new.dtype),
        gradient_sum,
        gradients,
      )
      means = as_task_gradients(averaged, num_tasks)
      means.names = source.names
      if source.shared is not None:
        means = means.on_trunk(source.shared, source.heads)
      extra = dict(extra_args)
      losses = extra.get("losses")
      if isinstance(losses, Mapping):
        extra["losses"] = dict(zip(sorted(losses), mean(loss_sum), strict=True))
      elif losses is not None:
        extra["losses"] = mean(loss_sum)
      if active is not None:
        extra["active"] = count != 0
      new, inner_state = inner_tx.update(
        cast(Any, means), inner_state, params, **extra
      )
      return new, AccumulateState(
        mini_step=jnp.zeros_like(mini_step),
        update_step=state.update_step + 1,
        gradient_sum=jax.tree.map(jnp.zeros_like, gradient_sum),
        loss_sum=jnp.zeros_like(loss_sum),
        total_count=jnp.zeros_like(count),
        inner_state=inner_state,
      )

    shapes = jax.eval_shape(emit, state.inner_state)[0]

    def wait(inner_state: Any) -> tuple[Any, AccumulateState]:
      # Of the update's types, of which its sharding may be part.
      return jax.tree.map(_jax_internals.zeros, shapes), AccumulateState(
        mini_step,
        state.update_step,
        gradient_sum,
        loss_sum,
        count,
        inner_state,
      )

    due = mini_step >= batches(state.update_step)
    return jax.lax.cond(due, emit, wait, state.inner_state)

  return wrapped(
    init, update, inner, lambda other: accumulate(other, num_tasks, every_k)
  )
