"""Bargaining solutions: Nash-MTL, and FairGrad's family around it.

Both are `M w = w ** (-1 / alpha)` with `w > 0`, Nash at `alpha = 1`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _certificate, _compensated, _unit_gram
from optax_mtl.solvers._compensated import Pair

# The iteration ends where every error is below a rounding and below this part
# of what rounding the weights makes of it; ...
_PART = 1.0 / 32.0
# ... and from this multiple of the latter on as soon as it stops halving, or
# where it is all that is left of the equations, as there is no solution then.
_NEAR = 16.0
# Largest step towards zero, in the logarithm: keeps float32 from underflowing.
_SHRINK = 20.0


class _Problem(NamedTuple):
  """`M x = 2^t x ** (-1 / alpha)`, with `t = (1 / alpha - 1) power`."""

  matrix: jax.Array  # [T, T], diagonal near 1
  power: jax.Array  # [T], integers
  inverse_alpha: jax.Array | float


class _Iterate(NamedTuple):
  """Primal-dual iterate; `primal` and `dual` are positive."""

  count: jax.Array  # scalar int32
  primal: Pair  # [T], x
  dual: jax.Array  # [T], tends to M x
  goal: jax.Array  # [T], what M x has to be, given x
  error: jax.Array  # [T], M x / goal - 1
  level: jax.Array  # scalar, the largest error in roundings of its own terms
  going: jax.Array  # scalar bool


def _power(x: jax.Array) -> jax.Array:
  """The exponent of the power of two nearest to `x`, as a float."""
  return jnp.round(jnp.log2(_compensated.power_of_two(x)))


def _exp2(integer: jax.Array, fraction: jax.Array) -> jax.Array:
  """`2 ** (integer + fraction)`, to a rounding or two."""
  limit = 4.0 * jnp.finfo(integer.dtype).maxexp
  integer = jnp.clip(integer, -limit, limit).astype(jnp.int32)
  return jnp.ldexp(jnp.exp2(fraction), integer)


def _multiple(number: Pair, integers: jax.Array) -> Pair:
  """`number * integers` as an integer and a fraction."""
  product = _compensated.multiply(number.high, integers)
  whole = jnp.round(product.high)
  low = product.low + number.low * integers
  return Pair(whole, (product.high - whole) + low)


def _goal(problem: _Problem, x: Pair) -> jax.Array:
  """The right-hand side, to a few roundings however large its logarithm is."""
  if isinstance(problem.inverse_alpha, float) and problem.inverse_alpha == 1.0:
    return (1.0 - x.low / x.high) / x.high
  power = _power(x.high)
  mantissa = jnp.ldexp(x.high, -power.astype(jnp.int32))
  inverse = problem.inverse_alpha
  parts = _multiple(Pair(inverse, 0.0), problem.power - power)
  goal = _exp2(
    parts.high - problem.power, parts.low - inverse * jnp.log2(mantissa)
  )
  return goal - goal * (inverse * (x.low / x.high))


def _move(point: Pair, relative: jax.Array) -> Pair:
  """`point (1 + relative)` upwards, its exponential analogue downwards."""
  down = jnp.clip(relative, -_SHRINK, 0.0)
  change = jnp.where(relative < 0, jnp.expm1(down), relative)
  near = _compensated.two_sum(
    point.high, point.high * change + point.low * (1.0 + change)
  )
  far = point.high * jnp.exp(down)
  return Pair(
    jnp.where(change < -0.5, far, near.high),
    jnp.where(change < -0.5, 0.0, near.low),
  )


def _error(problem: _Problem, x: Pair, goal: jax.Array) -> jax.Array:
  product = _compensated.times(problem.matrix, x)
  return ((product.high - goal) + product.low) / goal


def _balance(problem: _Problem, max_iter: int) -> tuple[Pair, jax.Array]:
  """Solves `M x = 2^t x ** (-1 / alpha)` for `x > 0`.

  Newton's method on `M x = y` and `log x / alpha + log y = t log 2`, with
  `x` and `y` kept positive. Its linear system is `M + diag(y / (alpha x))`.
  Taking `y` for an unknown of its own is what makes it converge in a handful of
  steps where gradients conflict: Newton on `x` alone, damped, takes tens of
  them as long as some `(M x)_i` is negative. Moving down exponentially needs no
  line search, and lets `x` fall by orders of magnitude in a step, as a large
  `alpha` wants.

  The errors are those of a product in twice the precision, so that `x` solves
  the equations for the matrix as it is given.

  Args:
    problem: The equations.
    max_iter: Most Newton steps.

  Returns:
    `x` [T], and the number of steps.
  """
  matrix, inverse_alpha = problem.matrix, problem.inverse_alpha
  eps = float(jnp.finfo(matrix.dtype).eps)
  magnitudes = jnp.abs(matrix)

  def measure(count, primal, dual):
    goal = _goal(problem, primal)
    error = _error(problem, primal, goal)
    size = jnp.matmul(magnitudes, primal.high, precision="highest") / goal
    level = jnp.max(jnp.abs(error) / (eps * (1.0 + size)))
    enough = jnp.all(jnp.abs(error) <= eps * (1.0 + _PART * size))
    hopeless = (level <= 1.0) & jnp.any(jnp.abs(error) > 0.5)
    return _Iterate(
      count, primal, dual, goal, error, level, ~(enough | hopeless)
    )

  def newton(state: _Iterate) -> _Iterate:
    x, y, goal = state.primal.high, state.dual, state.goal
    # The right-hand side is y log(goal / y) - (M x - y): near the solution in
    # terms that are small themselves.
    apart = (goal - y) / y
    near = jnp.abs(apart) < 0.5
    log_gap = jnp.where(
      near,
      jnp.log1p(jnp.where(near, apart, 0.0)),
      jnp.log(goal) - jnp.log(y),
    )
    gap = jnp.where(
      near,
      y * (log_gap - apart) - state.error * goal,
      y * log_gap - ((state.error + 1.0) * goal - y),
    )
    system = matrix + jnp.diag(inverse_alpha * y / x)
    dx = jnp.linalg.solve(system, gap[:, None])[:, 0] / x
    dy = log_gap - inverse_alpha * dx
    dual = _move(Pair(y, jnp.zeros_like(y)), dy).high
    after = measure(state.count + 1, _move(state.primal, dx), dual)
    stalled = (state.level <= _NEAR) & (after.level > 0.5 * state.level)
    # A singular system, or an overflow on the way to infinity: stay.
    usable = jnp.all(jnp.isfinite(after.error) & jnp.isfinite(after.dual))
    usable &= jnp.all((after.primal.high > 0) & (after.dual > 0))
    take = usable & ~(stalled & (after.level > state.level))
    going = after.going & usable & ~stalled
    chosen = jax.tree.map(
      lambda new, old: jnp.where(take, new, old), after, state
    )
    return chosen._replace(count=after.count, going=going)

  # Where the gradients are orthogonal, or all equal, this is the solution.
  positive = jnp.sum(jnp.maximum(matrix, 0.0), axis=1)
  start = jnp.exp2(
    ((inverse_alpha - 1.0) * problem.power - jnp.log2(positive))
    / (1.0 + inverse_alpha)
  )
  start = Pair(start, jnp.zeros_like(start))
  final = lax.while_loop(
    lambda s: s.going & (s.count < max_iter),
    newton,
    measure(jnp.zeros((), jnp.int32), start, _goal(problem, start)),
  )
  return final.primal, final.count


def _solve(gram, unit, inverse_alpha, tol, max_iter):
  """The weights of `M w = w ** (-1 / alpha)`, and their certificate."""
  binary = _compensated.binary_gram(gram, unit)
  power = _power(binary.powers)
  count = jnp.maximum(jnp.sum(unit.present.astype(power.dtype)), 1.0)
  # The equation is homogeneous: the overall level is taken off, as its powers
  # may be large.
  level = jnp.round(jnp.sum(power) / count)
  power = jnp.where(unit.present, power - level, 0.0)
  problem = _Problem(binary.gram, power, inverse_alpha)
  x, steps = _balance(problem, max_iter)
  # w = x / power times the level's part; the factor is written so that no part
  # of it overflows.
  one = jnp.ones_like(level)
  factor = _compensated.divide(
    Pair(2.0 * one, 0.0 * one), Pair(1.0 + inverse_alpha * one, 0.0 * one)
  )
  parts = _multiple(factor, -level)
  mantissa = jnp.exp2(parts.low)
  exponent = (parts.high - power).astype(jnp.int32)
  mantissas = _compensated.scale(x, mantissa)
  weights = jnp.ldexp(mantissas, exponent)
  weights = unit.poison(jnp.where(unit.present, weights, 0.0))
  answer = _compensated.divide(
    Pair(mantissas, jnp.zeros_like(mantissas)),
    Pair(mantissa, jnp.zeros_like(mantissa)),
  )
  error = _error(problem, answer, _goal(problem, answer))
  residual = jnp.max(jnp.where(unit.present, jnp.abs(error), 0.0))
  return weights, unit.certify(residual, steps, tol)


def nash_bargaining(
  gram: jax.Array,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
  max_iter: int | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Weights of the Nash bargaining solution.

  The positive weights with :math:`w_i (M w)_i = 1` for every task `i`: every
  task gains the same from the step, relative to its own gradient. They are
  unique where they exist, and the combined gradient has norm
  :math:`\sqrt{T}`, with `T` the number of tasks that take part, whatever the
  gradients are.

  They do not exist at a Pareto stationary point, where some positive
  combination of the gradients is zero, such as two opposite gradients: the
  weights then grow without bound along that combination. They are returned
  where rounding no longer tells :math:`M w` from zero, at about
  :math:`w_i \|g_i\| = (2 / \epsilon)^{1/2}`, that is 4000 in float32. They are
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
    - A `Certificate`; `residual` is :math:`\max_i |w_i (M w)_i - 1|`, with the
      product in twice the precision. What is left is the rounding of the
      weights, up to :math:`\epsilon w_i \sum_j |M_{ij}| w_j`, which is large
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
  unit = _unit_gram.unit_gram(gram, active)
  tol = _unit_gram.tolerance(tol, 800.0)
  max_iter = _unit_gram.iteration_limit(max_iter, 50)
  return _solve(gram, unit, 1.0, tol, max_iter)


def fairness(
  gram: jax.Array,
  alpha: jax.Array | float,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
  max_iter: int | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Weights of the alpha-fair solution.

  The positive weights with :math:`M w = w^{-1/\alpha}`, elementwise.
  `alpha = 1` is `nash_bargaining`; towards 0 the sum of the gains counts, for
  large `alpha` the smallest gain. They scale with the gradients: multiplying
  these by `c` multiplies the weights by :math:`c^{-2\alpha/(1+\alpha)}`.

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
      :math:`\max_i |w_i^{1/\alpha} (M w)_i - 1|`.

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
  if isinstance(alpha, (int, float)) and not 0 < alpha < float("inf"):
    raise ValueError(f"alpha must be positive and finite; got {alpha}.")
  unit = _unit_gram.unit_gram(gram, active)
  tol = _unit_gram.tolerance(tol, 800.0)
  max_iter = _unit_gram.iteration_limit(max_iter, 50)
  inverse = 1.0 / jnp.asarray(alpha).astype(unit.gram.dtype)
  return _solve(gram, unit, inverse, tol, max_iter)
