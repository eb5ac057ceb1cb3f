"""Dynamic weight average: weights from how fast each loss falls."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step


class DwaMemory(NamedTuple):
  """What `dwa` remembers.

  Attributes:
    epoch_loss_sum: Array [T], the sum of the losses in the running epoch.
    epoch_loss_count: Array [T] int32, how many losses the sum holds.
    last_epoch_loss: Array [T], the average over the last epoch, `L(t-1)`.
    previous_epoch_loss: Array [T], the one over the epoch before, `L(t-2)`.
    epochs_seen: Array [T] int32, how many averages a task has, 2 at most.
    epoch_step: Scalar int32, the number of updates in the running epoch.
  """

  epoch_loss_sum: jax.Array
  epoch_loss_count: jax.Array
  last_epoch_loss: jax.Array
  previous_epoch_loss: jax.Array
  epochs_seen: jax.Array
  epoch_step: jax.Array


@method(
  paper="Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, "
  "CVPR 2019",
  url="https://arxiv.org/abs/1803.10704",
  weights_sum="T",
  example=lambda tasks: {"steps_per_epoch": 5},
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def dwa(
  num_tasks: int,
  temperature: ArrayLike = 2.0,
  *,
  steps_per_epoch: ArrayLike,
) -> WeightRule[DwaMemory]:
  """Dynamic weight average: a task whose loss falls slower weighs more.

  `w_i = T softmax(r / τ)_i` with `r_i = L_i(t-1) / L_i(t-2)`, where `L(t)` is
  the average loss over epoch t. The weights are 1 for the first two epochs, and
  sum to the number of active tasks T. Each ratio is invariant to the scale of
  its loss.

  The state keeps the averages by itself. A task that was absent for a whole
  epoch keeps its last two averages. Where the older average is not positive, or
  one of the two is not finite, `r_i = 1`. A negative loss, whose ratio would
  turn the rule round, is an error where it is known; under `jit` an average
  that is negative has `r_i = 1` too.

  Args:
    num_tasks: The number of tasks `T`.
    temperature: `τ > 0`; larger is closer to equal weights. Default 2, as in
      the paper.
    steps_per_epoch: How many updates make an epoch, at least 1. There is no
      default, since the averages are what the method rests on; 1 compares
      single steps.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `temperature` or `steps_per_epoch` is out of range, or a loss is
      negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.dwa(num_tasks=2, steps_per_epoch=1)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.ones((2, 2))
    >>> for losses in ([2.0, 2.0], [1.0, 2.0], [1.0, 2.0]):
    ...   _, state = tx.update(grads, state, losses=jnp.array(losses))
    >>> print(np.asarray(state.weights).round(3))
    [0.876 1.124]

  References:
    Liu, Johns & Davison, `End-to-End Multi-Task Learning with Attention
    <https://arxiv.org/abs/1803.10704>`_, CVPR 2019.
  """
  _checks.check_range("temperature", temperature, 0, open_low=True)
  _checks.check_whole("steps_per_epoch", steps_per_epoch, 1)

  def init() -> DwaMemory:
    return DwaMemory(
      epoch_loss_sum=jnp.zeros((num_tasks,), solver_dtype()),
      epoch_loss_count=jnp.zeros((num_tasks,), jnp.int32),
      last_epoch_loss=jnp.zeros((num_tasks,), solver_dtype()),
      previous_epoch_loss=jnp.zeros((num_tasks,), solver_dtype()),
      epochs_seen=jnp.zeros((num_tasks,), jnp.int32),
      epoch_step=jnp.zeros((), jnp.int32),
    )

  def observe(step: Step, memory: DwaMemory) -> DwaMemory:
    """Closes an epoch that is over, and counts this step's losses."""
    _checks.check_not_negative(
      step.losses, "losses=", "since dwa compares them by their ratio"
    )
    ends = memory.epoch_step >= jnp.asarray(steps_per_epoch, jnp.int32)
    count = memory.epoch_loss_count
    seen = ends & (count > 0)
    average = memory.epoch_loss_sum / jnp.maximum(count, 1).astype(
      solver_dtype()
    )

    def reset(value: jax.Array) -> jax.Array:
      return jnp.where(ends, jnp.zeros_like(value), value)

    return DwaMemory(
      epoch_loss_sum=reset(memory.epoch_loss_sum) + step.losses,
      epoch_loss_count=reset(count) + step.active.astype(jnp.int32),
      last_epoch_loss=jnp.where(seen, average, memory.last_epoch_loss),
      previous_epoch_loss=jnp.where(
        seen, memory.last_epoch_loss, memory.previous_epoch_loss
      ),
      epochs_seen=jnp.minimum(memory.epochs_seen + seen.astype(jnp.int32), 2),
      epoch_step=reset(memory.epoch_step) + 1,
    )

  def weigh(step: Step, memory: DwaMemory) -> tuple[jax.Array, DwaMemory]:
    last, previous = memory.last_epoch_loss, memory.previous_epoch_loss
    known = (memory.epochs_seen >= 2) & (last >= 0) & (previous > 0)
    one = jnp.ones_like(last)
    ratio = jnp.where(known, last, one) / jnp.where(known, previous, one)
    logits = jnp.where(jnp.isfinite(ratio), ratio, one)
    logits = logits / jnp.asarray(temperature, logits.dtype)
    weights = step.num_active * jax.nn.softmax(logits, where=step.active)
    return weights, memory

  return WeightRule(weigh, init, observe)
