"""DualProj: the mean gradient projected on the directions that hurt no task."""

from typing import Any

import optax

from optax_mtl import _base, _checks
from optax_mtl.methods._solved import solved_weights, task_shares
from optax_mtl.solvers import project_dual_cone


@_base.method(
  paper="Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual "
  "Learning, NeurIPS 2017",
  url="https://arxiv.org/abs/1706.08840",
  family="gram",
  uses_gram=True,
  weights_sum="at least 1",
  claims=[
    "descends",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def dual_proj(
  num_tasks: int,
  preference: Any = None,
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """The projection of the mean gradient on the dual cone of the gradients.

  `d` is the direction closest to `Σ p_i g_i` that hurts no task: what gradient
  episodic memory (GEM) does with the gradients of earlier tasks. Without
  conflict it is the mean. The projection is exact. The weights sum to `Σ p_i`
  without conflict, and to more otherwise.

  Args:
    num_tasks: The number of tasks `T`.
    preference: What each task counts, `p` [T], non-negative. None (default):
      1/T, over the active tasks.
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
    ValueError: `preference` does not hold T numbers.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.dual_proj(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.  0.5]

  References:
    Lopez-Paz & Ranzato, `Gradient Episodic Memory for Continual Learning
    <https://arxiv.org/abs/1706.08840>`_, NeurIPS 2017.
  """
  if preference is not None:
    preference = _checks.task_vector(preference, num_tasks, "preference")

  def solve(step):
    shares = task_shares(preference, step)
    projected, certificate = project_dual_cone(
      step.gram(), shares[None, :], active=step.active
    )
    return projected[0], certificate

  return solved_weights(
    "dual_proj",
    num_tasks,
    solve,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
