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

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl.solvers import _nonneg_qp, _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import Prepared, dot, over

# Most blocks from one support. They settle in one to three steps, or go in
# circles; the search for the level, which always ends, then finds another one.
_BLOCKS = 10
# Most trips. Every other one halves the interval of the level, and the others
# are Newton's steps: what has not settled by then is rounding.
_TRIPS = 30
# Most steps of the driver in a trip. Typical are 1 to 10; a level that is out
# of reach would take them all.
_MOST = 50
# Gradient steps that guess the first support. They cost a fraction of a block
# and save several.
_GUESSES = 3
# Most levels that are tried: halving every other time, so many leave less than
# a rounding of the interval.
_LEVELS = 60
# Roundings under the Cholesky factor, so that it exists for dependent rows. It
# leaves no bias, as every system is solved for a correction.
_RIDGE = 8.0


class _Problem(NamedTuple):
  """The problem above.

  Attributes:
    gram: The prepared Gram matrix, with `C`.
    linear: `[T]`, `q`.
    costs: `[T]`, `e`; 0 for tasks that take no part.
    radius: Scalar, `c` times the length of the mean.
    total: Scalar, sum of the mean's coefficients on the unit gradients.
    reaches_zero: Scalar bool, `c >= 1`.
  """

  gram: Prepared
  linear: Array
  costs: Array
  radius: Array
  total: Array
  reaches_zero: Array


class _Blocks(NamedTuple):
  """A point, and the support that it is solved on next.

  Attributes:
    steps: Scalar int32.
    point: `[T]`, `y >= 0`.
    support: `[T]` bool.
    moving: Scalar bool.
  """

  steps: Array
  point: Array
  support: Array
  moving: Array


class _Search(NamedTuple):
  """A search for the level.

  Attributes:
    steps: Scalar int32, steps so far: blocks, and those of the driver.
    trips: Scalar int32, supports that were tried so far.
    low: Scalar, the level is not lower.
    high: Scalar, the level is not higher, but for rounding.
    best: `[T]`, of all `x` so far the one of least residual.
    residual: Scalar, its residual.
  """

  steps: Array
  trips: Array
  low: Array
  high: Array
  best: Array
  residual: Array


def _measured(problem: _Problem, x: Array) -> tuple[Array, Array]:
  """Relative KKT residual of `x`, and `F(x)`, an upper bound of the level."""
  products = dot(problem.gram.cosines, x)
  size, mass = jnp.sum(x), dot(problem.costs, x)
  square = jnp.maximum(dot(x, products), 0.0)
  # Below that a square is rounding: `pull` must not be made of it.
  norm = jnp.sqrt(jnp.maximum(square, 4.0 * problem.gram.eps * size * size))
  pull = over(problem.radius, norm)
  gains = problem.linear + pull * products
  excess = gains - over(dot(x, gains), mass) * problem.costs
  residual = _nonneg_qp.kkt_residual(
    x, excess, problem.total + pull * size, problem.gram.present
  )
  # With c >= 1, d = 0 is within reach, and weights that give it are optimal.
  at_zero = jnp.where(problem.reaches_zero, over(square, size * size), jnp.inf)
  usable = jnp.all(jnp.isfinite(x))
  usable &= (mass > 0) | ~jnp.any(problem.gram.present)
  residual = jnp.where(usable, jnp.minimum(residual, at_zero), jnp.inf)
  level = dot(problem.linear, x) + problem.radius * jnp.sqrt(square)
  return residual, jnp.where(mass > 0, over(level, mass), jnp.inf)


def _guess(problem: _Problem, point: Array) -> Array:
  """A support: what a few projected gradient steps from a point leave."""

  def descend(_: int, point: Array) -> Array:
    image = dot(problem.gram.cosines, point)
    scale = over(problem.radius, jnp.sqrt(jnp.maximum(dot(point, image), 0.0)))
    gains = problem.linear + scale * image
    level = over(dot(point, gains), dot(point, problem.costs))
    return jnp.maximum(scale * point + level * problem.costs - gains, 0.0)

  return lax.fori_loop(0, _GUESSES, descend, point) > 0


