"""The shortest vector whose weights are at most a cap, and its driver.

    minimise  1/2 w' M w   over   sum(w) = 1,  0 <= w <= cap.

On `x_i = w_i n_i`, so that every row has length one: with `C` the cosines and
`b_i = 1 / n_i`, the sum is `b' x = total`. The unit is the geometric mean of
the longest row and the shortest, so that the squares of all these are within
the range of float32 for lengths that are 1e38 apart. A cap
keeps the sum from being a matter of scale, as it is in `_nonneg_qp`; else
this is that driver with two bounds. A step solves on the entries between their
bounds, cuts off what leaves these, and lets in what would decrease the
objective, all of it at once; where that is no lower, entries stop at their
bounds as on a straight way to the solution, so that the objective falls from
one solved support to the next, and none comes back.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from optax_mtl.solvers import _prepare
from optax_mtl.solvers._nonneg_qp import EAGER, RIDGE, moved
from optax_mtl.solvers._prepare import Prepared, dot, over

# The sum of the weights is known to so many roundings.
_REST = 4.0
# A change of so many roundings is none.
_LITTLE = 4.0
# So many roundings of its terms a slope has to be, on average, for a point to
# be lower beyond doubt.
_SURE = 0.5


class _Problem(NamedTuple):
  """What does not change from step to step.

  Attributes:
    gram: The prepared matrix.
    normal: `[T]`, `b`; 1 for tasks that take no part.
    total: Scalar, what `b' x` is.
    upper: `[T]`, the cap on each `x`; 0 for tasks that take no part.
  """

  gram: Prepared
  normal: Array
  total: Array
  upper: Array


class _Point(NamedTuple):
  """A feasible point and the support that it is solved on next.

  Attributes:
    x: `[T]`, from 0 to the upper bound.
    image: `[T]`, `C x`.
    support: `[T]` bool: entries that may move; the others are at a bound.
    ridge: Scalar.
    idle: Scalar int32: how often entries came in since the last sure step.
    residual: Scalar, the certificate of `x`.
    steps: Scalar int32, the steps so far.
    done: Scalar bool: solved, or rounding has the last word.
  """

  x: Array
  image: Array
  support: Array
  ridge: Array
  idle: Array
  residual: Array
  steps: Array
  done: Array


def _heights(problem: _Problem, x: Array, image: Array) -> tuple[Array, Array]:
  """The largest `g_i.d` that is to go down, the smallest that is to go up.

  Args:
    problem: The problem.
    x: `[T]`, from 0 to the upper bound.
    image: `[T]`, `C x`.

  Returns:
    The largest among positive weights and the smallest among those below the
    cap; at the optimum no larger than it.
  """
  heights, there = over(image, problem.normal), problem.gram.present
  highest = jnp.max(jnp.where(there & (x > 0), heights, -jnp.inf))
  lowest = jnp.min(jnp.where(there & (x < problem.upper), heights, jnp.inf))
  return highest, jnp.where(jnp.isfinite(lowest), lowest, highest)


def _residual(problem: _Problem, x: Array, image: Array) -> Array:
  """The certificate, as `min_norm` defines it, for the best of four levels."""
  below = problem.gram.present & (x < problem.upper)
  size = jnp.sum(x)
  inner = jnp.where(below, x, 0.0)
  mean = over(dot(inner, image), dot(inner, problem.normal))
  highest, lowest = _heights(problem, x, image)
  levels = jnp.stack([jnp.where(jnp.any(inner > 0), mean, highest)])
  # Of the largest weight it is least off by the rounding of a slope.
  top = jnp.argmax(jnp.where(problem.gram.present, x * problem.normal, -1.0))
  largest = image[top] / problem.normal[top]
  levels = jnp.stack([levels[0], highest, lowest, largest])
  slopes = image[None, :] - levels[:, None] * problem.normal[None, :]
  missing = jnp.max(jnp.where(below[None, :], -slopes, 0.0), axis=1)
  surplus = dot(jnp.maximum(slopes, 0.0), x)
  worst = jnp.maximum(jnp.maximum(missing, over(surplus, size)), 0.0)
  return over(jnp.min(worst), size)


def _cut(problem: _Problem, goal: Array, on: Array) -> Array:
  """The feasible point nearest to `goal`, the entries that are not `on` fixed.

  It is `clip(goal - shift b, 0, upper)` on the others. The sum is piecewise
  linear in the shift, and is taken at all `2 T` kinks.
  """
  normal, upper = problem.normal, problem.upper

  def at(shift: Array) -> Array:
    moved = jnp.clip(goal - shift * normal, 0.0, upper)
    return jnp.where(on, moved, goal)

  kinks = jnp.concatenate([goal / normal, (goal - upper) / normal])
  sums = jax.vmap(lambda shift: dot(at(shift), normal))(kinks)
  everyone = jnp.concatenate([on, on])
  # The largest shift that leaves enough, and the smallest that does not.
  enough = everyone & (sums >= problem.total)
  low = jnp.max(jnp.where(enough, kinks, -jnp.inf))
  high = jnp.min(jnp.where(everyone & ~enough, kinks, jnp.inf))
  # Rounding may leave less than is wanted even where all are at the cap.
  low = jnp.where(jnp.isfinite(low), low, high)
  high = jnp.where(jnp.isfinite(high), high, low)
  # Between them it is on a straight line. The shift itself may be the small
  # difference of two that are far apart.
  most, least = dot(at(low), normal), dot(at(high), normal)
  part = jnp.clip(over(most - problem.total, most - least), 0.0, 1.0)
  cut = at(low) + part * (at(high) - at(low))
  # A goal far away leaves a rounding of its own size in the sum.
  inner = on & (cut > 0) & (cut < upper)
  held = dot(jnp.where(inner, 0.0, cut), normal)
  factor = over(problem.total - held, dot(jnp.where(inner, cut, 0.0), normal))
  return jnp.where(inner, jnp.clip(factor * cut, 0.0, upper), cut)


def _level(problem: _Problem) -> Array:
  """The feasible point whose entries are one number, or their upper bound.

  Of such sizes the solution is, more or less. Of equal weights all but the
  longest rows' entries are less than the rounding of those.
  """
  kinks, there = problem.upper, problem.gram.present

  def sum_at(level: Array) -> Array:
    return dot(jnp.minimum(kinks, level), problem.normal)

  sums = jax.vmap(sum_at)(kinks)
  enough = there & (sums >= problem.total)
  low = jnp.max(jnp.where(there & ~enough, kinks, 0.0))
  high = jnp.min(jnp.where(enough, kinks, jnp.max(kinks)))
  part = over(problem.total - sum_at(low), sum_at(high) - sum_at(low))
  part = jnp.clip(part, 0.0, 1.0)
  lower, upper = jnp.minimum(kinks, low), jnp.minimum(kinks, high)
  level = lower + part * (upper - lower)
  # Below the cap by the rounding of the sum is at it.
  missing = dot(kinks - level, problem.normal)
  near = missing <= _REST * problem.gram.eps * problem.total
  return jnp.where(near, kinks, level)


def _step(problem: _Problem, tol: Array, at: _Point) -> _Point:
  """One step from point to point; its objective is never higher."""
  matrix, normal = problem.gram.cosines, problem.normal
  upper, on = problem.upper, at.support
  # The minimum on the support. The square of the sum is added, in units of the
  # shortest row there, which is a constant: it keeps the system well where
  # gradients cancel.
  part_of_sum = jnp.where(on, normal, 0.0)
  part_of_sum = over(part_of_sum, jnp.max(part_of_sum))
  pair = on[:, None] & on[None, :]
  solution = _prepare.solve_positive(
    jnp.where(pair, matrix, 0.0)
    + part_of_sum[:, None] * part_of_sum[None, :]
    + jnp.diag(jnp.where(on, at.ridge, 1.0)),
    jnp.stack([jnp.where(on, -at.image, 0.0), part_of_sum], axis=1),
  )
  down, along = solution.T
  reached = dot(normal, along)
  goal = at.x + down
  # Twice, as the first time the sum may be a difference of large terms.
  for _ in range(2):
    lack = problem.total - dot(normal, goal)
    goal += over(lack, reached) * along
  # Beyond the cap by rounding is at it: for a long row a short one at its cap
  # gives way by less than a rounding.
  near = goal <= upper * (1 + _LITTLE * problem.gram.eps)
  goal = jnp.where(near, jnp.minimum(goal, upper), goal)
  broken = ~jnp.isfinite(jnp.sum(goal))
  feasible = jnp.all((goal >= 0) & (goal <= upper))

  # Two ways there: to the feasible point that is nearest, or only as far as
  # nothing leaves its bounds.
  cut = jnp.where(feasible, goal, _cut(problem, goal, on))
  # As it is below the cap by rounding: such an entry could only go down.
  near = cut >= upper * (1 - _LITTLE * problem.gram.eps)
  cut = jnp.where(on & near, upper, cut)
  # Where whole caps make up the sum to its rounding, it says nothing of the
  # rest, which is none unless it is wanted, by the highest entry at the cap.
  inner = on & (cut > 0) & (cut < upper)
  rest = dot(jnp.where(inner, cut, 0.0), normal)
  trifle = jnp.any(inner) & (rest <= _REST * problem.gram.eps * problem.total)
  without = jnp.where(inner, 0.0, cut)
  image = dot(matrix, without)
  highest, _ = _heights(problem, without, image)
  slope = image - highest * normal
  wanted = jnp.any(inner & (slope < -tol * jnp.sum(cut)))
  cut = jnp.where(trifle & ~wanted, without, cut)
  trade = trifle & wanted & (over(image, normal) >= highest) & (cut >= upper)
  change = goal - at.x
  blocking = on & ((goal < 0) | (goal > upper))
  bound = jnp.where(change < 0, 0.0, upper)
  reach = jnp.where(blocking, over(jnp.abs(bound - at.x), jnp.abs(change)), 1.0)
  part = jnp.minimum(jnp.min(reach), 1.0)
  leaving = blocking & (reach <= part)
  partial = jnp.clip(at.x + part * change, 0.0, upper)
  partial = jnp.where(leaving, bound, partial)
  goal_image, cut_image, partial_image = jax.vmap(lambda x: dot(matrix, x))(
    jnp.stack([goal, cut, partial])
  )

  # The first, if it is lower; judged from slopes, as in `_nonneg_qp`. With no
  # entry to move, the level is one between entries that have to change places.
  heights = over(at.image, normal)
  highest, lowest = _heights(problem, at.x, at.image)
  between = jnp.where(highest > lowest, 0.5 * highest + 0.5 * lowest, highest)
  inner = on & (cut > 0) & (cut < upper)
  share = jnp.where(inner, cut, 0.0)
  level = over(dot(share, goal_image), dot(share, normal))
  level = jnp.where(jnp.any(inner), level, between)
  size, eps = jnp.sum(cut), problem.gram.eps

  def lower_by(new: Array, image: Array, roundings: float) -> Array:
    # Any level will do where the sum is the same to the last digit. Where it
    # is not, that of the largest weight, whose rounding is the sum's.
    change, both = new - at.x, at.image + image
    top = jnp.argmax(jnp.where(on, new * normal, 0.0))
    twice = jnp.where(jnp.any(on), both[top] / normal[top], 2 * level)
    fall = dot(change, both - twice * normal)
    return fall < -roundings * eps * size * jnp.sum(jnp.abs(change))

  lower = lower_by(cut, cut_image, 0.0)
  lower &= jnp.any(jnp.abs(cut - at.x) > _LITTLE * eps * jnp.maximum(cut, at.x))
  # What is lower by rounding alone may lead round in a circle.
  surely = lower & lower_by(cut, cut_image, _SURE)
  slope = goal_image - level * normal
  settled = feasible & ~surely & ~broken
  off = problem.gram.present & ~jnp.where(settled, inner, on)
  entering = off & (goal <= 0) & (slope < -tol * size)
  entering |= off & (goal > 0) & (slope > tol * size)

  # At a minimum that was there already entries come in, all of them at first.
  # Where these only block each other, one comes to those that can move, or one
  # for one where none can; and if that leads nowhere, rounding has the last
  # word.
  need = jnp.where(entering, jnp.abs(slope), 0.0)
  first = need >= jnp.max(need)
  ends = (at.x > 0) & (heights >= highest) | (at.x < upper) & (
    heights <= lowest
  )
  few = entering & jnp.where(jnp.any(inner), first, ends)
  one_by_one = (at.idle > 0) | (at.steps >= 2 * EAGER)
  entering = jnp.where(settled & one_by_one, few, entering)
  stalled = settled & ((at.idle > 1) | ~lower & ~jnp.any(entering))
  entering &= feasible | (at.steps < EAGER)
  entering |= trade & ~on
  ahead = surely | ~settled & lower_by(partial, partial_image, _SURE)
  x = jnp.where(settled, at.x, partial)
  x = jnp.where(lower, cut, x)
  image = jnp.where(settled, at.image, partial_image)
  image = jnp.where(lower, cut_image, image)
  residual = _residual(problem, x, image)
  support = (on & (feasible | (cut > 0) & (cut < upper))) | entering | trade
  support = jnp.where(settled, inner | entering, support)
  support = jnp.where(lower | settled, support, on & ~leaving)
  new = _Point(
    x=x,
    image=image,
    support=support,
    ridge=at.ridge,
    idle=jnp.where(settled, at.idle + 1, jnp.where(ahead, 0, at.idle)),
    residual=residual,
    steps=at.steps,
    done=at.done,
  )
  return moved(at, new, broken, stalled, tol)


def solve(
  gram: Prepared, cap: Array, tol: Array, max_iter: Array
) -> tuple[Array, Array, Array, Array]:
  """The weights, as `min_norm` with a cap has them.

  Args:
    gram: The prepared matrix.
    cap: Scalar.
    tol: Scalar, the residual at which to stop.
    max_iter: Scalar int32, how many steps at most.

  Returns:
    The weights `[T]`; the residual; the steps; and whether these were enough.
  """
  active = gram.active.astype(cap.dtype)
  number = jnp.maximum(jnp.sum(active), 1.0)
  cap = jnp.clip(cap, 1.0 / number, 1.0)
  # Zero rows cost nothing, and take all that they may.
  zeros = active * (1.0 - gram.ones)
  most = cap * jnp.sum(zeros)
  rest = jnp.maximum(1.0 - most, 0.0)
  zeros = zeros * jnp.minimum(over(jnp.minimum(most, 1.0), jnp.sum(zeros)), cap)
  lengths = gram.relative_lengths
  present = jnp.any(gram.present) & (rest > 0)
  least = jnp.min(jnp.where(gram.present, lengths, jnp.inf))
  lengths = lengths / jnp.where(present, jnp.sqrt(least), 1.0)
  problem = _Problem(
    gram=gram,
    normal=over(jnp.ones_like(lengths), lengths),
    total=jnp.where(present, rest, 0.0),
    upper=cap * lengths,
  )
  start = _level(problem)
  image = dot(gram.cosines, start)
  first = _Point(
    x=start,
    image=image,
    support=gram.present,
    ridge=jnp.asarray(RIDGE * gram.eps, cap.dtype),
    idle=jnp.zeros((), jnp.int32),
    residual=_residual(problem, start, image),
    steps=jnp.zeros((), jnp.int32),
    done=~present,
  )
  at = lax.while_loop(
    lambda at: ~at.done & (at.steps < max_iter),
    lambda at: _step(problem, tol, at),
    first,
  )
  weights = jnp.minimum(over(at.x, lengths), cap)
  weights = jnp.where(at.x >= problem.upper, cap, weights)
  weights = jnp.where(gram.present, weights, zeros)
  return weights, jnp.where(present, at.residual, 0.0), at.steps, at.done
