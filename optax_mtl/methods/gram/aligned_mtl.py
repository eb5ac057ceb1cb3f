"""Aligned-MTL: the gradients' singular values made equal."""

from typing import Literal

import jax

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.methods.gram._shares import check_preference, task_shares
from optax_mtl.solvers import Certificate, aligned_weights


@method(
  paper="Senushkin, Patakin, Kuznetsov & Konushin, Independent Component "
  "Alignment for Multi-Task Learning, CVPR 2023",
  url="https://arxiv.org/abs/2305.19000",
  weights_sum="free",
  claims=[
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def aligned_mtl(
  num_tasks: int,
  preference: _checks.TaskValues | None = None,
  scale: Literal["min", "median", "rmse"] = "min",
) -> WeightRule[Certificate]:
  """Independent component alignment: combines an orthogonal frame instead.

  With `M = V Λ Vᵀ`, `w = √λ_s V Λ^(-1/2) Vᵀ p`: the gradients are replaced by
  the nearest orthogonal ones of common length `√λ_s`, so that no task's step is
  lost to another. Eigenvalues below `λ_max T ε` count as zero and are left out.
  The weights' sum is free, and weights may be negative. A task with a zero
  gradient takes no part.

  Args:
    num_tasks: The number of tasks `T`.
    preference: What each task counts, `p` [T]: a sequence in the order of the
      rows, or a dict by the tasks' names. Active tasks share what absent ones
      leave, in proportion. None (default): 1/T, the mean; the authors' code has
      1 for each task, a T times longer step.
    scale: Which of the eigenvalues kept is `λ_s`: "min" (default, as in the
      paper), "median" or "rmse", their mean.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `preference` does not hold T numbers, or `scale` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.aligned_mtl(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.138 0.415]

  References:
    Senushkin et al., `Independent Component Alignment for Multi-Task Learning
    <https://arxiv.org/abs/2305.19000>`_, CVPR 2023.
  """
  _checks.check_choice("scale", scale, ("min", "median", "rmse"))
  given = check_preference(preference, num_tasks)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    return aligned_weights(
      step.gram(),
      preference=task_shares(given, step),
      scale=scale,
      active=step.active,
    )

  return solved(solve)
