"""MGDA: the shortest vector in the convex hull of the task gradients."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._normalization import (
  NORMALIZATIONS,
  Normalization,
  divisors,
)
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.solvers import Certificate, min_norm
from optax_mtl.solvers.min_norm import check_cap

Solver = Literal["wolfe", "pairwise", "away", "vanilla"]


@method(
  paper="Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, "
  "NeurIPS 2018; Désidéri, Multiple-gradient descent algorithm, 2012",
  url="https://arxiv.org/abs/1810.04650",
  weights_sum="1 (free with normalize)",
  claims=[
    "descends",
    "simplex",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def mgda(
  num_tasks: int,
  normalize: Normalization | None = None,
  *,
  cap: ArrayLike | None = None,
  drop_stationary: ArrayLike | None = None,
  solver: Solver = "wolfe",
) -> WeightRule[Certificate]:
  """The multiple-gradient descent algorithm: descends every task at once.

  `d = Σ α_i g_i` with `α` the minimiser of `‖Σ α_i g_i‖` over the simplex,
  exact to a certificate that the state keeps. `d` is zero if and only if the
  point is Pareto stationary, and otherwise `d · g_i >= ‖d‖²` for every task.
  The weights sum to 1.

  With `normalize` the problem is solved on `g_i / c_i`, and the weights applied
  to the gradients are `α_i / c_i`, so that `d` is the solution of the
  normalised problem and descends every task. The authors' code applies `α_i` to
  the raw gradients instead; with "l2" and two tasks that is equal weighting,
  and may ascend a task. These weights have no fixed sum.

  One task with a zero gradient makes `d` zero: then the others have to wait,
  unless `drop_stationary` is set.

  With `cap` no `α_i` is above it, as in FedMGDA+: from MGDA at 1 to the mean at
  1/T. The solution is as exact. `g_i · d` is then at least as large for tasks
  below the cap as for those at it, but may be negative: MGDA's promise holds
  where no weight is at the cap.

  The upper bound of the paper (MGDA-UB) is this method with the gradients of
  `optax_mtl.value_and_representation_grads`.

  Args:
    num_tasks: The number of tasks `T`.
    normalize: `c_i`: None for 1, "l2" for the gradient's norm, "loss" for the
      loss, "loss+" for their product. Default None. A negative loss is an
      error where its value is known; in a jitted function the weights are NaN,
      and `jax.experimental.checkify` raises the error.
    cap: The largest `α_i`, from 1/T to 1. Where fewer tasks are active than
      1/cap, these weigh the same. A traced one is clipped to that range, and
      NaN makes the weights NaN. Default: none.
    drop_stationary: Tasks whose gradient norm is at most this share of the
      largest take no part. Default None: all take part, as in the paper.
    solver: The variant of `optax_mtl.solvers.min_norm`. Default "wolfe", exact.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] if `normalize` uses them, and takes
    `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses` that it needs.
    ValueError: An argument is out of range, or a loss is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.mgda(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 2.0]]), state)
    >>> print(np.asarray(updates).round(3), np.asarray(state.weights).round(3))
    [0.8 0.4] [0.8 0.2]

  References:
    Désidéri, `Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization <https://doi.org/10.1016/j.crma.2012.03.014>`_, 2012; Sener &
    Koltun, `Multi-Task Learning as Multi-Objective Optimization
    <https://arxiv.org/abs/1810.04650>`_, NeurIPS 2018.
  """
  _checks.check_choice("normalize", normalize, (None, *NORMALIZATIONS))
  if cap is not None:
    check_cap("cap", cap, num_tasks)
    if solver != "wolfe":
      raise ValueError(f"cap= goes with solver='wolfe', got {solver!r}.")
  if drop_stationary is not None:
    _checks.check_range(
      "drop_stationary", drop_stationary, 0, 1, open_high=True
    )

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    gram = step.gram()
    norms = jnp.sqrt(jnp.diagonal(gram))
    divisor = jnp.ones_like(norms)
    if normalize is not None:
      what = f"mgda(normalize={normalize!r})"
      divisor = divisors(step, normalize, norms, what)
    active = step.active
    if drop_stationary is not None:
      share = jnp.asarray(drop_stationary, norms.dtype)
      active &= norms > share * jnp.max(norms)
    scaled = gram / divisor[:, None] / divisor[None, :]
    alpha, certificate = min_norm(
      scaled, variant=solver, cap=cap, active=active
    )
    return alpha / divisor, certificate

  return solved(solve)
