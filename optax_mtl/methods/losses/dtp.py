"""Dynamic task prioritization: weights from key performance indicators."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step

#: KPIs are kept this far from 0 and 1, where the logarithm and the power end.
_MARGIN = 1e-6


class DtpMemory(NamedTuple):
  """What `dtp` remembers.

  Attributes:
    kpi_average: Array [T], the moving average of each task's KPI.
    kpi_seen: Array [T] of bool, whether a task has had a KPI at all.
  """

  kpi_average: jax.Array
  kpi_seen: jax.Array


#: A mean of ones in bfloat16, which has 8 bits, may come out this much above 1.
_ROUNDED = 2.0**-7

_OUTSIDE = (
  "kpis= must lie in [0, 1], as the share of what is right does: got {values}. "
  "Divide percentages by 100; turn an error into a KPI, for instance by "
  "exp(-error)."
)


def _in_unit_interval(kpis: jax.Array) -> jax.Array:
  """Whether KPIs are such numbers; NaN, which is a missing one, too."""
  return ~((kpis < -_ROUNDED) | (kpis > 1 + _ROUNDED))


@method(
  paper="Guo, Haque, Huang, Yeung & Fei-Fei, Dynamic Task Prioritization for "
  "Multitask Learning, ECCV 2018",
  url="https://openaccess.thecvf.com/content_ECCV_2018/html/"
  "Michelle_Guo_Focus_on_the_ECCV_2018_paper.html",
  weights_sum="free, or T with normalize",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def dtp(
  num_tasks: int,
  gamma: _checks.TaskValues = 1.0,
  *,
  decay: ArrayLike = 0.9,
  normalize: bool = False,
) -> WeightRule[DtpMemory]:
  """Dynamic task prioritization: a task that performs worse weighs more.

  `w_i = -(1 - κ_i)^γ log κ_i`, where `κ_i` is an exponential moving average of
  a key performance indicator (KPI) in (0, 1): accuracy, or the share of errors
  below a threshold for regression. The weights' sum is free; as all KPIs near
  1, every weight vanishes.

  The average starts at the first KPI. A KPI of NaN is a missing one: the
  average stands. Before a task's first KPI its weight is 1. KPIs are clipped to
  [1e-6, 1 - 1e-6]. One that lies outside of [0, 1], as a percentage, is an
  error where it is known, and under `jit` a missing one.

  The paper also prioritizes the examples within a task, by a focal loss; that
  is a matter of the loss function, and left to it.

  Args:
    num_tasks: The number of tasks `T`.
    gamma: Focusing exponent `γ >= 0`, a number, one for each task, or a dict
      by the tasks' names; larger leaves easy tasks sooner. Default 1.
    decay: Share of the old average in the new one, in [0, 1). Default 0.9. The
      moving average is the method's own; its constant is our choice.
    normalize: Whether to scale the weights so that they sum to the number of
      active tasks. Default False, as in the paper.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `kpis` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `kpis`.
    ValueError: `gamma` or `decay` is out of range, or a KPI is.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.dtp(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> kpis = jnp.array([0.1, 0.9])
    >>> _, state = tx.update(jnp.ones((2, 2)), state, kpis=kpis)
    >>> print(np.asarray(state.weights).round(4))
    [2.0723 0.0105]

  References:
    Guo et al., `Dynamic Task Prioritization for Multitask Learning
    <https://openaccess.thecvf.com/content_ECCV_2018/html/Michelle_Guo_Focus_on_the_ECCV_2018_paper.html>`_,
    ECCV 2018.
  """
  _checks.check_range("gamma", gamma, 0)
  _checks.check_range("decay", decay, 0, 1, open_high=True)
  by_task = None
  if isinstance(gamma, (Sequence, Mapping)):
    by_task = _checks.task_argument(gamma, num_tasks, "gamma")

  def init() -> DtpMemory:
    return DtpMemory(
      kpi_average=jnp.zeros((num_tasks,), solver_dtype()),
      kpi_seen=jnp.zeros((num_tasks,), jnp.bool_),
    )

  def observe(step: Step, memory: DtpMemory) -> DtpMemory:
    _checks.check_values(step.kpis, _in_unit_interval, _OUTSIDE)
    kpis = jax.lax.stop_gradient(jnp.clip(step.kpis, _MARGIN, 1 - _MARGIN))
    given = step.active & _in_unit_interval(step.kpis) & ~jnp.isnan(kpis)
    rate = jnp.asarray(decay, kpis.dtype)
    moved = rate * memory.kpi_average + (1 - rate) * kpis
    moved = jnp.where(memory.kpi_seen, moved, kpis)
    return DtpMemory(
      kpi_average=jnp.where(given, moved, memory.kpi_average),
      kpi_seen=memory.kpi_seen | given,
    )

  def weigh(step: Step, memory: DtpMemory) -> tuple[jax.Array, DtpMemory]:
    kappa = jnp.clip(memory.kpi_average, _MARGIN, 1 - _MARGIN)
    exponent = gamma if by_task is None else step.given(by_task)
    exponent = jnp.broadcast_to(jnp.asarray(exponent, kappa.dtype), kappa.shape)
    weights = -jnp.power(1 - kappa, exponent) * jnp.log(kappa)
    weights = jnp.where(memory.kpi_seen, weights, jnp.ones_like(weights))
    if normalize:
      weights = weights / step.mean(weights)
    return weights, memory

  return WeightRule(weigh, init, observe)
