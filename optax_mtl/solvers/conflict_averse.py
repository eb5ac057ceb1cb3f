"""CAGrad's weights, exactly.

On the unit gradients, with `C` their cosines, `q` their products with the mean
gradient and `e_i = n_min / n_i`, the weights `x_i = w_i n_i` minimise

    F(x) = (q.x + radius sqrt(x' C x)) / e.x    over    x >= 0.

The least `F` is the level: the best that the least gain `g_i.d` can be, in
units of the shortest gradient, for `d` within the radius of the mean. Given the
level `l`, the shortest way from the mean to a direction with these gains is

    minimise  1/2 y' C y + (q - l e)' y    over    y >= 0,

and its length `sqrt(y' C y)`, which grows with the level, has to be the radius.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl.solvers import _nonneg_qp, _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import dot, over

# Most blocks from one support. They settle in one to three steps, or go in
# circles; the search for the level, which always ends, then finds another one.
_BLOCKS = 10
# Most trips: every other one halves the interval of the level, so that what is
# left of it is a rounding in float32.
_TRIPS = 50
# Most steps of the driver in a trip. Typical are 1 to 10; a level that is out
# of reach would take them all.
_MOST = 50
# Gradient steps that guess the first support. They cost a fraction of a block
# and save several.
_GUESSES = 2
# Most levels that are tried: halving every other time, so many leave less than
# a rounding of the interval.
_LEVELS = 60
# Roundings under the Cholesky factor, so that it exists for dependent rows. It
# leaves no bias, as every system is solved for a correction.
_RIDGE = 8.0


class _Problem(NamedTuple):
  """The problem above.

  Attributes:
    gram: `[T, T]`, `C`.
    linear: `[T]`, `q`.
    costs: `[T]`, `e`; 0 for tasks that take no part.
    radius: Scalar, `c` times the length of the mean.
    total: Scalar, sum of the mean's coefficients on the unit gradients.
    present: `[T]` bool.
    reaches_zero: Scalar bool, `c >= 1`.
    eps: One rounding.
  """

  gram: jax.Array
  linear: jax.Array
  costs: jax.Array
  radius: jax.Array
  total: jax.Array
  present: jax.Array
  reaches_zero: jax.Array
  eps: float


class _Blocks(NamedTuple):
  """A point, and the support that it is solved on next.

  Attributes:
    count: Scalar int32.
    point: `[T]`, `y >= 0`.
    support: `[T]` bool.
    moving: Scalar bool.
  """

  count: jax.Array
  point: jax.Array
  support: jax.Array
  moving: jax.Array


class _Search(NamedTuple):
  """A search for the level.

  Attributes:
    count: Scalar int32, steps so far: blocks, and those of the driver.
    trips: Scalar int32, supports that were tried so far.
    guess: `[T]` bool, the first of them.
    low: Scalar, the level is not lower.
    high: Scalar, the level is not higher, but for rounding.
    best: `[T]`, of all `x` so far the one of least residual.
    residual: Scalar, its residual.
  """

  count: jax.Array
  trips: jax.Array
  guess: jax.Array
  low: jax.Array
  high: jax.Array
  best: jax.Array
  residual: jax.Array


def _level(problem: _Problem, x: jax.Array) -> jax.Array:
  """`F(x)`, an upper bound of the level."""
  norm = jnp.sqrt(jnp.maximum(dot(x, dot(problem.gram, x)), 0.0))
  return over(
    dot(problem.linear, x) + problem.radius * norm, dot(problem.costs, x)
  )


def _best_task(problem: _Problem) -> jax.Array:
  """The single task with the least `F`, `[T]`, as a unit vector."""
  value = problem.linear + problem.radius
  value = value / jnp.where(problem.present, problem.costs, 1.0)
  first = jnp.argmin(jnp.where(problem.present, value, jnp.inf))
  hot = jnp.arange(value.shape[0]) == first
  return (hot & problem.present).astype(value.dtype)


def _residual_of(problem: _Problem, x: jax.Array) -> jax.Array:
  """Relative KKT residual of the weights on the unit gradients `x`."""
  products = dot(problem.gram, x)
  size, mass = jnp.sum(x), dot(problem.costs, x)
  square = jnp.maximum(dot(x, products), 0.0)
  # Below that a square is rounding: `pull` must not be made of it.
  norm = jnp.sqrt(jnp.maximum(square, 4.0 * problem.eps * size * size))
  pull = over(problem.radius, norm)
  gains = problem.linear + pull * products
  excess = gains - over(dot(x, gains), mass) * problem.costs
  residual = _nonneg_qp.kkt_residual(
    x, excess, problem.total + pull * size, problem.present
  )
  # With c >= 1, d = 0 is within reach, and weights that give it are optimal.
  at_zero = jnp.where(problem.reaches_zero, over(square, size * size), jnp.inf)
  usable = jnp.all(jnp.isfinite(x))
  usable &= (mass > 0) | ~jnp.any(problem.present)
  return jnp.where(usable, jnp.minimum(residual, at_zero), jnp.inf)


def _guess(problem: _Problem, hot: jax.Array) -> jax.Array:
  """A support: what falls short of the best single task, then a few steps."""
  gains = problem.linear + problem.radius * dot(problem.gram, hot)
  level = over(dot(hot, gains), dot(hot, problem.costs))
  short = jnp.maximum(level * problem.costs - gains, 0.0) * (1.0 - hot)
  # The task itself is not short; it stays, and as much as any other.
  worst = jnp.max(short)
  point = jnp.where(hot > 0, jnp.where(worst > 0, worst, 1.0), short)
  for _ in range(_GUESSES):
    image = dot(problem.gram, point)
    scale = over(problem.radius, jnp.sqrt(jnp.maximum(dot(point, image), 0.0)))
    gains = problem.linear + scale * image
    level = over(dot(point, gains), dot(point, problem.costs))
    point = jnp.maximum(scale * point + level * problem.costs - gains, 0.0)
  return problem.present & (point > 0)


def _block(problem: _Problem, tol: jax.Array, at: _Blocks) -> _Blocks:
  """Solves on the support, and lets all go and come in that should.

  With `E = inv(C_SS) e_S` and `Q = inv(C_SS) q_S`, the minimum on the support
  is `level E - Q`, of a length that is a root of a quadratic of the level.
  """
  gram, linear, costs = problem.gram, problem.linear, problem.costs
  on = at.support
  pair = on[:, None] & on[None, :]
  diagonal = jnp.where(on, _RIDGE * problem.eps, 1.0).astype(gram.dtype)
  right = jnp.stack([costs, -linear - dot(gram, at.point)], axis=1)
  right = _prepare.solve_positive(
    jnp.where(pair, gram, 0.0) + jnp.diag(diagonal),
    jnp.where(on[:, None], right, 0.0),
  )
  both = right + jnp.stack([jnp.zeros_like(costs), at.point], axis=1)
  images = dot(gram, both)
  unit, rest = both.T
  sums = dot(both.T, images)
  ee, eq, qq = sums[0, 0], -sums[0, 1], sums[1, 1]
  gap = eq * eq - ee * (qq - problem.radius * problem.radius)
  level = over(eq + jnp.sqrt(jnp.maximum(gap, 0.0)), ee)
  goal = rest + level * unit
  short = level * (costs - images[:, 0]) - images[:, 1] - linear
  short = over(short, problem.total + jnp.maximum(jnp.sum(goal), 0.0))
  leaving = on & (goal <= 0)
  # At half of the tolerance, since the other half is for rounding.
  entering = problem.present & ~on & (short > 0.5 * tol)
  # Where the gap is negative the length is out of reach on this support. Where
  # the support stays, its values are solved on until they are exact.
  bounded = gap > 0
  rough = jnp.max(jnp.where(on, jnp.abs(short), 0.0)) > 0.5 * tol
  return _Blocks(
    count=at.count + 1,
    point=jnp.where(bounded, jnp.maximum(goal, 0.0), 0.0),
    support=(on & ~leaving) | entering,
    moving=jnp.any(leaving | entering) | (bounded & rough),
  )


def _trip(
  problem: _Problem, tol: jax.Array, max_iter: jax.Array, at: _Search
) -> _Search:
  """Takes the support of a level's solution, and solves on it by blocks.

  `F` of any point is an upper bound of the best level; at the solution for a
  level that is too high this is Newton's step, which converges from above in a
  few steps unless the gradients can cancel: then the problem has no solution
  above the best level. So every other step halves the interval instead.

  The first trip has a guess for a support, and mostly settles it. The second
  has no level either, but the shortest vector in the hull, which is the answer
  for large `c`, and wherever the gradients cancel and `c >= 1`. Its problem is
  that of `min_norm`: `C + e e'` in place of `C`, and `e` of `l e - q`.
  """
  gram, costs = problem.gram, problem.costs
  guessing, hull = at.trips == 0, at.trips == 1
  level = jnp.where(at.trips % 2 == 0, at.high, 0.5 * at.low + 0.5 * at.high)
  target = jnp.where(hull, costs, level * costs - problem.linear)
  extra = jnp.where(hull, costs, 0.0)
  total = jnp.where(hull, 0.0, problem.total)
  free = problem.present & ~guessing

  def residual(y: jax.Array, slope: jax.Array) -> jax.Array:
    return _nonneg_qp.kkt_residual(y, slope, total + jnp.sum(y), free)

  found = _nonneg_qp.solve(
    _nonneg_qp.Problem(
      hessian=gram + extra[:, None] * extra[None, :],
      slope=lambda y: dot(gram, y) + extra * dot(extra, y) - target,
      size=lambda y: total + jnp.sum(y),
      free=free,
      residual=residual,
    ),
    target > 0,
    tol,
    jnp.minimum(max_iter - at.count, _MOST),
  )
  count = at.count + found.count
  blocks = lax.while_loop(
    lambda b: b.moving & (b.count < jnp.minimum(count + _BLOCKS, max_iter)),
    lambda b: _block(problem, tol, b),
    _Blocks(
      count=count,
      point=found.u,
      support=jnp.where(guessing, at.guess, found.u > 0),
      moving=jnp.any(problem.present),
    ),
  )
  low, high, best, residual = at.low, at.high, at.best, at.residual
  for point in (found.u, blocks.point):
    x = over(point, dot(costs, point))
    value = _residual_of(problem, x)
    best = jnp.where(value < residual, x, best)
    residual = jnp.minimum(value, residual)
    high = jnp.where(
      jnp.any(point > 0), jnp.minimum(high, _level(problem, x)), high
    )
  short = dot(found.u, dot(gram, found.u)) <= jnp.square(problem.radius)
  low = jnp.where(short & (at.trips > 1), jnp.maximum(low, level), low)
  return _Search(
    count=blocks.count,
    trips=at.trips + 1,
    guess=at.guess,
    low=low,
    high=high,
    best=best,
    residual=residual,
  )


def _solve(problem: _Problem, tol: jax.Array, max_iter: jax.Array) -> _Search:
  """Trips from the best single task, until one solves it."""
  none, hot = jnp.zeros((), jnp.int32), _best_task(problem)
  vertex = over(hot, dot(hot, problem.costs))
  gains = problem.linear / jnp.where(problem.present, problem.costs, 1.0)
  first = _Search(
    count=none,
    trips=none,
    guess=_guess(problem, hot),
    low=jnp.min(jnp.where(problem.present, gains, jnp.inf)),
    high=_level(problem, vertex),
    best=vertex,
    residual=_residual_of(problem, vertex),
  )
  return lax.while_loop(
    lambda at: (
      (at.residual > tol) & (at.trips < _TRIPS) & (at.count < max_iter)
    ),
    lambda at: _trip(problem, tol, max_iter, at),
    first,
  )


def cagrad_weights(
  gram: ArrayLike,
  c: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[jax.Array, Certificate]:
  r"""Weights of the gradient that CAGrad adds to the mean.

  The minimiser over the simplex of

  `wᵀ M 1/T + c ‖ḡ‖ √(wᵀ M w)`,

  with `ḡ` the mean gradient. The method's direction is then
  `d = ḡ + c ‖ḡ‖ g_w / ‖g_w‖`, with `g_w = Gᵀ w`.

  Solved exactly, by an active-set method on the matrix scaled to unit diagonal:
  on a given support the minimiser has a closed form, one square root away from
  the solution of a linear system. From five tasks on the support changes in
  blocks, every task that falls short of the level coming in at once and every
  negative weight leaving; where that has not settled after ten blocks, and for
  fewer tasks, it changes by one task at a time, which always ends. The answer
  does not depend on the scale of the gradients.

  Where `g_w = 0` is optimal the objective has a kink. With `c >= 1` that
  is so at every Pareto stationary point; `d = 0` is then within reach and the
  weights make `g_w` zero to rounding. Where the mean itself is zero, any
  weights are optimal.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    c: Scalar, not negative, may be traced. Radius of the search around the
      mean, relative to the mean's length.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0. (A zero gradient would pin the
      smallest gain, which is what is maximised, at zero.)
    tol: Largest residual that counts as solved. Default: 16 roundings of the
      solver's dtype (1.9e-6 in float32).
    max_iter: Most pivots, changes by one task, in one attempt; there are up to
      six, of which all but the first are rare. Default: `5 T + 20`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights, which sum to 1 if any task takes
      part. NaN for the active tasks if `gram` has an entry between active tasks
      that is not finite.
    - A `Certificate`. With `v` the coefficients of `d` on the unit gradients,
      and `μ` the mean of `g_iᵀ d` under the weights,
      `residual` is the largest `|g_iᵀ d - μ| / ‖g_i‖` where
      `w_i > 0`, and `(μ - g_iᵀ d) / ‖g_i‖` elsewhere,
      relative to `Σ_j |v_j|`. With `c >= 1` it is at most
      `‖g_w‖²`, relative to the square of the sum of the coefficients
      of `g_w`. `iterations` counts blocks and pivots.

  Raises:
    ValueError: If a shape does not fit, `c` is negative, or a limit is not
      positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import conflict_averse
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> weights, _ = conflict_averse.cagrad_weights(gradients @ gradients.T, 0.5)
    >>> print(weights)
    [0.5 0.5]

  References:
    Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
    <https://arxiv.org/abs/2110.14048>`_, NeurIPS 2021.
  """
  _checks.check_range("c", c, 0)
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 16.0)
  limit = _prepare.iteration_limit(max_iter, 200 + 5 * len(prepared.lengths))
  c = jnp.asarray(c).astype(prepared.cosines.dtype)
  mean = prepared.relative_lengths / prepared.count
  linear = dot(prepared.cosines, mean)
  problem = _Problem(
    gram=prepared.cosines,
    linear=linear,
    costs=prepared.shortness,
    radius=c * jnp.sqrt(jnp.maximum(dot(mean, linear), 0.0)),
    total=jnp.sum(mean),
    present=prepared.present,
    reaches_zero=c >= 1,
    eps=prepared.eps,
  )
  found = _solve(problem, tol, limit)
  weights = found.best * problem.costs
  weights = over(weights, jnp.sum(weights))
  return prepared.poison(weights), prepared.certify(
    found.residual, found.count, tol, out_of_iterations=found.count >= limit
  )