def _block(problem: _Problem, tol: Array, at: _Blocks) -> _Blocks:
  """Solves on the support, and lets all go and come in that should.

  With `E = inv(C_SS) e_S` and `Q = inv(C_SS) q_S`, the minimum on the support
  is `level E - Q`, of a length that is a root of a quadratic of the level.
  """
  gram, linear = problem.gram.cosines, problem.linear
  costs, present = problem.costs, problem.gram.present
  on = at.support
  pair = on[:, None] & on[None, :]
  diagonal = jnp.where(on, _RIDGE * problem.gram.eps, 1.0).astype(gram.dtype)
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
  entering = present & ~on & (short > 0.5 * tol)
  # Where the gap is negative the length is out of reach on this support. Where
  # the support stays, its values are solved on until they are exact.
  bounded = gap > 0
  rough = jnp.max(jnp.where(on, jnp.abs(short), 0.0)) > 0.5 * tol
  return _Blocks(
    steps=at.steps + 1,
    point=jnp.where(bounded, jnp.maximum(goal, 0.0), 0.0),
    support=(on & ~leaving) | entering,
    moving=jnp.any(leaving | entering) | (bounded & rough),
  )


def _trip(
  problem: _Problem, guess: Array, tol: Array, max_iter: Array, at: _Search
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
  gram, costs = problem.gram.cosines, problem.costs
  guessing, hull = at.trips == 0, at.trips == 1
  level = jnp.where(at.trips % 2 == 0, at.high, 0.5 * at.low + 0.5 * at.high)
  target = jnp.where(hull, costs, level * costs - problem.linear)
  extra = jnp.where(hull, costs, 0.0)
  total = jnp.where(hull, 0.0, problem.total)
  free = problem.gram.present & ~guessing

  def residual(y: Array, slope: Array) -> Array:
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
    jnp.minimum(max_iter - at.steps, _MOST),
  )
  steps = at.steps + found.steps
  blocks = lax.while_loop(
    lambda b: b.moving & (b.steps < jnp.minimum(steps + _BLOCKS, max_iter)),
    lambda b: _block(problem, tol, b),
    _Blocks(
      steps=steps,
      point=found.u,
      support=jnp.where(guessing, guess, found.u > 0),
      moving=jnp.any(problem.gram.present),
    ),
  )
  points = jnp.stack([found.u, blocks.point])
  # To a sum of 1, not to weights of sum 1: on a gradient 1e30 times as long as
  # the shortest the square of these would leave float32's range.
  points = over(points, jnp.sum(points, axis=1)[:, None])
  measured = functools.partial(_measured, problem)
  residuals, levels = jax.vmap(measured)(points)
  chosen = jnp.argmin(residuals)
  better = residuals[chosen] < at.residual
  short = dot(found.u, dot(gram, found.u)) <= jnp.square(problem.radius)
  reached = short & (at.trips > 1)
  return _Search(
    steps=blocks.steps,
    trips=at.trips + 1,
    low=jnp.where(reached, jnp.maximum(at.low, level), at.low),
    high=jnp.minimum(at.high, jnp.min(levels)),
    best=jnp.where(better, points[chosen], at.best),
    residual=jnp.minimum(residuals[chosen], at.residual),
  )


