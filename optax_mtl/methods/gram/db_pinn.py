"""DB-PINN: balances the residual and its conditions, and those among them."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._reference_task import (
  all_but,
  check_reference_task,
  reference_task,
  row_of_task_0,
)
from optax_mtl.methods.gram._entry_statistics import (
  Statistic,
  entry_statistics,
  positive_ratio,
)

_STATISTICS: dict[str, Statistic] = {
  "mean": "max_mean",
  "std": "std",
  "kurt": "kurtosis",
}


class DbPinnMemory(NamedTuple):
  """What `db_pinn` remembers.

  Attributes:
    condition_weights: Array [T], the running means of the weights, 1 before the
      first.
    condition_weight_count: Array [T] int32, how many each is the mean of.
    loss_means: Array [T], the running means of the losses.
    loss_mean_count: Array [T] int32, how many each is the mean of.
  """

  condition_weights: jax.Array
  condition_weight_count: jax.Array
  loss_means: jax.Array
  loss_mean_count: jax.Array


def _mean_with(
  mean: jax.Array, count: jax.Array, value: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The running mean [T] of one more value, and how many it is of."""
  count = count + 1
  return mean + (value - mean) / count.astype(mean.dtype), count


@method(
  paper="Zhou, Chen, Yang & Png, Dual-Balancing for Physics-Informed Neural "
  "Networks, IJCAI 2025",
  url="https://arxiv.org/abs/2505.11117",
  weights_sum="free",
  example=lambda tasks: {"reference": row_of_task_0(tasks)},
  claims=["positive_weights", "scale_equivariant"],
)
def db_pinn(
  num_tasks: int,
  reference: int | str = 0,
  *,
  statistic: Literal["mean", "std", "kurt"] = "mean",
  relative: bool | None = None,
) -> WeightRule[DbPinnMemory]:
  """Shares one weight among the conditions by how hard each is to fit.

  Task 0 is the residual, whose weight stays 1; the others are conditions. All
  of them together get `h = Σ_i s_0 / s_i`, a sum over the conditions, where `s`
  is a statistic of the gradient's entries over all shared leaves. Of that,
  condition i gets `h ℓ_i / Σ ℓ`, where `ℓ_i` is its loss divided by the running
  mean of its losses. Its weight is the running mean of these values. The
  weights' sum is free.

  The authors compute them every hundredth step, from the first on (in some
  experiments every tenth): `refresh_every(db_pinn(num_tasks), 100)`; by itself
  the method does so in every step. The running means are over these steps.

  Where there is no ratio, since a gradient is zero, absent or not finite, a
  condition leaves both sums and keeps its weight; without the residual all do.
  A negative `ℓ_i` counts as 0. A task whose mean loss is 0 has `ℓ_i = 1`.

  Args:
    num_tasks: The number of tasks `T`.
    reference: The residual, by its row or its name. Default row 0; rows go by
      the order of the sorted names.
    statistic: "mean" (default), the largest absolute entry of the residual's
      gradient over the mean absolute one of the condition's; "std", the
      standard deviations; "kurt", these divided by the kurtosis.
    relative: Whether a condition's statistic is that of its weighted gradient.
      None: for "mean" yes, for the others no, as in the authors' code.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`, or `reference` is neither
      a string nor an index.
    ValueError: An argument is out of range or unknown, or no task has the name.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.db_pinn(num_tasks=3)
    >>> grads = jnp.array([[4.0, 0.0], [2.0, 2.0], [1.0, -1.0]])
    >>> losses = jnp.array([5.0, 1.0, 0.1])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)), losses=losses)
    >>> print(state.weights)
    [1. 3. 3.]

  References:
    Zhou et al., `Dual-Balancing for Physics-Informed Neural Networks
    <https://arxiv.org/abs/2505.11117>`_, IJCAI 2025.
  """
  check_reference_task(reference, num_tasks, "reference")
  _checks.check_choice("statistic", statistic, tuple(_STATISTICS))
  inside = statistic == "mean" if relative is None else relative

  def init() -> DbPinnMemory:
    return DbPinnMemory(
      condition_weights=jnp.ones((num_tasks,), solver_dtype()),
      condition_weight_count=jnp.zeros((num_tasks,), jnp.int32),
      loss_means=jnp.zeros((num_tasks,), solver_dtype()),
      loss_mean_count=jnp.zeros((num_tasks,), jnp.int32),
    )

  def weigh(step: Step, memory: DbPinnMemory) -> tuple[jax.Array, DbPinnMemory]:
    old = memory.condition_weights
    residual = reference_task(reference, step, "reference")
    means, mean_count = step.hold(
      _mean_with(memory.loss_means, memory.loss_mean_count, step.losses),
      (memory.loss_means, memory.loss_mean_count),
      step.active & jnp.isfinite(step.losses),
    )
    above, below = entry_statistics(step, _STATISTICS[statistic])
    ratio, known = positive_ratio(
      above[residual], old * below if inside else below
    )
    learns = all_but(residual, step) & known
    difficulty = jnp.maximum(step.losses / means, 0)
    difficulty = jnp.where(means == 0, jnp.ones_like(means), difficulty)
    learns = learns & jnp.isfinite(difficulty)
    zeros = jnp.zeros_like(ratio)
    total = jnp.sum(jnp.where(learns, difficulty, zeros))
    # Conditions that are all met share alike.
    share = jnp.where(
      total == 0,
      1 / jnp.maximum(jnp.sum(learns.astype(old.dtype)), 1),
      difficulty / jnp.where(total == 0, jnp.ones_like(total), total),
    )
    wanted = jnp.sum(jnp.where(learns, ratio, zeros)) * share
    weights, count = step.hold(
      _mean_with(old, memory.condition_weight_count, wanted),
      (old, memory.condition_weight_count),
      learns,
    )
    return weights, DbPinnMemory(weights, count, means, mean_count)

  return WeightRule(weigh, init)
