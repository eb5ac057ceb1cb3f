"""Bargaining solutions: Nash-MTL, and FairGrad's family around it.

Both are `M w = (p / w) ** (1 / alpha)` with `w > 0`, Nash at `alpha = 1` and
`p = 1`. On the coefficients `x_i = n_i w_i` of the unit gradients, with `C`
their cosines:

    C x = (p n / x) ** (1 / alpha) / n,    and    C x = 1 / x    for Nash.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.solvers import _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import dot

# The iteration ends where every error is below half a rounding of its own
# terms, which is about the least that a product of T terms leaves; ...
_ENOUGH = 0.5
# ... and from this many roundings on as soon as it stops halving: errors that
# Newton's method still halves there are not rounding yet. Where the square of
# the combined gradient is below so many roundings of its own terms, there is no
# solution that could be told from none.
_NEAR = 16.0
# After so many steps an error that does not halve is rounding, which one task's
# terms may hand on to another's. 3 to 15 steps are usual, 25 the most that was
# seen on the way to a solution (row lengths of 1e-6 to 1e6, alpha = 8).
_LATE = 25
# Largest step towards zero, in the logarithm: keeps float32 from underflowing.
_SHRINK = 20.0


class _Iterate(NamedTuple):
  """Primal-dual iterate.

  Attributes:
    steps: Scalar int32, steps so far.
    primal: `[T]`, `x > 0`.
    dual: `[T]`, `y > 0`, tends to `C x`.
    goal: `[T]`, what `C x` has to be, given `x`.
    error: `[T]`, `C x / goal - 1`.
    roundings: Scalar, the largest error in roundings of its own terms.
    done: Scalar bool: solved, or rounding has the last word.
  """

  steps: Array
  primal: Array
  dual: Array
  goal: Array
  error: Array
  roundings: Array
  done: Array


def _solve(
  gram: ArrayLike,
  inverse_alpha: Array | float,
  preference: Array | None,
  active: ArrayLike | None,
  tol: ArrayLike | None,
  max_iter: ArrayLike | None,
) -> tuple[Array, Certificate]:
  """Solves the equations above.

  By Newton's method on `C x = y` and `log y = log goal(x)`, with `x` and `y`
  kept positive. Its linear system is `C + diag(y / (alpha x))`. Taking `y` for
  an unknown of its own is what makes it converge in a handful of steps where
  gradients conflict: Newton on `x` alone, damped, takes tens of them as long as
  some `(C x)_i` is negative. Moving down exponentially needs no line search,
  and lets `x` fall by orders of magnitude in a step, as a large `alpha` wants.
  """
  prepared = _prepare.prepare(gram, active)
  counts, middle = jnp.ones_like(prepared.lengths), jnp.ones(())
  if preference is not None:
    counts = jnp.where(prepared.present, preference, 1.0)
    middle = jnp.exp(jnp.sum(jnp.log(counts)) / prepared.number)
    counts = jnp.where(prepared.present, counts / middle, 1.0)
  tol = _prepare.tolerance(tol, 800.0)
  limit = _prepare.iteration_limit(max_iter, 50)
  matrix, magnitudes = prepared.cosines, jnp.abs(prepared.cosines)
  # The equation is homogeneous: the overall level is taken off, as its powers
  # may be large.
  logs = jnp.where(prepared.present, jnp.log(prepared.lengths), 0.0)
  level = jnp.exp(jnp.sum(logs) / prepared.number)
  lengths = jnp.where(prepared.present, prepared.lengths / level, 1.0)

  def measured(steps: Array, primal: Array, dual: Array) -> _Iterate:
    goal = (counts * lengths / primal) ** inverse_alpha / lengths
    error = (dot(matrix, primal) - goal) / goal
    size = 1.0 + dot(magnitudes, primal) / goal
    roundings = jnp.max(jnp.abs(error) / size) / prepared.eps
    return _Iterate(
      steps=steps,
      primal=primal,
      dual=dual,
      goal=goal,
      error=error,
      roundings=roundings,
      done=roundings <= _ENOUGH,
    )

  def newton(at: _Iterate) -> _Iterate:
    x, y = at.primal, at.dual
    log_gap = jnp.log(at.goal / y)
    gap = y * log_gap - ((at.goal - y) + at.error * at.goal)
    system = matrix + jnp.diag(inverse_alpha * y / x)
    dx = _prepare.solve_positive(system, gap[:, None])[:, 0] / x
    dy = log_gap - inverse_alpha * dx
    new = measured(at.steps + 1, _move(x, dx), _move(y, dy))
    # A singular system, or an overflow on the way to infinity: stay.
    usable = jnp.isfinite(new.roundings)
    usable &= jnp.all((new.primal > 0) & (new.dual > 0))
    stalled = (at.roundings <= _NEAR) | (at.steps >= _LATE)
    stalled &= new.roundings > 0.5 * at.roundings
    take = usable & ~(stalled & (new.roundings > at.roundings))
    done = new.done | ~usable | stalled
    new = jax.tree.map(lambda new, old: jnp.where(take, new, old), new, at)
    return new._replace(steps=at.steps + 1, done=done)

  # Where the gradients are orthogonal, or all equal, this is the solution.
  positive = jnp.sum(jnp.maximum(matrix, 0.0), axis=1)
  start = (inverse_alpha - 1.0) * jnp.log(lengths) - jnp.log(positive)
  start += inverse_alpha * jnp.log(counts)
  start = jnp.exp(start / (1.0 + inverse_alpha))
  first = measured(jnp.zeros((), jnp.int32), start, start)
  first = first._replace(dual=first.goal)

  def step(pair: tuple[_Iterate, _Iterate]) -> tuple[_Iterate, _Iterate]:
    at, best = newton(pair[0]), pair[1]
    better = at.roundings < best.roundings
    return at, jax.tree.map(lambda a, b: jnp.where(better, a, b), at, best)

  # Newton's method may go up on its way; where the matrix is indefinite by its
  # own rounding it goes up for good, and the best it came by is the answer.
  at, best = lax.while_loop(
    lambda pair: ~pair[0].done & (pair[0].steps < limit), step, (first, first)
  )
  at = best._replace(steps=at.steps, done=at.done)
  x = jnp.where(prepared.present, at.primal, 0.0)
  weights = x / lengths * level ** (-2.0 / (1.0 + inverse_alpha))
  if preference is not None:
    weights *= middle ** (inverse_alpha / (1.0 + inverse_alpha))
  # The combined gradient is nothing but rounding.
  vanishes = dot(x, dot(matrix, x)) <= (
    _NEAR * prepared.eps * jnp.square(jnp.sum(x))
  )
  # A weight too small for the dtype is 0, and its equation off by all of 1.
  error = jnp.where(weights > 0, jnp.abs(at.error), 1.0)
  residual = jnp.max(jnp.where(prepared.present, error, 0.0))
  return prepared.poison(weights), prepared.certify(
    residual, at.steps, tol, out_of_iterations=~at.done, stationary=vanishes
  )


def _move(point: Array, relative: Array) -> Array:
  """`point (1 + relative)` upwards, its exponential analogue downwards."""
  down = jnp.exp(jnp.clip(relative, -_SHRINK, 0.0))
  return point * jnp.where(relative < 0, down, 1.0 + relative)


def nash_bargaining(
  gram: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Weights of the Nash bargaining solution.

  The positive weights with `w_i (M w)_i = 1` for every task `i`: every task
  gains the same from the step, relative to its own gradient. They are unique
  where they exist, and the combined gradient has norm `√T`, with `T` the number
  of tasks that take part, whatever the gradients are.

  They do not exist at a Pareto stationary point, where some positive
  combination of the gradients is zero, such as two opposite gradients: the
  weights then grow without bound along that combination. They are returned
  where rounding no longer tells `M w` from zero, at about
  `w_i ‖g_i‖ = √(2 / ε)`, that is 4000 in float32. They are finite, the combined
  gradient is small, and the status is `STATIONARY`: `‖d‖²` is at most 16
  roundings of the square of `Σ_i w_i ‖g_i‖`.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 800 roundings of the
      solver's dtype (9.5e-5 in float32), since terms may be a few hundred times
      their sum. The iteration goes on to rounding level all the same.
    max_iter: Most Newton steps. Default: 50; 3 to 15 are usual, for any `T`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is `max_i |w_i (M w)_i - 1|`. What is left is
      rounding, one or two times `ε (1 + w_i Σ_j |M_ij| w_j)`, which is large
      where gradients nearly cancel; that of the matrix itself is of the same
      order. Above the tolerance the status is `AT_ROUNDING` then.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import bargaining
    >>> gradients = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> weights, _ = bargaining.nash_bargaining(gradients @ gradients.T)
    >>> print((weights @ gradients).round(4))
    [1. 1.]

  References:
    Navon et al., `Multi-Task Learning as a Bargaining Game
    <https://arxiv.org/abs/2202.01017>`_, ICML 2022.
  """
  return _solve(gram, 1.0, None, active, tol, max_iter)


