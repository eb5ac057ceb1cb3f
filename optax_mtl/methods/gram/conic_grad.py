"""ConicGrad: the best worst-case improvement within an angle of the mean."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.solvers import Certificate, conic_direction


@method(
  paper="Hassanpour et al., Fantastic Multi-Task Gradient Updates and How to "
  "Find Them In a Cone, 2025",
  url="https://arxiv.org/abs/2502.00217",
  weights_sum="free",
  claims=[
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def conic_grad(num_tasks: int, c: ArrayLike = 0.75) -> WeightRule[Certificate]:
  """ConicGrad: within an angle of the mean, the worst task does best.

  Of all directions as long as the mean gradient `ḡ` and with `cos(d, ḡ) >= c`,
  `d` is the one whose smallest decrease among the tasks, `min g_i · d`, is
  largest. `c = 1` is the mean, and as soon as the cone holds it, `d` is
  parallel to MGDA's direction. It is CAGrad's direction for the radius at which
  that would leave the cone, and as long as the mean, so that the step length
  does not depend on `c`. The weights' sum is free.

  It is exact, to a certificate that the state keeps; the paper learns the
  weights instead, by a gradient step on them in each step of training, so that
  its direction lags behind.
  Where no direction in the cone improves every task, `d` is the one on which
  the worst task loses least, but for one case: where gradients cancel, so that
  zero is in their hull (as it often is with more tasks than params), the path
  ends before it meets the cone. Then `d` is the last direction on it, or the
  mean, the worst task may lose more than it had to, and the certificate says
  `STATIONARY`. Where gradients cancel nearly, the length is that of the mean to
  a percent. A task with a zero gradient counts in the mean only.

  Args:
    num_tasks: The number of tasks `T`.
    c: The least cosine with the mean, in [0, 1]. Default 0.75, which is a
      choice of ours: an angle of 41°.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `c` is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.conic_grad(num_tasks=2, c=0.95)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[2.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.319 0.631]

  References:
    Hassanpour et al., `Fantastic Multi-Task Gradient Updates and How to Find
    Them In a Cone <https://arxiv.org/abs/2502.00217>`_, 2025.
  """
  del num_tasks
  _checks.check_range("c", c, 0, 1)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    gram = step.gram()
    return conic_direction(gram, jnp.asarray(c, gram.dtype), active=step.active)

  return solved(solve)
