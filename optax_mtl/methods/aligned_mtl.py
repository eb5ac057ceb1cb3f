"""Aligned-MTL: the gradients' singular values made equal."""

from typing import Any

import optax

from optax_mtl import _base, _checks
from optax_mtl.methods._solved import solved_weights, task_shares
from optax_mtl.solvers import aligned_weights


@_base.method(
  paper="Senushkin, Patakin, Kuznetsov & Konushin, Independent Component "
  "Alignment for Multi-Task Learning, CVPR 2023",
  url="https://arxiv.org/abs/2305.19000",
  family="gram",
  uses_gram=True,
  weights_sum="free",
  claims=[
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def aligned_mtl(
  num_tasks: int,
  preference: Any = None,
  scale: str = "min",
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Independent component alignment: combines an orthogonal frame instead.

  With `M = V Λ Vᵀ`, `w = √λ_s V Λ^(-1/2) Vᵀ p`: the gradients are replaced by
  the nearest orthogonal ones of common length `√λ_s`, so that no task's step is
  lost to another. Eigenvalues below `λ_max T ε` count as zero and are left out.
  The weights' sum is free, and weights may be negative. A task with a zero
  gradient takes no part.

  Args:
    num_tasks: The number of tasks `T`.
    preference: What each task counts, `p` [T]. None (default): 1/T, over the
      active tasks.
    scale: Which of the eigenvalues kept is `λ_s`: "min" (default, as in the
      paper), "median" or "rmse", their mean.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: What the other leaves get: "sum", each task's own gradient, or
      "weighted", the same weights as the trunk.
    on_nonfinite: "propagate" a NaN or inf, or "drop" the task for this step,
      judged by what `update` gets: see `value_and_task_grads` on NaN.

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
  if preference is not None:
    preference = _checks.task_vector(preference, num_tasks, "preference")

  def solve(step):
    return aligned_weights(
      step.gram(),
      preference=task_shares(preference, step),
      scale=scale,
      active=step.active,
    )

  return solved_weights(
    "aligned_mtl",
    num_tasks,
    solve,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
