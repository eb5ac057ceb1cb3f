"""IMTL-G: the update has the same projection on every gradient."""

from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl.solvers import Certificate, equal_projections


@method(
  paper="Liu et al., Towards Impartial Multi-task Learning, ICLR 2021",
  url="https://openreview.net/forum?id=IMPnRXEWpvr",
  weights_sum="1",
  claims=[
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def imtl_g(num_tasks: int) -> WeightRule[Certificate]:
  """Impartial multi-task learning: equal projections on all unit gradients.

  `w = M⁺ √diag(M)`, scaled to the sum 1; the pseudo-inverse is taken between
  unit gradients, which changes nothing while the gradients are linearly
  independent, and keeps short gradients from being taken for zero. Weights may
  be negative. A task with a zero gradient takes no part.

  Args:
    num_tasks: The number of tasks `T`.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: A choice is unknown, or `num_tasks` is below 1.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.imtl_g(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.172 0.414]

  References:
    Liu et al., `Towards Impartial Multi-task Learning
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_, ICLR 2021.
  """
  del num_tasks
  return solved(lambda step: equal_projections(step.gram(), active=step.active))
