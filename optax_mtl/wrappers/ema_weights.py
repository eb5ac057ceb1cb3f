"""Weights that move slowly."""

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
    inner: The memory of the method's own rule.
  """

  average: jax.Array
  average_set: jax.Array
  inner: Any


def ema_weights(
  inner: _Transformation, decay: ArrayLike = 0.9
) -> _Transformation:
  """Applies an exponential moving average of a method's weights.

  `w ← decay w + (1 - decay) w_new`, from each task's first weight on. With
  noisy gradients the weights of a solver jump from batch to batch, which biases
  the direction; averaging them is what CR-MOGM does, with any method. An absent
  task's average stands still.

  Args:
    inner: A method of this package, or other wrappers around one.
    decay: Share of the old average in the new one, in [0, 1). Default 0.9, our
      choice; the paper lets it grow towards 1 as the learning rate falls.

  Returns:
    The transformation, with the same update arguments.

  Raises:
    TypeError: `inner` is no method, or has no weights.
    ValueError: `decay` is out of range.

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
  _checks.check_range("decay", decay, 0, 1, open_high=True)

  def change(num_tasks: int, rule: WeightRule[Any]) -> WeightRule[Any]:
    def init() -> EmaWeightsMemory:
      return EmaWeightsMemory(
        average=jnp.zeros((num_tasks,), solver_dtype()),
        average_set=jnp.zeros((num_tasks,), jnp.bool_),
        inner=rule.init(),
      )

    def observe(step: Step, memory: EmaWeightsMemory) -> EmaWeightsMemory:
      return memory._replace(inner=rule.observe(step, memory.inner))

    def weigh(
      step: Step, memory: EmaWeightsMemory
    ) -> tuple[jax.Array, EmaWeightsMemory]:
      new, inner = rule.weigh(step, memory.inner)
      new = new.astype(solver_dtype())
      rate = jnp.where(
        memory.average_set, jnp.asarray(decay, new.dtype), jnp.zeros_like(new)
      )
      average = step.hold(
        rate * memory.average + (1 - rate) * new, memory.average
      )
      known = memory.average_set | step.active
      return average, EmaWeightsMemory(average, known, inner)

    return WeightRule(weigh, init, observe, rule.max_norm)

  return change_weights(inner, change, "ema_weights")