def cagrad_weights(
  gram: ArrayLike,
  c: ArrayLike,
  *,
  preference: ArrayLike | None = None,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Weights of the gradient that CAGrad adds to the mean.

  The minimiser over the simplex of `g_w · ḡ + c ‖ḡ‖ ‖g_w‖`, with `g_w = Gᵀ w`
  and `ḡ` the mean gradient, or that under `preference`. The method's direction
  is then `d = ḡ + c ‖ḡ‖ g_w / ‖g_w‖`.

  Solved exactly, by an active-set method on the matrix scaled to unit diagonal:
  on a given support the minimiser has a closed form, one square root away from
  the solution of a linear system. The support changes in blocks, every task
  that falls short of the level coming in at once and every negative weight
  leaving. Where that has not settled after ten blocks, a search for the level,
  one non-negative quadratic problem each, finds other supports. The answer does
  not depend on the scale of the gradients.

  Where `g_w = 0` is optimal the objective has a kink. With `c >= 1` that is so
  at every Pareto stationary point; `d = 0` is then within reach and the weights
  make `g_w` zero to rounding, which counts as solved. Where the mean itself is
  zero, any weights are optimal.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    c: Scalar, not negative, may be traced. Radius of the search around the
      mean, relative to the mean's length.
    preference: `[T]`, real and not negative: `ḡ = Σ u_i g_i`. Its sum does not
      matter. Default: the mean.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0. (A zero gradient would pin the
      smallest gain, which is what is maximised, at zero.)
    tol: Largest residual that counts as solved. Default: 16 roundings of the
      solver's dtype (1.9e-6 in float32).
    max_iter: Most steps, blocks and those of the search, each of them one
      linear system. Default: 1000, which is never reached; 1 to 4 are usual,
      for any `T`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights, which sum to 1 if any task takes
      part. NaN for the active tasks if `gram` has an entry between active tasks
      that is not finite.
    - A `Certificate`. With `v` the coefficients of `d` on the unit gradients,
      and `μ` the mean of `g_i · d` under the weights, `residual` is the largest
      `|g_i · d - μ| / ‖g_i‖` where `w_i > 0`, and `(μ - g_i · d) / ‖g_i‖`
      elsewhere, relative to `Σ_j |v_j|`. With `c >= 1` it is at most `‖g_w‖²`,
      relative to the square of the sum of the coefficients of `g_w`.
      `iterations` are the steps as in `max_iter`; 0 where a single task is the
      answer. Where gradients nearly cancel, a few times the default tolerance
      may be all that float32 reaches, and 1e-2 where some are opposite to
      others and `c < 1`, at the kink: the status is `AT_ROUNDING` then. The
      mean `μ` is itself known to a few roundings of `Σ_j w_j ‖g_j‖`: beside
      gradients that are a million times shorter, that is more than they are.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl import solvers
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> weights, _ = solvers.cagrad_weights(gradients @ gradients.T, 0.5)
    >>> print(weights)
    [0.5 0.5]

  References:
    Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
    <https://arxiv.org/abs/2110.14048>`_, NeurIPS 2021.
  """
  _checks.check_range("c", c, 0)
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 16.0)
  limit = _prepare.iteration_limit(max_iter, 1000)
  c = jnp.asarray(c).astype(prepared.cosines.dtype)
  mean = prepared.relative_lengths / prepared.number
  if preference is not None:
    size = len(prepared.lengths)
    shares = _checks.task_vector(preference, size, "preference")
    shares = jnp.where(prepared.present, shares, 0.0)
    mean = prepared.relative_lengths * over(shares, jnp.max(shares))
  linear = dot(prepared.cosines, mean)
  problem = _Problem(
    gram=prepared,
    linear=linear,
    costs=prepared.shortness,
    radius=c * jnp.sqrt(jnp.maximum(dot(mean, linear), 0.0)),
    total=jnp.sum(mean),
    reaches_zero=c >= 1,
  )
  # From the single task with the least `F`, which is the answer for `c = 0`.
  there, costs, none = prepared.present, problem.costs, jnp.zeros((), jnp.int32)
  alone = jnp.where(there, over(linear + problem.radius, costs), jnp.inf)
  vertex = there & (jnp.arange(len(costs)) == jnp.argmin(alone))
  vertex = vertex.astype(costs.dtype)
  residual, high = _measured(problem, vertex)
  guess = _guess(problem, vertex)
  found = lax.while_loop(
    lambda at: (at.residual > tol) & (at.trips < _TRIPS) & (at.steps < limit),
    lambda at: _trip(problem, guess, tol, limit, at),
    _Search(
      steps=none,
      trips=none,
      low=jnp.min(jnp.where(there, over(linear, costs), jnp.inf)),
      high=high,
      best=vertex,
      residual=residual,
    ),
  )
  weights = found.best * problem.costs
  weights = over(weights, jnp.sum(weights))
  return prepared.poison(weights), prepared.certify(
    found.residual, found.steps, tol, out_of_iterations=found.steps >= limit
  )
