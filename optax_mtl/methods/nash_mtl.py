"""Nash-MTL: the tasks bargain for the update direction."""

from typing import Any

import optax

from optax_mtl import _base, _checks
from optax_mtl.methods._solved import limit_norm, solved_weights
from optax_mtl.solvers import nash_bargaining


@_base.method(
  paper="Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022",
  url="https://arxiv.org/abs/2202.01017",
  family="gram",
  uses_gram=True,
  weights_sum="free",
  claims=[
    "descends",
    "positive_weights",
    "permutation_equivariant",
  ],
)
def nash_mtl(
  num_tasks: int,
  max_norm: Any = 1.0,
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """The Nash bargaining solution: the product of the tasks' gains is largest.

  The weights solve `α_i (M α)_i = 1` with `α > 0`. The solution is exact, with
  no convex-programming package and no fallback to equal weights. Each weight is
  invariant to the scale of its gradient: `d` does not change if a loss is
  multiplied by a constant.

  The norm of the solution is √T whatever the gradients, so with the default
  `max_norm` of 1 it is always clipped, and every update has norm 1: the
  learning rate alone sets the step length. The weights' sum is free. The
  authors' option to solve every k steps only is `optax_mtl.refresh_every`. A
  task with a zero gradient takes no part. At a Pareto stationary point there is
  no solution; the weights are finite then, and the certificate in the state
  says that they did not converge.

  Args:
    num_tasks: The number of tasks `T`.
    max_norm: The update's norm is scaled down to this. Default 1, as in the
      authors' code; None: not at all.
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
    ValueError: `max_norm` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.nash_mtl(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.383 0.924]

  References:
    Navon et al., `Multi-Task Learning as a Bargaining Game
    <https://arxiv.org/abs/2202.01017>`_, ICML 2022.
  """
  if max_norm is not None:
    _checks.check_range("max_norm", max_norm, 0, open_low=True)

  def solve(step):
    gram = step.gram()
    weights, certificate = nash_bargaining(gram, active=step.active)
    return limit_norm(gram, weights, max_norm), certificate

  return solved_weights(
    "nash_mtl",
    num_tasks,
    solve,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
