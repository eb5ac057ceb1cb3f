"""IMTL-L: a learnt scale for every loss, at which all are equal."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._task_optimizer import task_optimizer


class ImtlLMemory(NamedTuple):
  """What `imtl_l` remembers.

  Attributes:
    log_scales: Array [T], `s`.
    log_scale_optimizer: State of the optimizer of `log_scales`, one for each
      task.
  """

  log_scales: jax.Array
  log_scale_optimizer: optax.OptState


@method(
  paper="Liu et al., Towards Impartial Multi-task Learning, ICLR 2021",
  url="https://openreview.net/forum?id=IMPnRXEWpvr",
  weights_sum="free",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def imtl_l(
  num_tasks: int,
  *,
  optimizer: optax.GradientTransformation | None = None,
  initial_log_scales: _checks.TaskValues = 0.0,
  bounds: tuple[float, float] = (-10.0, 10.0),
) -> WeightRule[ImtlLMemory]:
  """Impartial learning of the losses: brings all scaled losses to 1.

  The objective is `Σ exp(s_i) L_i - s_i`, the weight `exp(s_i)`. `s` is trained
  on its own closed-form gradient, `exp(s_i) L_i - 1`, by an optimizer in the
  state; the step uses the `s` from before its update, as training it among the
  params would. Where a loss stands still, its weight comes to `1 / L_i`, which
  `scale_invariant` gives without learning. The weights' sum is free.

  Once `s` has settled the network descends `Σ log L_i`, which is unbounded
  below where one loss can reach zero by itself, as the conditions of a
  differential equation can: its weight grows to the bound. Give such losses a
  floor, `L_i + c`, or tighter `bounds`. With the default bounds losses below
  4.5e-5 or above 22,000 are not brought to 1: start at `initial_log_scales`
  near `-log L_i`, and move the bounds. A loss that is negative, which would
  drive `s` up without end, or not finite teaches nothing: that task's `s`
  stands still. So does that of an absent one.

  Args:
    num_tasks: The number of tasks `T`.
    optimizer: Optimizer of `s`, run for each task by itself. Default:
      `optax.adam(0.025)`; the paper trains `s` with the network's own.
    initial_log_scales: The first `s`, a number (default 0) or one for each
      task: a sequence in the order of the rows, or a dict by the tasks' names.
    bounds: `s` is clipped to this interval after each step, our own addition.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: A length or a name is wrong, or the bounds are empty.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.imtl_l(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for _ in range(2):
    ...   losses = jnp.array([0.5, 4.0])
    ...   _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> print(np.asarray(state.weights).round(3))
    [1.025 0.975]

  References:
    Liu et al., `Towards Impartial Multi-task Learning
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_, ICLR 2021.
  """
  low, high = _checks.check_bounds("bounds", bounds)
  inner = task_optimizer(optimizer, num_tasks)
  given = _checks.number_or_task_argument(
    initial_log_scales, num_tasks, "initial_log_scales"
  )

  def init() -> ImtlLMemory:
    return ImtlLMemory(
      # A copy: the state may be donated, and the caller keeps the argument.
      log_scales=jnp.array(given.values, solver_dtype()),
      log_scale_optimizer=inner.init(),
    )

  def weigh(step: Step, memory: ImtlLMemory) -> tuple[jax.Array, ImtlLMemory]:
    step.given(given)  # the names must fit
    scales = memory.log_scales
    weights = jnp.exp(scales)
    learns = step.active & (step.losses >= 0) & (step.losses < jnp.inf)
    losses = jnp.where(learns, step.losses, jnp.ones_like(step.losses))
    change, state = inner.step(weights * losses - 1, memory.log_scale_optimizer)
    moved = jnp.clip(scales + change, low, high).astype(scales.dtype)
    return weights, ImtlLMemory(
      log_scales=step.hold(moved, scales, learns),
      log_scale_optimizer=step.hold(state, memory.log_scale_optimizer, learns),
    )

  return WeightRule(weigh, init)
