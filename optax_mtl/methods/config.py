"""ConFIG: the direction with equal cosines to all gradients."""

from typing import Any

import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl.methods._solved import solved_weights
from optax_mtl.solvers import conflict_free_direction
from optax_mtl.solvers.combined import combined_products


def _mean(values, present):
  number = jnp.maximum(jnp.sum(present.astype(values.dtype)), 1)
  return jnp.sum(jnp.where(present, values, 0.0)) / number


#: Name -> function of the norms [T] and which of them count.
_COMMON_LENGTHS = {
  "min": lambda n, present: jnp.min(jnp.where(present, n, jnp.inf)),
  "max": lambda n, present: jnp.max(jnp.where(present, n, 0.0)),
  "harmonic": lambda n, present: 1 / _mean(1 / n, present),
  "arithmetic": _mean,
  "geometric": lambda n, present: jnp.exp(_mean(jnp.log(n), present)),
}


@_base.method(
  paper="Liu, Chu & Thuerey, ConFIG: Towards Conflict-free Training of "
  "Physics Informed Neural Networks, ICLR 2025",
  url="https://arxiv.org/abs/2408.11104",
  family="gram",
  uses_gram=True,
  weights_sum="free",
  claims=[
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def config(
  num_tasks: int,
  length: str = "projection",
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Conflict-free inverse gradients: the same cosine to every task's gradient.

  The direction is `U⁺ 1`, with `U` the unit gradients, computed as T
  coefficients on the gradients and not from a pseudo-inverse of the Jacobian.
  Its length is the sum over the tasks of `n_i cos(g_i, d)`, with `n_i` the
  gradient's norm ("projection"), or one common length in the place of all
  `n_i`. It descends every task whenever the gradients are linearly independent.
  A task with a zero gradient takes no part. The weights' sum is free.

  Args:
    num_tasks: The number of tasks `T`.
    length: "projection" (default), or which mean of the gradients' norms takes
      the place of each: "min", "max", "harmonic", "arithmetic" or "geometric".
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
    ValueError: `length` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.config(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.354 0.854]

  References:
    Liu, Chu & Thuerey, `ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks <https://arxiv.org/abs/2408.11104>`_, ICLR 2025.
  """
  _checks.check_choice("length", length, ("projection", *_COMMON_LENGTHS))

  def solve(step):
    gram = step.gram()
    coefficients, certificate = conflict_free_direction(
      gram, active=step.active
    )
    norms = jnp.sqrt(jnp.diagonal(gram))
    present = step.active & (norms > 0)
    along = jnp.where(present, combined_products(gram, coefficients), 0.0)
    if length != "projection":
      # Cosines times the common length, where there are cosines.
      common = _COMMON_LENGTHS[length](jnp.where(present, norms, 1.0), present)
      along = common * along / jnp.where(present, norms, 1.0)
    return coefficients * jnp.sum(along), certificate

  return solved_weights(
    "config",
    num_tasks,
    solve,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
