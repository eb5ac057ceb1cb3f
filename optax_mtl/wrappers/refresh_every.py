"""Weights that are computed now and then, and kept in between."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.wrappers._wrapped import change_weights

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)


class RefreshEveryMemory(NamedTuple):
  """What a method remembers under `refresh_every`.

  Attributes:
    refresh_step: Scalar int32, updates since the last refresh, negative before
      the first; under a schedule, updates so far.
    kept_weights: Array [T], those of the last refresh.
    inner: The memory of the method's own rule.
  """

  refresh_step: jax.Array
  kept_weights: jax.Array
  inner: Any


def refresh_every(
  inner: _Transformation,
  every_k: ArrayLike | Callable[[jax.Array], ArrayLike],
  *,
  first: ArrayLike = 0,
  initial_weights: _checks.TaskValues = 1.0,
) -> _Transformation:
  """Computes a method's weights every k-th update, and keeps them in between.

  The first update computes them, or that with the number `first`; before it,
  the weights are `initial_weights`. In between, with the implicit source, the
  step costs one backward pass: the T passes of the Gram matrix lie in the
  branch that is not taken. What a method counts or averages over all steps
  goes on (the epochs of `dwa`, the KPIs of `dtp`, the budget of `pareto_mtl`),
  and so does a limit on the update's norm (`nash_mtl`, `fairgrad`); what it
  learns from the Gram matrix stands still.

  A task that is absent when the weights are computed has weight 0 until the
  next time.

  Args:
    inner: A method of this package, or other wrappers around one; the rest of
      the chain comes after.
    every_k: How many updates use the same weights, at least 1. Or a schedule:
      a function from the number of an update, a scalar int32 that counts from
      0, to a bool, whether that update computes the weights.
    first: The number of the first update that computes the weights. Default 0.
      jaxpi refreshes after the step 0, that is with 1.
    initial_weights: The weights before, a number (default 1) or one for each
      task, in the order of the rows or as a dict by the tasks' names.

  Returns:
    The transformation, with the same update arguments.

  Raises:
    TypeError: `inner` is no method, or has no weights, or a schedule returns
      something else than a bool.
    ValueError: `every_k` is below 1, `first` is negative, or `initial_weights`
      does not fit the tasks, or has nothing to stand before.

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
  scheduled = callable(every_k)
  _checks.check_whole("every_k", every_k, 1)
  _checks.check_whole("first", first, 0)

  def due(step: jax.Array) -> jax.Array:
    """Whether this update computes the weights, a scalar bool."""
    if not callable(every_k):
      return step == 0
    refreshes = jnp.asarray(every_k(step))
    if refreshes.dtype != jnp.bool_ or refreshes.ndim:
      raise TypeError(
        "refresh_every needs a schedule that says whether the update number "
        "`step` computes the weights, a scalar bool; it returned "
        f"{refreshes.dtype}{list(refreshes.shape)}. For every k-th update: "
        "lambda step: step % k == 0."
      )
    return refreshes & (step >= jnp.asarray(first, jnp.int32))

  def following(step: jax.Array) -> jax.Array:
    """The next `refresh_step`."""
    if callable(every_k):
      return step + 1
    last = step + 1 >= jnp.asarray(every_k, jnp.int32)
    return jnp.where(last, jnp.zeros_like(step), step + 1)

  def change(num_tasks: int, rule: WeightRule[Any]) -> WeightRule[Any]:
    initial = _checks.number_or_task_argument(
      initial_weights, num_tasks, "initial_weights"
    )
    at_once = not scheduled and _checks.is_known(first, 0)
    if at_once and not _checks.is_known(initial_weights, 1):
      raise ValueError(
        "initial_weights= are the weights before the first update that "
        "computes them, and with first=0 there is none before: give first=, or "
        "leave initial_weights= out."
      )

    def init() -> RefreshEveryMemory:
      start = 0 if scheduled else -jnp.asarray(first, jnp.int32)
      return RefreshEveryMemory(
        refresh_step=jnp.asarray(start, jnp.int32),
        kept_weights=initial.values.astype(solver_dtype()),
        inner=rule.init(),
      )

    def observe(step: Step, memory: RefreshEveryMemory) -> RefreshEveryMemory:
      return memory._replace(inner=rule.observe(step, memory.inner))

    def weigh(
      step: Step, memory: RefreshEveryMemory
    ) -> tuple[jax.Array, RefreshEveryMemory]:
      _checks.check_names(initial, step.names, "refresh_every")

      def fresh(inner: Any) -> tuple[jax.Array, Any]:
        weights, inner = rule.weigh(step, inner)
        return step.only_active(weights.astype(solver_dtype())), inner

      weights, inner = jax.lax.cond(
        due(memory.refresh_step),
        fresh,
        lambda inner: (memory.kept_weights, inner),
        memory.inner,
      )
      count = following(memory.refresh_step)
      return weights, RefreshEveryMemory(count, weights, inner)

    return WeightRule(weigh, init, observe, rule.max_norm)

  return change_weights(inner, change, "refresh_every")
