"""CAGrad: the best worst-case improvement near the mean gradient."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.methods.gram._shares import check_preference, task_shares
from optax_mtl.solvers import Certificate, cagrad_weights
from optax_mtl.solvers.combined import combined_norm


@method(
  paper="Liu, Liu, Jin, Stone & Liu, Conflict-Averse Gradient Descent for "
  "Multi-task Learning, NeurIPS 2021",
  url="https://arxiv.org/abs/2110.14048",
  weights_sum="free",
  claims=[
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def cagrad(
  num_tasks: int,
  c: ArrayLike = 0.5,
  rescale: Literal[0, 1, 2] = 1,
  *,
  preference: _checks.TaskValues | None = None,
  clip: bool = False,
) -> WeightRule[Certificate]:
  """Conflict-averse gradient descent: near the mean, the worst task does best.

  `d = ḡ + c ‖ḡ‖ g_w / ‖g_w‖`, where `ḡ` is the mean gradient and `w` on the
  simplex minimises `g_w · ḡ + c ‖ḡ‖ ‖g_w‖`: of all directions in the ball of
  radius `c ‖ḡ‖` around the mean, `d` is the one whose smallest decrease among
  the tasks is largest. For `c < 1` it converges to a minimum of the mean loss;
  from `c = 1` on it never hurts a task. Where rounding no longer tells `g_w`
  from zero, the formula has no answer: `d` is the mean gradient then for
  `c < 1`, and zero from `c = 1` on, where that is Pareto stationarity. The
  weights' sum is free. A task with a zero gradient counts in the mean only.

  With `preference=u`, `Σ u_i g_i` takes the place of the mean, and with
  `clip=True` no `w_i` is above `u_i`: `d = g_u + c ‖g_u‖ g_p / ‖g_p‖`, where
  `p = min(w, u)`, whose sum is less than 1. In that minimum alone `u` is taken
  with a sum of 1; else it counts as it is given, and its sum scales `d`. Both
  together, with `c=0.4` and `rescale=0`, are RACO. Where nothing of `w` is
  left, `d` is `g_u`.

  The authors' code then multiplies the trunk's gradient by T, the number of
  tasks, which is left to the learning rate here.

  Args:
    num_tasks: The number of tasks `T`.
    c: Radius of the ball relative to the mean gradient's norm, `c >= 0`.
      Default 0.5; the authors use 0.4 on NYUv2.
    rescale: 0 leaves `d` as it is, 1 divides it by `1 + c²` (default, as the
      authors do), 2 by `1 + c`.
    preference: What each task counts, `u` [T], non-negative: a sequence in the
      order of the rows, or a dict by the tasks' names. Active tasks share what
      absent ones leave, in proportion. None (default): 1/T, the mean.
    clip: Whether the weights on top of the mean are limited to the preference.
      Default False.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `c` is negative, a choice is unknown, or `preference` does not
      hold T numbers.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.cagrad(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.2 0.4]

  References:
    Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
    <https://arxiv.org/abs/2110.14048>`_, NeurIPS 2021; with weights and clip
    `RACO <https://arxiv.org/abs/2602.02495>`_, ICML 2026.
  """
  _checks.check_range("c", c, 0)
  if _checks.is_python_number(rescale):
    _checks.check_choice("rescale", rescale, (0, 1, 2))

  given = check_preference(preference, num_tasks)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    gram = step.gram()
    radius = jnp.asarray(c, gram.dtype)
    mean = task_shares(given, step)
    w, certificate = cagrad_weights(
      gram,
      radius,
      preference=None if given is None else mean,
      active=step.active,
    )
    # The solver accepts |g_w|² from 16 roundings of its terms' size as zero.
    little = 4 * jnp.sqrt(jnp.finfo(gram.dtype).eps)
    lengths = jnp.sqrt(jnp.diagonal(gram))

    def norm(w: jax.Array) -> tuple[jax.Array, jax.Array]:
      """The length of `g_w`, and whether it is zero but for rounding."""
      inner = combined_norm(gram, w)
      return inner, inner <= jnp.sum(w * lengths) * little

    inner, vanishes = norm(w)
    stationary = vanishes & (radius >= 1)
    if clip:
      total = jnp.sum(mean)
      w = jnp.minimum(w, mean / jnp.where(total > 0, total, 1.0))
      inner, vanishes = norm(w)
    ratio = combined_norm(gram, mean) / jnp.where(inner > 0, inner, 1.0)
    weights = mean + jnp.where(vanishes, 0.0, radius * ratio) * w
    weights = jnp.where(stationary, 0.0, weights)
    one = jnp.ones_like(radius)
    divisors = jnp.stack([one, one + radius * radius, one + radius])
    return weights / divisors[jnp.asarray(rescale, jnp.int32)], certificate

  return solved(solve)
