"""DualProj: the mean gradient projected on the directions that hurt no task."""

import jax

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.methods.gram._shares import check_preference, task_shares
from optax_mtl.solvers import Certificate, project_dual_cone


@method(
  paper="Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual "
  "Learning, NeurIPS 2017",
  url="https://arxiv.org/abs/1706.08840",
  weights_sum="at least 1",
  claims=[
    "descends",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def dual_proj(
  num_tasks: int, preference: _checks.TaskValues | None = None
) -> WeightRule[Certificate]:
  """The projection of the mean gradient on the dual cone of the gradients.

  `d` is the direction closest to `Σ p_i g_i` that hurts no task: what gradient
  episodic memory (GEM) does with the gradients of earlier tasks, here with its
  margin (`memory_strength`) at 0 and without the ridge that its code adds to
  the Gram matrix. Without conflict it is the mean. The projection is exact. The
  weights sum to `Σ p_i` without conflict, and to more otherwise.

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
    >>> tx = optax_mtl.dual_proj(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.  0.5]

  References:
    Lopez-Paz & Ranzato, `Gradient Episodic Memory for Continual Learning
    <https://arxiv.org/abs/1706.08840>`_, NeurIPS 2017.
  """
  given = check_preference(preference, num_tasks)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    shares = task_shares(given, step)
    projected, certificate = project_dual_cone(
      step.gram(), shares[None, :], active=step.active
    )
    return projected[0], certificate

  return solved(solve)
