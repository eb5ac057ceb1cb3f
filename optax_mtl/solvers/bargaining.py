"""Bargaining solutions: Nash-MTL, and FairGrad's family around it.

Both are `M w = w ** (-1 / alpha)` with `w > 0`, Nash at `alpha = 1`. On the
coefficients `x_i = n_i w_i` of the unit gradients, with `C` their cosines:

    C x = (n / x) ** (1 / alpha) / n,    and    C x = 1 / x    for Nash.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl.solvers import _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import dot

# The iteration ends where every error is below half a rounding of its own
# terms, which is about the least that a product of T terms leaves; ...
_ENOUGH = 0.5
# ... and from this many roundings on as soon as it stops halving: errors that
# Newton's method still halves there are not rounding yet. Where such an error
# is all that is left of an equation, there is no solution.
_NEAR = 16.0
# Largest step towards zero, in the logarithm: keeps float32 from underflowing.
_SHRINK = 20.0


class _Iterate(NamedTuple):
  """Primal-dual iterate.

  Attributes:
    count: Scalar int32, steps so far.
    primal: `[T]`, `x > 0`.
    dual: `[T]`, `y > 0`, tends to `C x`.
    goal: `[T]`, what `C x` has to be, given `x`.
    error: `[T]`, `C x / goal - 1`.
    level: Scalar, the largest error in roundings of its own terms.
    done: Scalar bool: solved, or rounding has the last word.
  """

  count: jax.Array
  primal: jax.Array
  dual: jax.Array
  goal: jax.Array
  error: jax.Array
  level: jax.Array
  done: jax.Array

  @property
  def stationary(self) -> jax.Array:
    """Whether some `C x` is nothing but rounding: there is no solution."""
    return (self.level <= _NEAR) & jnp.any(jnp.abs(self.error) > 0.5)


def _balance(
  gram: _prepare.Prepared,
  goal_of: Callable[[jax.Array], jax.Array],
  inverse_alpha: jax.Array | float,
  start: jax.Array,
  max_iter: jax.Array,
) -> _Iterate:
  """Solves `C x = goal_of(x)` for `x > 0`, `goal_of` falling as `x^(-1/alpha)`.

  Newton's method on `C x = y` and `log y = log goal_of(x)`, with `x` and `y`
  kept positive. Its linear system is `C + diag(y / (alpha x))`. Taking `y` for
  an unknown of its own is what makes it converge in a handful of steps where
  gradients conflict: Newton on `x` alone, damped, takes tens of them as long as
  some `(C x)_i` is negative. Moving down exponentially needs no line search,
  and lets `x` fall by orders of magnitude in a step, as a large `alpha` wants.
  """
  matrix = gram.cosines

  def measured(
    count: jax.Array, primal: jax.Array, dual: jax.Array
  ) -> _Iterate:
    goal = goal_of(primal)
    error = (dot(matrix, primal) - goal) / goal
    size = dot(jnp.abs(matrix), primal) / goal
    level = jnp.max(jnp.abs(error) / (gram.eps * (1.0 + size)))
    return _Iterate(
      count=count,
      primal=primal,
      dual=dual,
      goal=goal,
      error=error,
      level=level,
      done=level <= _ENOUGH,
    )

  def newton(at: _Iterate) -> _Iterate:
    x, y = at.primal, at.dual
    log_gap = jnp.log(at.goal / y)
    gap = y * log_gap - ((at.goal - y) + at.error * at.goal)
    system = matrix + jnp.diag(inverse_alpha * y / x)
    dx = _prepare.solve_positive(system, gap[:, None])[:, 0] / x
    dy = log_gap - inverse_alpha * dx
    new = measured(at.count + 1, _move(x, dx), _move(y, dy))
    # A singular system, or an overflow on the way to infinity: stay.
    usable = jnp.isfinite(new.level)
    usable &= jnp.all((new.primal > 0) & (new.dual > 0))
    stalled = (at.level <= _NEAR) & (new.level > 0.5 * at.level)
    take = usable & ~(stalled & (new.level > at.level))
    done = new.done | ~usable | stalled
    new = jax.tree.map(lambda new, old: jnp.where(take, new, old), new, at)
    return new._replace(count=at.count + 1, done=done)

  return lax.while_loop(
    lambda at: ~at.done & (at.count < max_iter),
    newton,
    measured(jnp.zeros((), jnp.int32), start, goal_of(start)),
  )


def _move(point: jax.Array, relative: jax.Array) -> jax.Array:
  """`point (1 + relative)` upwards, its exponential analogue downwards."""
  down = jnp.exp(jnp.clip(relative, -_SHRINK, 0.0))
  return point * jnp.where(relative < 0, down, 1.0 + relative)


def nash_bargaining(
  gram: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[jax.Array, Certificate]:
  r"""Weights of the Nash bargaining solution.

  The positive weights with `w_i (M w)_i = 1` for every task `i`: every
  task gains the same from the step, relative to its own gradient. They are
  unique where they exist, and the combined gradient has norm
  `√T`, with `T` the number of tasks that take part, whatever the
  gradients are.

  They do not exist at a Pareto stationary point, where some positive
  combination of the gradients is zero, such as two opposite gradients: the
  weights then grow without bound along that combination. They are returned
  where rounding no longer tells `M w` from zero, at about
  `w_i ‖g_i‖ = (2 / ε)^(1/2)`, that is 4000 in float32. They are
  finite, the combined gradient is small, and `converged` is False.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 800 roundings of the
      solver's dtype (9.5e-5 in float32). The iteration goes on to rounding
      level all the same.
    max_iter: Most Newton steps. Default: 50; 3 to 15 are usual, for any `T`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is `max_i |w_i (M w)_i - 1|`, with the
      product in twice the precision. What is left is the rounding of the
      weights, up to `ε w_i Σ_j |M_ij| w_j`, which is large
      where gradients nearly cancel. The rounding of the matrix itself, of the
      same order, is not in it.

  Raises:
    ValueError: If a shape does not fit, or a limit is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import bargaining
    >>> gradients = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> weights, _ = bargaining.nash_bargaining(gradients @ gradients.T)
    >>> print(weights @ gradients)
    [1. 1.]

  References:
    Navon et al., `Multi-Task Learning as a Bargaining Game
    <https://arxiv.org/abs/2202.01017>`_, ICML 2022.
  """
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 800.0)
  limit = _prepare.iteration_limit(max_iter, 50)
  # Where the gradients are orthogonal, or all equal, this is the solution.
  positive = jnp.sum(jnp.maximum(prepared.cosines, 0.0), axis=1)
  start = 1.0 / jnp.sqrt(positive)
  at = _balance(prepared, lambda x: 1.0 / x, 1.0, start, limit)
  return _answer(prepared, at, at.primal / prepared.lengths, tol)


def fairness(
  gram: ArrayLike,
  alpha: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[jax.Array, Certificate]:
  r"""Weights of the alpha-fair solution.

  The positive weights with `M w = w^(-1/α)`, elementwise.
  `alpha = 1` is `nash_bargaining`; towards 0 the sum of the gains counts, for
  large `alpha` the smallest gain. They scale with the gradients: multiplying
  these by `c` multiplies the weights by `c^(-2α / (1 + α))`.

  They do not exist at a Pareto stationary point; see `nash_bargaining` for what
  is returned there.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    alpha: Positive scalar, may be traced.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 800 roundings of the
      solver's dtype (9.5e-5 in float32). The iteration goes on to rounding
      level all the same.
    max_iter: Most Newton steps. Default: 50.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is
      `max_i |w_i^(1/α) (M w)_i - 1|`.

  Raises:
    ValueError: If a shape does not fit, or `alpha` or a limit is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import bargaining
    >>> weights, _ = bargaining.fairness(jnp.diag(jnp.array([1.0, 8.0])), 2.0)
    >>> print(weights)
    [1.   0.25]

  References:
    Ban and Ji, `Fair Resource Allocation in Multi-Task Learning
    <https://arxiv.org/abs/2402.15638>`_, ICML 2024.
  """
  _checks.check_range("alpha", alpha, 0, jnp.inf, open_low=True, open_high=True)
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 800.0)
  limit = _prepare.iteration_limit(max_iter, 50)
  inverse = 1.0 / jnp.asarray(alpha).astype(prepared.cosines.dtype)
  # The equation is homogeneous: the overall level is taken off, as its powers
  # may be large.
  logs = jnp.log(prepared.lengths)
  level = jnp.exp(jnp.sum(prepared.ones * logs) / prepared.count)
  lengths = jnp.where(prepared.present, prepared.lengths / level, 1.0)
  positive = jnp.sum(jnp.maximum(prepared.cosines, 0.0), axis=1)
  start = jnp.exp(
    ((inverse - 1.0) * jnp.log(lengths) - jnp.log(positive)) / (1.0 + inverse)
  )
  at = _balance(
    prepared,
    lambda x: (lengths / x) ** inverse / lengths,
    inverse,
    start,
    limit,
  )
  weights = at.primal / lengths * level ** (-2.0 / (1.0 + inverse))
  return _answer(prepared, at, weights, tol)


def _answer(
  gram: _prepare.Prepared, at: _Iterate, weights: jax.Array, tol: jax.Array
) -> tuple[jax.Array, Certificate]:
  """Weights and certificate of the last iterate."""
  wrong = jnp.where(gram.present, jnp.abs(at.error), 0.0)
  return gram.poison(jnp.where(gram.present, weights, 0.0)), gram.certify(
    jnp.max(wrong),
    at.count,
    tol,
    out_of_iterations=~at.done,
    stationary=at.done & at.stationary,
  )
