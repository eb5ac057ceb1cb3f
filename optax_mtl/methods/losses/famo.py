"""FAMO: logits that learn from how much each task's log-loss fell."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._task_optimizer import task_optimizer
from optax_mtl.methods.losses._positive import shares


class FamoMemory(NamedTuple):
  """What `famo` remembers.

  Attributes:
    task_logits: Array [T], `ξ`.
    task_logit_optimizer: State of the optimizer of `ξ`, one for each task.
    last_losses: Array [T], the losses of each task's last update.
    last_loss_step: Array [T] int32, which update that was; -1 for none.
    loss_step: Scalar int32, the number of updates so far.
  """

  task_logits: jax.Array
  task_logit_optimizer: optax.OptState
  last_losses: jax.Array
  last_loss_step: jax.Array
  loss_step: jax.Array


@method(
  paper="Liu, Feng, Stone & Liu, FAMO: Fast Adaptive Multitask Optimization, "
  "NeurIPS 2023",
  url="https://arxiv.org/abs/2306.03792",
  weights_sum="1",
  claims=[
    "simplex",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def famo(
  num_tasks: int,
  *,
  decay: ArrayLike = 1e-3,
  optimizer: optax.GradientTransformation | None = None,
  min_losses: _checks.TaskValues = 0.0,
  eps: ArrayLike = 1e-8,
  max_norm: ArrayLike | None = None,
) -> WeightRule[FamoMemory]:
  """FAMO: brings all log-losses down at the same rate, at one backward pass.

  With `z = softmax(ξ)` and `D_i = L_i - L_i,min + ε`, the weights are
  `w_i = (z_i / D_i) / Σ_j (z_j / D_j)`, which sum to 1. After the step, `ξ`
  descends by `z_i (f_i - Σ_j z_j f_j) + decay ξ_i`, where
  `f_i = log D_i(before) - log D_i(after)` is how far task i fell: a task that
  fell less than the others gains weight.

  The losses after the step are those of the *same* batch, one more forward pass
  that the training step makes: pass them with the next update as
  `previous_losses`. Without them the losses of the next update stand in, those
  of another batch; with full batches that is the same, and with small ones `ξ`
  follows the noise between batches.

  The weights are those of a descent of log-losses, which is unbounded below
  where one loss can reach zero by itself, as the boundary condition of an
  equation can. A larger `eps` bounds the weights there: no task is then
  weighed as if its loss were below it.

  A task learns in an update if it takes part in it and took part in the last
  one; without `previous_losses`, if it ever did. A loss below its minimum
  counts as at it, and one that is not finite teaches nothing.

  Args:
    num_tasks: The number of tasks `T`.
    decay: Pull of `ξ` towards zero, added to its gradient, so that the
      optimizer sees it. Default 1e-3, as in the authors' experiments; their
      stand-alone code has 0.01. It outweighs small differences between tasks:
      on the two-task landscape that papers draw, three of five starts reach the
      front with it, and all five with 0.
    optimizer: Optimizer of `ξ`, run for each task by itself. Default:
      `optax.adam(0.025)`, as in the authors' code.
    min_losses: `L_min`, a number (default 0) or one for each task, in the
      order of the rows or as a dict by the tasks' names.
    eps: `ε > 0`, in the unit of the losses. Default 1e-8, as in the authors'
      code; make it small beside the losses that you expect in the end.
    max_norm: The norm of the combined gradient, over the shared leaves, is
      scaled down to this. Default None: not at all; the authors' code limits
      it to 1.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T], and takes `previous_losses` [T],
    the last batch's after the last update, and `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `decay`, `eps` or `max_norm` is out of range, or `min_losses`
      does not fit the tasks.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.famo(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads, losses = jnp.eye(2), jnp.array([1.0, 4.0])
    >>> updates, state = tx.update(grads, state, losses=losses)
    >>> print(updates)
    [0.8 0.2]
    >>> after = jnp.array([0.5, 4.0])  # task 1 did not fall
    >>> updates, state = tx.update(
    ...   grads, state, losses=losses, previous_losses=after
    ... )
    >>> print(np.asarray(updates).round(3))
    [0.792 0.208]

  References:
    Liu, Feng, Stone & Liu, `FAMO: Fast Adaptive Multitask Optimization
    <https://arxiv.org/abs/2306.03792>`_, NeurIPS 2023.
  """
  _checks.check_range("decay", decay, 0)
  _checks.check_range("eps", eps, 0, open_low=True)
  _checks.check_range("max_norm", max_norm, 0, open_low=True)
  inner = task_optimizer(optimizer, num_tasks)
  minimum = _checks.number_or_task_argument(min_losses, num_tasks, "min_losses")

  def init() -> FamoMemory:
    dtype = solver_dtype()
    return FamoMemory(
      task_logits=jnp.zeros((num_tasks,), dtype),
      task_logit_optimizer=inner.init(),
      last_losses=jnp.zeros((num_tasks,), dtype),
      last_loss_step=jnp.full((num_tasks,), -1, jnp.int32),
      loss_step=jnp.zeros((), jnp.int32),
    )

  def log_distance(step: Step, losses: jax.Array) -> jax.Array:
    """`log D` [T]; a loss that is NaN gives NaN."""
    above = jnp.maximum(losses - step.given(minimum).astype(losses.dtype), 0)
    return jnp.log(above + jnp.asarray(eps, losses.dtype))

  def observe(step: Step, memory: FamoMemory) -> FamoMemory:
    """Learns from what the last update did to the losses."""
    learns = step.active & (memory.last_loss_step >= 0)
    after = step.losses
    if step.has("previous_losses"):
      after = step.previous_losses
      # Of a task that was absent from it, the last update says nothing.
      learns &= memory.last_loss_step == memory.loss_step - 1
    fall = log_distance(step, memory.last_losses) - log_distance(step, after)
    learns &= jnp.isfinite(fall)
    fall = jnp.where(learns, fall, 0.0)
    logits = memory.task_logits
    share = shares(logits, learns)
    gradient = share * (fall - jnp.sum(share * fall))
    gradient += jnp.asarray(decay, gradient.dtype) * logits
    change, optimizer_state = inner.step(gradient, memory.task_logit_optimizer)
    given = step.active & jnp.isfinite(step.losses)
    return FamoMemory(
      task_logits=step.hold(
        (logits + change).astype(logits.dtype), logits, learns
      ),
      task_logit_optimizer=step.hold(
        optimizer_state, memory.task_logit_optimizer, learns
      ),
      last_losses=step.hold(step.losses, memory.last_losses, given),
      last_loss_step=step.hold(
        jnp.full_like(memory.last_loss_step, memory.loss_step),
        memory.last_loss_step,
        given,
      ),
      loss_step=memory.loss_step + 1,
    )

  def weigh(step: Step, memory: FamoMemory) -> tuple[jax.Array, FamoMemory]:
    # `z / D` over its sum: the normaliser of `z` drops out.
    logits = memory.task_logits - log_distance(step, step.losses)
    return jax.nn.softmax(logits, where=step.active), memory

  return WeightRule(weigh, init, observe, max_norm)
