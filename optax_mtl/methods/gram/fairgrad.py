"""FairGrad: alpha-fair gains for the tasks."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.methods.gram._shares import check_preference, preference_of
from optax_mtl.solvers import Certificate, fairness


@method(
  paper="Ban & Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024",
  url="https://arxiv.org/abs/2402.15638",
  weights_sum="free",
  claims=[
    "descends",
    "positive_weights",
    "permutation_equivariant",
  ],
)
def fairgrad(
  num_tasks: int,
  alpha: ArrayLike = 1.0,
  max_norm: ArrayLike | None = 1.0,
  *,
  preference: _checks.TaskValues | None = None,
) -> WeightRule[Certificate]:
  """The alpha-fair direction: `M w = w^(-1/α)`, elementwise, with `w > 0`.

  The gains `g_i · d` of the tasks are as fair as `α` asks: near 0 their sum
  counts, at 1 their product (Nash-MTL, without its clipping), for large `α` the
  smallest. At `α = 1` the solution's norm is √T whatever the gradients, so that
  the default `max_norm` always clips it. The weights' sum is free. A task with
  a zero gradient takes no part. At a Pareto stationary point there is no
  solution; the weights are finite then, and the certificate's `status` in the
  state is STATIONARY.

  With a preference `p` it is `M w = (p/w)^(1/α)`: the weighted FairGrad of
  PIVRG, whose `p` comes from the tasks' key performance indicators and changes
  with training: pass such a one with the update. (The baseline in its
  experiments came from the test set; take a validation set.) PIVRG has `α = 2`,
  and multiplies by T before clipping, as FairGrad's authors do. A task where
  `p` is 0 takes no part, and may be hurt.

  Args:
    num_tasks: The number of tasks `T`.
    alpha: Fairness `α > 0`. Default 1; the authors' best runs use 2, and
      multiply the update by T before clipping.
    max_norm: The update's norm, over the shared leaves, is scaled down to this
      in every step. `state.weights` are those before. Default 1, as in the
      authors' code; None: not at all.
    preference: `p` [T], non-negative: a sequence in the order of the rows, or a
      dict by the tasks' names. Its sum matters, and what absent tasks have is
      not shared. One that comes with an update takes its place. None (default):
      1 each.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `preference` [T] and `active` [T] of bool.

  Raises:
    ValueError: `alpha` or `max_norm` is not positive, or a preference is
      negative or does not fit the tasks.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.fairgrad(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.383 0.924]

  References:
    Ban & Ji, `Fair Resource Allocation in Multi-Task Learning
    <https://arxiv.org/abs/2402.15638>`_, ICML 2024; with a preference
    PIVRG, CVPR 2025.
  """
  _checks.check_range("alpha", alpha, 0, open_low=True)
  wanted = check_preference(preference, num_tasks)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    gram = step.gram()
    exponent = jnp.asarray(alpha, gram.dtype)
    counts = preference_of(wanted, step)
    return fairness(gram, exponent, preference=counts, active=step.active)

  return solved(solve, max_norm=max_norm)
