"""ConFIG: the direction with equal cosines to all gradients."""

import jax

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.methods._conflict_free import (
  LENGTHS,
  Length,
  conflict_free_weights,
)
from optax_mtl.solvers import Certificate


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
  _checks.check_choice("length", length, LENGTHS)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    return conflict_free_weights(step.gram(), step.active, length)

  return solved(solve)
