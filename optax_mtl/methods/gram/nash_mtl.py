"""Nash-MTL: the tasks bargain for the update direction."""

from jax.typing import ArrayLike

from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl.solvers import Certificate, nash_bargaining


@method(
  paper="Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022",
  url="https://arxiv.org/abs/2202.01017",
  weights_sum="free",
  claims=[
    "descends",
    "positive_weights",
    "permutation_equivariant",
  ],
)
def nash_mtl(
  num_tasks: int, max_norm: ArrayLike | None = 1.0
) -> WeightRule[Certificate]:
  """The Nash bargaining solution: the product of the tasks' gains is largest.

  The weights solve `α_i (M α)_i = 1` with `α > 0`. The solution is exact, with
  no convex-programming package and no fallback to equal weights. Each weight is
  invariant to the scale of its gradient: `d` does not change if a loss is
  multiplied by a constant.

  The norm of the solution is √T whatever the gradients, so with the default
  `max_norm` of 1 it is always clipped, and every update has norm 1: the
  learning rate alone sets the step length. (The authors weigh the heads with
  the unlimited weights: `heads="weighted"`.) The weights' sum is free. The
  authors' option to solve every k steps only is `optax_mtl.refresh_every`. A
  task with a zero gradient takes no part. At a Pareto stationary point there is
  no solution; the weights are finite then, and the certificate's `status` in
  the state is STATIONARY.

  Args:
    num_tasks: The number of tasks `T`.
    max_norm: The update's norm, over the shared leaves, is scaled down to this
      in every step. `state.weights` are those before. Default 1, as in the
      authors' code; None: not at all.

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
  del num_tasks
  return solved(
    lambda step: nash_bargaining(step.gram(), active=step.active),
    max_norm=max_norm,
  )