def fairness(
  gram: ArrayLike,
  alpha: ArrayLike,
  *,
  preference: ArrayLike | None = None,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Weights of the alpha-fair solution.

  The positive weights with `M w = (p / w)^(1/α)`, elementwise.
  `alpha = 1` is `nash_bargaining`; towards 0 the sum of the gains counts, for
  large `alpha` the smallest gain. They scale with the gradients: multiplying
  these by `c` multiplies the weights by `c^(-2α/(1+α))`, and multiplying `p` by
  `c` multiplies them by `c^(1/(1+α))`.

  They do not exist at a Pareto stationary point; see `nash_bargaining` for what
  is returned there.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    alpha: Positive scalar, may be traced.
    preference: `p` [T], real, or None for 1 each. A task where it is 0 takes no
      part.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 800 roundings of the
      solver's dtype (9.5e-5 in float32), since terms may be a few hundred times
      their sum. The iteration goes on to rounding level all the same.
    max_iter: Most Newton steps. Default: 50.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is `max_i |(w_i/p_i)^(1/α) (M w)_i - 1|`,
      to be read as that of `nash_bargaining`. Where lengths are so far apart
      that the terms of `M w` exceed their sum by more than the digits of the
      dtype, as with `alpha = 8` and lengths of 1e-6 to 1e6 in float32, the
      status is `AT_ROUNDING`.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import bargaining
    >>> weights, _ = bargaining.fairness(jnp.diag(jnp.array([1.0, 8.0])), 2.0)
    >>> print(weights.round(4))
    [1.   0.25]

  References:
    Ban and Ji, `Fair Resource Allocation in Multi-Task Learning
    <https://arxiv.org/abs/2402.15638>`_, ICML 2024.
  """
  _checks.check_range("alpha", alpha, 0, jnp.inf, open_low=True, open_high=True)
  inverse = 1.0 / jnp.asarray(alpha).astype(solver_dtype())
  if preference is None:
    return _solve(gram, inverse, None, active, tol, max_iter)
  num_tasks = jnp.shape(gram)[0] if jnp.ndim(gram) else 0
  given = _checks.task_vector(preference, num_tasks, "preference")
  counts = given > 0
  if active is not None:
    counts &= _checks.task_mask(active, num_tasks, "active")
  return _solve(gram, inverse, given, counts, tol, max_iter)
