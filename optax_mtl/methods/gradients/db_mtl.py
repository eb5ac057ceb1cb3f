"""DB-MTL: averaged gradients of the log-losses, as long as the largest."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.methods.gradients._tracking import decayed, tracked
from optax_mtl.methods.gradients._trunk import (
  as_update,
  replaced,
  trunk_of,
  trunk_rows,
  zero_rows,
)
from optax_mtl.methods.losses._positive import positive_losses


class DbMtlMemory(NamedTuple):
  """What `db_mtl` remembers.

  Attributes:
    gradient_buffer: Tree with leaves [T, *param.shape], the moving average of
      each task's gradient, from zero.
    buffer_steps: Array [T] int32, how many gradients an average is over.
  """

  gradient_buffer: Any
  buffer_steps: jax.Array


@method(
  paper="Lin et al., Dual-Balancing for Multi-Task Learning, 2023",
  url="https://arxiv.org/abs/2308.12029",
  weights_sum="free",
  claims=["scale_equivariant"],
)
def db_mtl(
  num_tasks: int,
  decay: ArrayLike = 0.9,
  *,
  decay_power: ArrayLike = 0.0,
  logarithms: bool = True,
) -> UpdateRule[DbMtlMemory]:
  """DB-MTL: averaged gradients of the log-losses, all as long as the largest.

  Two scales are balanced. That of the losses: their logarithms are descended,
  whose gradients are `g_i / L_i`. That of the gradients: with the moving
  averages `b_i ← β_k b_i + (1 - β_k) g_i / L_i`, `β_k = β / k^σ`, the update is
  `Σ (max_j ‖b_j‖ / ‖b_i‖) b_i`. So each task moves the params as far as the
  one with the largest gradient, and a loss in other units changes nothing. The
  sum of the factors is free.

  The averages start at zero, as in the authors' code, and are not corrected
  for it: with β = 0.9 the first update is a tenth as long as it would be, and
  the twentieth nine tenths. Each is over its own task's gradients: an absent
  task's average and its `k` stand still, and it takes no part. So is one whose
  loss is zero, which has no logarithm, and under `jit`, where its value is not
  known, one whose loss is negative. A task without a gradient has the factor
  0.

  Heads get their own gradients, as with every method, and in the paper those
  of the log-losses: `log_losses(db_mtl(T, logarithms=False))` does that too.

  The authors' code adds 1e-8 to each loss and to each norm; here all is
  relative. `norm_balance` with the setting "db_mtl" is the second half alone.

  Args:
    num_tasks: The number of tasks `T`.
    decay: `β` in [0, 1). Default 0.9, as in the authors' code; 0 averages
      nothing.
    decay_power: `σ`, at least 0: how fast the decay fades over the steps.
      Default 0: not at all.
    logarithms: Whether the gradients are divided by the losses. Default True.
      False: they are those of the logarithms already.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T], unless without `logarithms`, and
    takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses` that it needs.
    ValueError: An argument is out of range, or a known loss is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.db_mtl(num_tasks=2, decay=0.5)
    >>> grads, losses = jnp.array([[8.0, 0.0], [0.0, 1.0]]), jnp.ones(2)
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)), losses=losses)
    >>> print(updates)
    [4. 4.]

  References:
    Lin et al., `Dual-Balancing for Multi-Task Learning
    <https://arxiv.org/abs/2308.12029>`_, 2023.
  """
  _checks.check_range("decay", decay, 0, 1, open_high=True)
  _checks.check_range("decay_power", decay_power, 0)

  def init(params: Any) -> DbMtlMemory:
    return DbMtlMemory(
      zero_rows(num_tasks, params), jnp.zeros((num_tasks,), jnp.int32)
    )

  def update(step: Step, memory: DbMtlMemory) -> tuple[Any, DbMtlMemory]:
    scales, counts = jnp.ones((num_tasks,), solver_dtype()), step.active
    if logarithms:
      losses, counts = positive_losses(
        step, "since db_mtl descends their logarithms"
      )
      # A loss that is no number is no reason to leave its task out.
      odd = step.active & ~jnp.isfinite(step.losses)
      scales = jnp.where(odd, jnp.nan, 1 / losses)
      counts |= odd
    steps = memory.buffer_steps + counts.astype(jnp.int32)
    rates = jnp.where(counts, 1 - decayed(decay, decay_power, steps), 0.0)
    buffer = tracked(
      trunk_of(step, memory.gradient_buffer), trunk_rows(step), rates, scales
    )
    lengths = jnp.where(counts, linalg.lengths(buffer, num_tasks), 0.0)
    # Not by the maximum alone: on some platforms it loses a NaN.
    largest = jnp.max(lengths) + 0 * jnp.sum(lengths)
    known = lengths != 0
    factors = jnp.where(known, largest / jnp.where(known, lengths, 1.0), 0.0)
    new = linalg.combine(buffer, factors, counts)
    return as_update(step, new), DbMtlMemory(
      replaced(step, buffer, memory.gradient_buffer), steps
    )

  return UpdateRule(update, init)
