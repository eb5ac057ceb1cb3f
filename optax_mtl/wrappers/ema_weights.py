"""Weights that move slowly."""

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


class EmaWeightsMemory(NamedTuple):
  """What a method remembers under `ema_weights`.

  Attributes:
    average: Array [T], the exponential moving average of the weights.
    average_set: Array [T] of bool, whether a task has had a weight at all.
    average_step: Scalar int32, updates so far.
    inner: The memory of the method's own rule.
  """

  average: jax.Array
  average_set: jax.Array
  average_step: jax.Array
  inner: Any


def ema_weights(
  inner: _Transformation,
  decay: ArrayLike | Callable[[jax.Array], ArrayLike] = 0.9,
  *,
  initial_weights: _checks.TaskValues | None = None,
) -> _Transformation:
  """Applies an exponential moving average of a method's weights.

  `w ← decay w + (1 - decay) w_new`, from each task's first weight on. With
  noisy gradients the weights of a solver jump from batch to batch, which biases
  the direction. An absent task's average stands still.

  CR-MOGM is this around any method, with a decay that grows towards 1 as the
  learning rate falls, and from uniform weights on:
  `ema_weights(mgda(T), schedule, initial_weights=1 / T)`.

  Args:
    inner: A method of this package, or other wrappers around one.
    decay: Share of the old average in the new one, in [0, 1). Default 0.9, our
      choice. Or a schedule: a function from the number of an update, a scalar
      int32 that counts from 0, to it, as optax's.
    initial_weights: The average before the first update, a number or one for
      each task, in the order of the rows or as a dict by the tasks' names.
      Default None: each task's first weight is its first average.

  Returns:
    The transformation, with the same update arguments.

  Raises:
    TypeError: `inner` is no method, or has no weights.
    ValueError: `decay` is out of range (NaN weights where a schedule's values
      are), or `initial_weights` does not fit the tasks.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.ema_weights(optax_mtl.mgda(num_tasks=2), decay=0.5)
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 2.0]]), state)
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 1.0]]), state)
    >>> print(np.asarray(state.weights).round(3))
    [0.65 0.35]

  References:
    Zhou et al., `On the Convergence of Stochastic Multi-Objective Gradient
    Manipulation and Beyond <https://openreview.net/forum?id=ScwfQ7hdwyP>`_,
    NeurIPS 2022 (CR-MOGM).
  """
  if not callable(decay):
    _checks.check_range("decay", decay, 0, 1, open_high=True)

  def decay_at(number: jax.Array) -> jax.Array:
    """The decay of an update, NaN where a schedule leaves [0, 1)."""
    if not callable(decay):
      return jnp.asarray(decay, solver_dtype())
    value = jnp.asarray(decay(number))
    if value.ndim or not jnp.issubdtype(value.dtype, jnp.floating):
      raise TypeError(
        "ema_weights needs a schedule from the number of an update to the "
        "decay, a scalar float in [0, 1); it returned "
        f"{value.dtype}{list(value.shape)}."
      )
    value = value.astype(solver_dtype())
    return jnp.where((value >= 0) & (value < 1), value, jnp.nan)

  def change(num_tasks: int, rule: WeightRule[Any]) -> WeightRule[Any]:
    initial = _checks.number_or_task_argument(
      0.0 if initial_weights is None else initial_weights,
      num_tasks,
      "initial_weights",
    )
    known = initial_weights is not None

    def init() -> EmaWeightsMemory:
      return EmaWeightsMemory(
        average=initial.values.astype(solver_dtype()),
        average_set=jnp.full((num_tasks,), known, jnp.bool_),
        average_step=jnp.zeros((), jnp.int32),
        inner=rule.init(),
      )

    def observe(step: Step, memory: EmaWeightsMemory) -> EmaWeightsMemory:
      return memory._replace(inner=rule.observe(step, memory.inner))

    def weigh(
      step: Step, memory: EmaWeightsMemory
    ) -> tuple[jax.Array, EmaWeightsMemory]:
      _checks.check_names(initial, step.names, "ema_weights")
      new, inner = rule.weigh(step, memory.inner)
      new = new.astype(solver_dtype())
      rate = jnp.where(
        memory.average_set, decay_at(memory.average_step), jnp.zeros_like(new)
      )
      average = step.hold(
        rate * memory.average + (1 - rate) * new, memory.average
      )
      return average, EmaWeightsMemory(
        average=average,
        average_set=memory.average_set | step.active,
        average_step=jnp.asarray(optax.safe_increment(memory.average_step)),
        inner=inner,
      )

    return WeightRule(weigh, init, observe, rule.max_norm)

  return change_weights(inner, change, "ema_weights")
