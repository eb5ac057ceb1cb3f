"""IMTL-G: the update has the same projection on every gradient."""

from typing import Any

import optax

from optax_mtl import _base
from optax_mtl.methods._solved import solved_weights
from optax_mtl.solvers import equal_projections


@_base.method(
  paper="Liu et al., Towards Impartial Multi-task Learning, ICLR 2021",
  url="https://openreview.net/forum?id=IMPnRXEWpvr",
  family="gram",
  uses_gram=True,
  weights_sum="1",
  claims=[
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def imtl_g(
  num_tasks: int,
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Impartial multi-task learning: equal projections on all unit gradients.

  `w = M⁺ √diag(M)`, scaled to the sum 1; the pseudo-inverse is taken between
  unit gradients, which changes nothing while the gradients are linearly
  independent, and keeps short gradients from being taken for zero. Weights may
  be negative. A task with a zero gradient takes no part.

  Args:
    num_tasks: The number of tasks `T`.
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

  def solve(step):
    return equal_projections(step.gram(), active=step.active)

  return solved_weights(
    "imtl_g",
    num_tasks,
    solve,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
