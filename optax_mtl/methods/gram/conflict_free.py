"""ConFIG: the direction with equal cosines to all gradients."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.solvers import Certificate, conflict_free_direction
from optax_mtl.solvers.combined import combined_products

Length = Literal[
  "projection", "min", "max", "harmonic", "arithmetic", "geometric"
]


def _mean(values: jax.Array, present: jax.Array) -> jax.Array:
  number = jnp.maximum(jnp.sum(present.astype(values.dtype)), 1)
  return jnp.sum(jnp.where(present, values, 0.0)) / number


#: Name -> function of the norms [T] and which of them count.
_COMMON_LENGTHS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  "min": lambda n, present: jnp.min(jnp.where(present, n, jnp.inf)),
  "max": lambda n, present: jnp.max(jnp.where(present, n, 0.0)),
  "harmonic": lambda n, present: 1 / _mean(1 / n, present),
  "arithmetic": _mean,
  "geometric": lambda n, present: jnp.exp(_mean(jnp.log(n), present)),
}


@method(
  paper="Liu, Chu & Thuerey, ConFIG: Towards Conflict-free Training of "
  "Physics Informed Neural Networks, ICLR 2025",
  url="https://arxiv.org/abs/2408.11104",
  weights_sum="free",
  claims=[
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def conflict_free(
  num_tasks: int, length: Length = "projection"
) -> WeightRule[Certificate]:
  """ConFIG, conflict-free inverse gradients: the same cosine to each gradient.

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

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `length` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.conflict_free(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.354 0.854]

  References:
    Liu, Chu & Thuerey, `ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks <https://arxiv.org/abs/2408.11104>`_, ICLR 2025.
  """
  del num_tasks
  _checks.check_choice("length", length, ("projection", *_COMMON_LENGTHS))

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
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

  return solved(solve)
