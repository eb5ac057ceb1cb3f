"""Weights inverse to the traces of the residuals' neural tangent kernels."""

from typing import Literal

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step


@method(
  paper="Wang, Yu & Perdikaris, When and Why PINNs Fail to Train: A Neural "
  "Tangent Kernel Perspective, JCP 2022",
  url="https://arxiv.org/abs/2007.14527",
  weights_sum="free",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def ntk_weighting(
  num_tasks: int, reference: Literal["sum", "mean"] = "sum"
) -> WeightRule[tuple[()]]:
  """Lets all residuals converge at one rate, by their tangent kernels.

  `w_i = Σ_j tr K_jj / tr K_ii`, where `K_ii` is the neural tangent kernel of
  task i's residuals, one row a sample: the trace is the sum of the squared
  norms of their Jacobians. The weights' sum is free.

  The traces are not in the task gradients: those of two samples that oppose
  each other cancel in the loss's gradient, and add up in the trace.
  `optax_mtl.ntk_traces` computes them from the residuals. They change slowly,
  so compute them every hundredth step or so and pass the last ones with each
  update. A task whose trace is zero has weight 0. No trace is negative: one
  that is known to be is an error, and under `jit` it counts as zero. One that
  is NaN shows in all weights; `optax_mtl.drop_nonfinite` drops its task.

  jaxpi's `ntk` divides the mean of the traces by each, which makes its weights
  T times shorter (`reference="mean"`), takes the mean over the samples
  (`ntk_traces(..., reduction="mean")`), and averages the weights over its
  refreshes, from 1 (`ema_weights(..., initial_weights=1)`).

  Args:
    num_tasks: The number of tasks `T`.
    reference: What the traces divide: their "sum" (default) or "mean".

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `traces` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `traces`.
    ValueError: `reference` is unknown, or a trace is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.ntk_weighting(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(
    ...   jnp.eye(2), state, traces=jnp.array([1.0, 4.0])
    ... )
    >>> print(updates)
    [5.   1.25]

  References:
    Wang et al., `When and Why PINNs Fail to Train
    <https://arxiv.org/abs/2007.14527>`_, JCP 2022.
  """
  del num_tasks
  _checks.check_choice("reference", reference, ("sum", "mean"))

  @from_step
  def rule(step: Step) -> jax.Array:
    _checks.check_not_negative(
      step.traces,
      "traces=",
      "being sums of squares (optax_mtl.ntk_traces has them)",
    )
    traces = jnp.maximum(step.traces, 0)
    total = jnp.sum(traces)
    if reference == "mean":
      total = total / jnp.sum((traces != 0).astype(traces.dtype))
    none = traces == 0
    safe = jnp.where(none, jnp.ones_like(traces), traces)
    return jnp.where(none, jnp.zeros_like(traces), total / safe)

  return rule
