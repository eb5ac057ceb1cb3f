"""The best worst gain within a cone around the mean gradient, exactly.

Of all directions as long as the mean and at most so far from it in angle, the
one whose least gain is largest has the form `a ḡ + g_x` with `x >= 0` on tasks
of least gain: it lies on the path of the directions `d` that are nearest to the
mean among those with `g_i · d >= level` for all `i`. CAGrad's solutions for all
radii are that path too; it leads from the mean to the shortest vector in the
hull, the angle to the mean never shrinks on it, and the cone's boundary is met
once. A point on it is one least-distance problem (`gains.py`), for `a = 1`, and
at the end of it, where the level is beyond all bounds, for `a = 0`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl.solvers import _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import Prepared, dot, over
from optax_mtl.solvers.gains import add_least

# Most points of the path. 1 to 6 are typical; more than 20 are taken only where
# gradients cancel, to rounding, before the path leaves the cone.
_TRIPS = 24
# Roundings under the Cholesky factor, so that it exists for dependent rows: it
# only guesses.
_RIDGE = 8.0
# A square below so many roundings of its terms is rounding, and has no
# direction.
_NOTHING = 16.0


class _Path(NamedTuple):
  """The path from the mean, on the unit gradients.

  Attributes:
    gram: The prepared Gram matrix.
    mean: `[T]`, the mean's coefficients, in units of the longest gradient.
    linear: `[T]`, its products.
    square: Scalar, its squared length.
    unit: Scalar, the mean's length.
    cosine: Scalar, the least cosine with the mean that is allowed.
  """

  gram: Prepared
  mean: Array
  linear: Array
  square: Array
  unit: Array
  cosine: Array


class _Point(NamedTuple):
  """A point of the path.

  Attributes:
    level: Scalar.
    inside: Scalar, the cosine less that which is allowed; -1 past the end.
    coefficients: `[T]`, of the direction, up to its length: their sum is 1.
    square: Scalar, their combination's squared length.
    residual: Scalar, of the least-distance problem.
    guess: Scalar, the level at which the path would leave the cone if its
      support stayed; infinite if nowhere.
    steps: Scalar int32.
    done: Scalar bool, whether the limit was not reached.
  """

  level: Array
  inside: Array
  coefficients: Array
  square: Array
  residual: Array
  guess: Array
  steps: Array
  done: Array


class _Search(NamedTuple):
  """A bracket of where the path leaves the cone.

  Attributes:
    low: The last point found inside; or the path's end, if it is inside.
    high: Scalar, the level of the first one outside.
    free: Scalar bool, whether the path's end is inside.
    cancels: Scalar bool, whether the path ends where gradients cancel.
    guess: Scalar, the next level to try.
    trips: Scalar int32.
    steps: Scalar int32.
    done: Scalar bool.
  """

  low: _Point
  high: Array
  free: Array
  cancels: Array
  guess: Array
  trips: Array
  steps: Array
  done: Array


def _guess(
  path: _Path, level: Array, coefficients: Array, support: Array
) -> Array:
  """Where the direction leaves the cone as the level moves on a support.

  It moves along `g_E` with `E = inv(C_SS) e_S` then, and the cosine with the
  mean is a quadratic equation.
  """
  gram = path.gram
  pair = support[:, None] & support[None, :]
  diagonal = jnp.where(support, _RIDGE * gram.eps, 1.0)
  moves = _prepare.solve_positive(
    jnp.where(pair, gram.cosines, 0.0) + jnp.diag(diagonal),
    jnp.where(support, gram.shortness, 0.0)[:, None],
  )[:, 0]
  both = jnp.stack([coefficients, moves])
  along = dot(both, path.linear)
  square = dot(both, dot(gram.cosines, both.T))
  terms = along[:, None] * along[None, :]
  terms = terms - jnp.square(path.cosine) * path.square * square
  (last, half), (_, first) = terms
  root = jnp.sqrt(jnp.maximum(half * half - first * last, 0.0))
  stable = -(half + jnp.where(half < 0, -root, root))
  divisors = jnp.stack([first, stable])
  moved = jnp.stack([stable, last]) / jnp.where(divisors == 0, 1.0, divisors)
  valid = (divisors != 0) & (along[0] + moved * along[1] > 0)
  distance = jnp.where(valid, jnp.abs(moved), jnp.inf)
  return jnp.where(jnp.any(valid), level + moved[jnp.argmin(distance)], jnp.inf)


def _point(
  path: _Path,
  level: Array,
  factor: Array,
  tol: Array,
  max_iter: Array,
) -> _Point:
  """The direction nearest to `factor` times the mean with a level."""
  gram = path.gram
  # The terms of the products.
  scale = jnp.abs(level) + factor * jnp.sum(path.mean)
  missing = over(level * gram.shortness - factor * path.linear, scale)
  added = add_least(gram, missing, gram.present, tol, max_iter)
  coefficients = over(factor, scale) * path.mean + added.x
  total = jnp.sum(coefficients)
  coefficients = over(coefficients, total)
  square = dot(coefficients, dot(gram.cosines, coefficients))
  along = dot(coefficients, path.linear)
  length = jnp.sqrt(jnp.maximum(square, 0.0) * path.square)
  guess = _guess(
    path, level, factor * path.mean + added.x * scale, added.support
  )
  usable = added.feasible & (square > _NOTHING * gram.eps)
  return _Point(
    level=level,
    inside=jnp.where(usable, over(along, length) - path.cosine, -1.0),
    coefficients=coefficients,
    square=square,
    residual=added.residual,
    guess=guess,
    steps=added.steps,
    done=added.done,
  )


def _trip(path: _Path, tol: Array, limit: Array, at: _Search) -> _Search:
  """Tries the end of the path, and then the level that was guessed.

  Or the middle of the bracket, of levels by their magnitude: those below zero,
  and those above, may be as far apart as the squares of the gradients' lengths.
  """
  low, one = at.low, jnp.ones_like(at.high)
  last = at.trips == 0
  ends = jnp.arcsinh(jnp.stack([low.level, at.high]) / path.unit)
  middle = jnp.sinh(0.5 * ends[0] + 0.5 * ends[1]) * path.unit
  guessed = (at.guess > low.level) & (at.guess < at.high) & (at.trips % 4 < 3)
  level = jnp.where(guessed, at.guess, middle)
  # MGDA's direction: with the level 1 and nothing of the mean, what is added is
  # as long as the inverse of its length.
  level = jnp.where(last, 1.0, level)
  new = _point(path, level, jnp.where(last, 0.0, one), tol, limit - at.steps)
  # A rounding outside is as good as one inside.
  inside = new.inside >= -0.5 * tol
  cancels = at.cancels | (last & (new.inside <= -1))
  # From a level on at which the mean is a rounding beside what is added. Where
  # the gradients cancel, every level above 0 is out of reach.
  shortest = over(
    jnp.sqrt(jnp.maximum(new.square, 0.0)),
    dot(new.coefficients, path.gram.shortness),
  )
  far = jnp.where(cancels, 1.0, shortest / path.gram.eps) * path.unit
  far = jnp.maximum(far, 2.0 * low.level)
  standing = ~last & ((level <= low.level) | (level >= at.high))
  low = jax.tree.map(lambda a, b: jnp.where(inside, a, b), new, low)
  free = last & inside
  return _Search(
    low=low,
    high=jnp.where(last, far, jnp.where(inside, at.high, level)),
    free=free,
    cancels=cancels,
    guess=jnp.where(last, at.guess, new.guess),
    trips=at.trips + 1,
    steps=at.steps + new.steps,
    done=free | (low.inside <= 0.5 * tol) | standing,
  )


def conic_direction(
  gram: ArrayLike,
  c: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Coefficients of the direction of the best worst gain within a cone.

  ConicGrad's: of all `d` with `‖d‖ = ‖ḡ‖` and `cos(d, ḡ) >= c`, with `ḡ` the
  mean gradient, the one whose least gain `g_i · d` is largest. With `c = 1`
  that is the mean, and once the cone holds it, MGDA's direction. It is CAGrad's
  direction for the radius at which that leaves the cone, and that of the
  shortest vector in the hull of `g_i + θ ḡ` for a `θ >= 0`.

  Where no direction in the cone improves every task, it is the one that hurts
  the worst least. Only where the gradients cancel before the path from the mean
  has left the cone, there is nothing to have a direction: the last point before
  is returned, and the status is `STATIONARY`.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    c: Scalar in [0, 1], may be traced. The least cosine with the mean.
    active: `[T]` bool, or None for all. Other tasks take no part. One whose
      gradient is zero counts in the mean only.
    tol: Largest residual that counts as solved. Default: 32 roundings of the
      solver's dtype (3.8e-6 in float32).
    max_iter: Most steps of the active-set method, over all points of the path.
      Default: `1000 + 5 T`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the coefficients `v` of `d = Gᵀ v`, not negative.
      Equal ones, which make the mean, where the mean is zero to rounding. NaN
      for the active tasks if `gram` has an entry between active tasks that is
      not finite.
    - A `Certificate`. `residual` is the larger of two: how far the gains are
      from their least one where a task has more weight than the mean gives it,
      and short of it elsewhere, at unit diagonal and relative to the size of
      the terms; and how far the cosine is from `c`, unless it is larger and the
      direction is MGDA's. Zero proves that `d` is best: with `d = a ḡ + g_x`,
      any `e` of its length in the cone has
      `Σ x_i g_i · e <= ‖d‖² - a c ‖ḡ‖ ‖d‖`, and `d` has equality. `iterations`
      are linear systems.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl import solvers
    >>> gradients = jnp.array([[2.0, 0.0], [-1.0, 1.0]])
    >>> weights, _ = solvers.conic_direction(gradients @ gradients.T, 0.95)
    >>> print((weights @ gradients).round(4))
    [0.3189 0.6311]

  References:
    Hassanpour et al., `Fantastic Multi-Task Gradient Updates and How to Find
    Them In a Cone <https://arxiv.org/abs/2502.00217>`_, 2025.
  """
  _checks.check_range("c", c, 0, 1)
  prepared = _prepare.prepare(gram, active)
  dtype, num_tasks = prepared.cosines.dtype, len(prepared.lengths)
  tol = _prepare.tolerance(tol, 32.0)
  limit = _prepare.iteration_limit(max_iter, 1000 + 5 * num_tasks)
  c = jnp.asarray(c).astype(dtype)
  return _solve(prepared, c, tol, limit)


