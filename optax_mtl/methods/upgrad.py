"""UPGrad: each gradient projected on the directions that hurt no task."""

from typing import Any

import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.methods._solved import solved_weights, task_shares
from optax_mtl.solvers import project_dual_cone


@_base.method(
  paper="Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, "
  "2024",
  url="https://arxiv.org/abs/2406.16232",
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
def upgrad(
  num_tasks: int,
  preference: Any = None,
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Unconflicting projection of gradients: the mean of projected gradients.

  `d = Σ p_i π(g_i)`, where `π` projects on the dual cone of the gradients, the
  set of directions that hurt no task. So no task is hurt by `d`, each task's
  share of `d` grows with its own gradient, and without conflict `d` is the
  mean. The T projections are exact: nothing is added to the Gram matrix, and
  the answer does not depend on the gradients' scale. The weights sum to `Σ p_i`
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
    >>> tx = optax_mtl.upgrad(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.25 0.75]

  References:
    Quinton & Rey, `Jacobian Descent for Multi-Objective Optimization
    <https://arxiv.org/abs/2406.16232>`_, 2024.
  """
  if preference is not None:
    preference = _checks.task_vector(preference, num_tasks, "preference")

  def solve(step):
    rows = jnp.diag(step.active.astype(solver_dtype()))
    projected, certificate = project_dual_cone(
      step.gram(), rows, active=step.active
    )
    return task_shares(preference, step) @ projected, certificate

  return solved_weights(
    "upgrad",
    num_tasks,
    solve,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
