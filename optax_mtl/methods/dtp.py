"""Dynamic task prioritization: weights from key performance indicators."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype

#: KPIs are kept this far from 0 and 1, where the logarithm and the power end.
_MARGIN = 1e-6


class DtpState(NamedTuple):
  """State of `dtp`.

  Attributes:
    weights: Array [T], the weights of the last update.
    kpi_average: Array [T], the moving average of each task's KPI.
    kpi_seen: Array [T] of bool, whether a task has had a KPI at all.
  """

  weights: jax.Array
  kpi_average: jax.Array
  kpi_seen: jax.Array


@_base.method(
  paper="Guo, Haque, Huang, Yeung & Fei-Fei, Dynamic Task Prioritization for "
  "Multitask Learning, ECCV 2018",
  url="https://openaccess.thecvf.com/content_ECCV_2018/html/"
  "Michelle_Guo_Focus_on_the_ECCV_2018_paper.html",
  family="loss",
  needs=["kpis"],
  weights_sum="free, or T with normalize",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def dtp(
  num_tasks: int,
  gamma: Any = 1.0,
  *,
  decay: Any = 0.9,
  normalize: bool = False,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Dynamic task prioritization: a task that performs worse weighs more.

  `w_i = -(1 - κ_i)^γ log κ_i`, where `κ_i` is an exponential moving average of
  a key performance indicator (KPI) in (0, 1): accuracy, or the share of errors
  below a threshold for regression. The weights' sum is free; as all KPIs near
  1, every weight vanishes.

  The average starts at the first KPI. A KPI of NaN is a missing one: the
  average stands. Before a task's first KPI its weight is 1. KPIs are clipped to
  [1e-6, 1 - 1e-6].

  Args:
    num_tasks: The number of tasks `T`.
    gamma: Focusing exponent `γ >= 0`, a number or one for each task; larger
      leaves easy tasks sooner. Default 1.
    decay: Share of the old average in the new one, in [0, 1). Default 0.9. The
      moving average is the method's own; its constant is our choice.
    normalize: Whether to scale the weights so that they sum to the number of
      active tasks. Default False, as in the paper.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: What the other leaves get: "sum", each task's own gradient, or
      "weighted", the same weights as the trunk.
    on_nonfinite: "propagate" a NaN or inf, or "drop" the task for this step,
      judged by what `update` gets: see `value_and_task_grads` on NaN.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `kpis` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `kpis`.
    ValueError: `gamma` or `decay` is out of range.

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
  num_tasks = _checks.check_num_tasks(num_tasks)
  _checks.check_range("gamma", gamma, 0)
  _checks.check_range("decay", decay, 0, 1, open_high=True)
  if isinstance(gamma, (list, tuple, dict)):
    gamma = _checks.task_vector(gamma, num_tasks, "gamma")

  def init():
    return DtpState(
      weights=jnp.ones((num_tasks,), solver_dtype()),
      kpi_average=jnp.zeros((num_tasks,), solver_dtype()),
      kpi_seen=jnp.zeros((num_tasks,), jnp.bool_),
    )

  def weigh(step, state):
    dtype = solver_dtype()
    kpis = jax.lax.stop_gradient(jnp.clip(step.kpis, _MARGIN, 1 - _MARGIN))
    given = step.active & ~jnp.isnan(kpis)
    rate = jnp.asarray(decay, dtype)
    moved = jnp.where(
      state.kpi_seen, rate * state.kpi_average + (1 - rate) * kpis, kpis
    )
    average = jnp.where(given, moved, state.kpi_average)
    seen = state.kpi_seen | given
    kappa = jnp.clip(average, _MARGIN, 1 - _MARGIN)
    exponent = jnp.broadcast_to(jnp.asarray(gamma, dtype), kappa.shape)
    weights = -jnp.power(1 - kappa, exponent) * jnp.log(kappa)
    weights = jnp.where(seen, weights, jnp.ones_like(weights))
    if normalize:
      weights = weights / step.mean(weights)
    return DtpState(weights.astype(dtype), average.astype(dtype), seen)

  return _base.weighted_combination(
    "dtp",
    num_tasks,
    init,
    weigh,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