# Compiled as a whole, for calls from outside of jit.
@jax.jit
def _solve(
  prepared: Prepared, c: Array, tol: Array, limit: Array
) -> tuple[Array, Certificate]:
  """`conic_direction` on checked arguments."""
  dtype, num_tasks = prepared.cosines.dtype, len(prepared.lengths)
  number = jnp.maximum(jnp.sum(prepared.active.astype(dtype)), 1.0)
  mean = prepared.relative_lengths / number
  linear = dot(prepared.cosines, mean)
  square = jnp.maximum(dot(mean, linear), 0.0)
  there, costs = prepared.present, prepared.shortness
  zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
  one = jnp.ones((), dtype)
  length = jnp.sqrt(square)
  path = _Path(
    gram=prepared,
    mean=mean,
    linear=linear,
    square=square,
    unit=jnp.where(length > 0, length, one),
    cosine=jnp.clip(c, 0.0, 1.0),
  )
  gains = jnp.where(there, over(linear, costs), jnp.inf)
  worst = there & (jnp.arange(num_tasks) == jnp.argmin(gains))
  level = jnp.min(gains)
  start = _Point(
    level=level,
    inside=1.0 - path.cosine,
    coefficients=over(mean, jnp.sum(mean)),
    square=over(square, jnp.square(jnp.sum(mean))),
    residual=zero,
    guess=_guess(path, level, mean, worst),
    steps=none,
    done=jnp.ones((), bool),
  )
  vanishing = square <= _NOTHING * prepared.eps * jnp.square(jnp.sum(mean))
  found = lax.while_loop(
    lambda at: ~at.done & (at.trips < _TRIPS) & (at.steps < limit),
    lambda at: _trip(path, 0.5 * tol, limit, at),
    _Search(
      low=start,
      high=one,
      free=jnp.zeros((), bool),
      cancels=jnp.zeros((), bool),
      guess=start.guess,
      trips=none,
      steps=none,
      done=(start.inside <= 0.5 * tol) | vanishing,
    ),
  )
  best = found.low
  factor = over(length, jnp.sqrt(jnp.maximum(best.square, 0.0)))
  longest = jnp.max(jnp.where(there, prepared.lengths, 0.0))
  weights = best.coefficients * factor * over(longest, prepared.lengths)
  equal = prepared.active.astype(dtype) / number
  weights = jnp.where(vanishing, equal, jnp.where(there, weights, 0.0))
  apart = jnp.where(found.free | vanishing, 0.0, jnp.abs(best.inside))
  # A gradient whose square float32 cannot hold beside that of the longest may
  # lose its part of the mean on the way, and with it what would be told of its
  # gain: nothing is known of the residual then.
  short = there & (mean < float(jnp.finfo(dtype).tiny) ** 0.5)
  lost = jnp.any(short & (best.coefficients <= 0)) & ~vanishing
  apart = jnp.where(lost, jnp.maximum(apart, 1.0), apart)
  return prepared.poison(weights), prepared.certify(
    jnp.maximum(best.residual, apart),
    found.steps,
    tol,
    out_of_iterations=found.steps >= limit,
    stationary=found.cancels,
  )
