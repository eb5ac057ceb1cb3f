"""CAGrad: the best worst-case improvement near the mean gradient."""

from typing import Any

import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl.methods._solved import solved_weights
from optax_mtl.solvers import cagrad_weights
from optax_mtl.solvers.combined import combined_norm


@_base.method(
  paper="Liu, Liu, Jin, Stone & Liu, Conflict-Averse Gradient Descent for "
  "Multi-task Learning, NeurIPS 2021",
  url="https://arxiv.org/abs/2110.14048",
  family="gram",
  uses_gram=True,
  weights_sum="free",
  claims=[
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def cagrad(
  num_tasks: int,
  c: Any = 0.5,
  rescale: int = 1,
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Conflict-averse gradient descent: near the mean, the worst task does best.

  `d = ḡ + c ‖ḡ‖ g_w / ‖g_w‖`, where `ḡ` is the mean gradient and `w` on the
  simplex minimises `g_w · ḡ + c ‖ḡ‖ ‖g_w‖`: of all directions in the ball of
  radius `c ‖ḡ‖` around the mean, `d` is the one whose smallest decrease among
  the tasks is largest. For `c < 1` it converges to a minimum of the mean loss;
  from `c = 1` on it never hurts a task. Where rounding no longer tells `g_w`
  from zero, the formula has no answer: `d` is the mean gradient then for
  `c < 1`, and zero from `c = 1` on, where that is Pareto stationarity. The
  weights' sum is free. A task with a zero gradient counts in the mean only.

  Args:
    num_tasks: The number of tasks `T`.
    c: Radius of the ball relative to the mean gradient's norm, `c >= 0`.
      Default 0.5; the authors use 0.4 on NYUv2.
    rescale: 0 leaves `d` as it is, 1 divides it by `1 + c²` (default, as the
      authors do), 2 by `1 + c`.
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
    ValueError: `c` is negative, or a choice is unknown.

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
    <https://arxiv.org/abs/2110.14048>`_, NeurIPS 2021.
  """
  _checks.check_range("c", c, 0)
  if _checks.is_python_number(rescale):
    _checks.check_choice("rescale", rescale, (0, 1, 2))

  def solve(step):
    gram = step.gram()
    radius = jnp.asarray(c, gram.dtype)
    w, certificate = cagrad_weights(gram, radius, active=step.active)
    mean = step.active.astype(gram.dtype) / step.num_active
    inner = combined_norm(gram, w)
    ratio = combined_norm(gram, mean) / jnp.where(inner > 0, inner, 1.0)
    # The solver accepts |g_w|² from 16 roundings of its terms' size as zero.
    size = jnp.sum(w * jnp.sqrt(jnp.diagonal(gram)))
    vanishes = inner <= size * (4 * jnp.sqrt(jnp.finfo(gram.dtype).eps))
    weights = mean + jnp.where(vanishes, 0.0, radius * ratio) * w
    weights = jnp.where(vanishes & (radius >= 1), 0.0, weights)
    one = jnp.ones_like(radius)
    divisors = jnp.stack([one, one + radius * radius, one + radius])
    return weights / divisors[jnp.asarray(rescale, jnp.int32)], certificate

  return solved_weights(
    "cagrad",
    num_tasks,
    solve,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
