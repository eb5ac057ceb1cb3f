"""Dynamic weight average: weights from how fast each loss falls."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype


class DwaState(NamedTuple):
  """State of `dwa`.

  Attributes:
    weights: Array [T], the weights of the last update.
    epoch_loss_sum: Array [T], the sum of the losses in the running epoch.
    epoch_loss_count: Array [T] int32, how many losses the sum holds.
    last_epoch_loss: Array [T], the average over the last epoch, `L(t-1)`.
    previous_epoch_loss: Array [T], the one over the epoch before, `L(t-2)`.
    epochs_seen: Array [T] int32, how many averages a task has, 2 at most.
    epoch_step: Scalar int32, the number of updates in the running epoch.
  """

  weights: jax.Array
  epoch_loss_sum: jax.Array
  epoch_loss_count: jax.Array
  last_epoch_loss: jax.Array
  previous_epoch_loss: jax.Array
  epochs_seen: jax.Array
  epoch_step: jax.Array


@_base.method(
  paper="Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, "
  "CVPR 2019",
  url="https://arxiv.org/abs/1803.10704",
  family="loss",
  needs=["losses"],
  weights_sum="T",
  example=lambda tasks: {"steps_per_epoch": 5},
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def dwa(
  num_tasks: int,
  temperature: Any = 2.0,
  *,
  steps_per_epoch: Any,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Dynamic weight average: a task whose loss falls slower weighs more.

  `w_i = T softmax(r / τ)_i` with `r_i = L_i(t-1) / L_i(t-2)`, where `L(t)` is
  the average loss over epoch t. The weights are 1 for the first two epochs, and
  sum to the number of active tasks T. Each ratio is invariant to the scale of
  its loss.

  The state keeps the averages by itself. A task that was absent for a whole
  epoch keeps its last two averages. Where the older average is zero, or one of
  the two is not finite, `r_i = 1`.

  Args:
    num_tasks: The number of tasks `T`.
    temperature: `τ > 0`; larger is closer to equal weights. Default 2, as in
      the paper.
    steps_per_epoch: How many updates make an epoch, at least 1. There is no
      default, since the averages are what the method rests on; 1 compares
      single steps.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: What the other leaves get: "sum", each task's own gradient, or
      "weighted", the same weights as the trunk.
    on_nonfinite: "propagate" a NaN or inf, or "drop" the task for this step,
      judged by what `update` gets: see `value_and_task_grads` on NaN.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `temperature` or `steps_per_epoch` is out of range.

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
  num_tasks = _checks.check_num_tasks(num_tasks)
  _checks.check_range("temperature", temperature, 0, open_low=True)
  _checks.check_range("steps_per_epoch", steps_per_epoch, 1)

  def init():
    zeros = jnp.zeros((num_tasks,), solver_dtype())
    counts = jnp.zeros((num_tasks,), jnp.int32)
    return DwaState(
      weights=jnp.ones((num_tasks,), solver_dtype()),
      epoch_loss_sum=zeros,
      epoch_loss_count=counts,
      last_epoch_loss=zeros,
      previous_epoch_loss=zeros,
      epochs_seen=counts,
      epoch_step=jnp.zeros((), jnp.int32),
    )

  def weigh(step, state):
    dtype = solver_dtype()
    ratio = state.last_epoch_loss / state.previous_epoch_loss
    known = (state.epochs_seen >= 2) & jnp.isfinite(ratio)
    logits = jnp.where(known, ratio, 1.0) / jnp.asarray(temperature, dtype)
    weights = step.num_active * jax.nn.softmax(logits, where=step.active)

    total = state.epoch_loss_sum + step.losses
    count = state.epoch_loss_count + step.active.astype(jnp.int32)
    epoch_step = state.epoch_step + 1
    ends = epoch_step >= jnp.asarray(steps_per_epoch, jnp.int32)
    seen = ends & (count > 0)
    average = total / jnp.maximum(count, 1).astype(dtype)
    return DwaState(
      weights=weights.astype(dtype),
      epoch_loss_sum=jnp.where(ends, jnp.zeros_like(total), total),
      epoch_loss_count=jnp.where(ends, jnp.zeros_like(count), count),
      last_epoch_loss=jnp.where(seen, average, state.last_epoch_loss),
      previous_epoch_loss=jnp.where(
        seen, state.last_epoch_loss, state.previous_epoch_loss
      ),
      epochs_seen=jnp.minimum(state.epochs_seen + seen.astype(jnp.int32), 2),
      epoch_step=jnp.where(ends, jnp.zeros_like(epoch_step), epoch_step),
    )

  return _base.weighted_combination(
    "dwa",
    num_tasks,
    init,
    weigh,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
