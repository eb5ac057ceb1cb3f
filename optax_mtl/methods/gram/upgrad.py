"""UPGrad: each gradient projected on the directions that hurt no task."""

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.methods.gram._shares import check_preference, task_shares
from optax_mtl.solvers import Certificate, project_dual_cone


@method(
  paper="Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, "
  "2024",
  url="https://arxiv.org/abs/2406.16232",
  weights_sum="at least 1",
  claims=[
    "descends",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def upgrad(
  num_tasks: int, preference: _checks.TaskValues | None = None
) -> WeightRule[Certificate]:
  """Unconflicting projection of gradients: the mean of projected gradients.

  `d = Σ p_i π(g_i)`, where `π` projects on the dual cone of the gradients, the
  set of directions that hurt no task. So no task is hurt by `d`, each task's
  share of `d` grows with its own gradient, and without conflict `d` is the
  mean. The T projections are exact: nothing is added to the Gram matrix, and
  the answer does not depend on the gradients' scale. The weights sum to `Σ p_i`
  without conflict, and to more otherwise.

  Args:
    num_tasks: The number of tasks `T`.
    preference: What each task counts, `p` [T], non-negative: a sequence in the
      order of the rows, or a dict by the tasks' names. Active tasks share what
      absent ones leave, in proportion. None (default): 1/T.

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
  given = check_preference(preference, num_tasks)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    rows = jnp.diag(step.active.astype(solver_dtype()))
    projected, certificate = project_dual_cone(
      step.gram(), rows, active=step.active
    )
    shares = task_shares(given, step)
    return jnp.matmul(shares, projected, precision="highest"), certificate

  return solved(solve)
