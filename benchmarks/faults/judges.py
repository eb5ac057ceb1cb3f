"""Is it true what a solver says of its answer? In float64, from the gradients.

Each judge measures the residual that the solver's docstring defines, on the
answer as it was returned, but on the gradients themselves and not on a Gram
matrix: so it shares no rounding, and no line, with the solver. It also says how
much more than the solver's own residual that may be, because the entries of the
matrix that the solver was given are rounded, and its own sums are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.faults.draws import Filled

EPS = float(np.finfo(np.float32).eps)
# Half a rounding of an entry, half of a weight, and the sums that a residual is
# made of: what solvers promise to measure theirs to.
ROUNDINGS = 4.0


class Verdict(NamedTuple):
  """What a judge finds, for each of `N` problems.

  Attributes:
    true: `[N]`, the residual, in float64.
    slack: `[N]`, how much larger it may be than what the solver says it is.
    formed: `[N]` bool: the answer is one at all: of the right signs and sum,
      and zero where it has to be.
    stationary: `[N]` bool: there may be no solution, as far as float32 can
      tell. True also where no solution is no outcome.
  """

  true: np.ndarray
  slack: np.ndarray
  formed: np.ndarray
  stationary: np.ndarray


Judge = Callable[[Filled, np.ndarray, np.ndarray], Verdict]


def over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Division; by 1 where the denominator is not positive."""
  return numerator / np.where(denominator > 0, denominator, 1.0)


def combined(given: Filled, weights: np.ndarray) -> np.ndarray:
  """`[N, P]`."""
  return np.einsum("nt,ntp->np", weights, given.grads)


def unit_gains(given: Filled, direction: np.ndarray) -> np.ndarray:
  """Products of a direction `[N, P]` with the unit gradients, `[N, T]`."""
  products = np.einsum("ntp,np->nt", given.grads, direction)
  return over(products, given.lengths)


def largest(values: np.ndarray, where: np.ndarray) -> np.ndarray:
  """The largest of each row that is positive, else 0."""
  return np.max(np.where(where, values, 0.0), axis=1, initial=0.0)


def _furthest(
  values: np.ndarray, said: np.ndarray, slack: np.ndarray, where: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The entry that is furthest above what was said, for its own slack."""
  excess = (values - said[:, None]) / slack
  rows = np.arange(len(values))
  chosen = np.argmax(np.where(where, excess, -np.inf), axis=1)
  some = where.any(1)
  return (
    np.where(some, values[rows, chosen], 0.0),
    np.where(some, slack[rows, chosen], EPS),
  )


def sums_to_one(given: Filled, weights: np.ndarray) -> np.ndarray:
  """Whether weights do, or are all 0 where no task takes part."""
  any_active = given.active.any(1)
  size = np.abs(weights).sum(1)
  # A division each, and the sum of what divides them.
  near = np.abs(weights.sum(1) - 1) <= 8 * EPS * size * np.sqrt(
    weights.shape[1]
  )
  return np.where(any_active, near, size == 0)


def none_outside(weights: np.ndarray, where: np.ndarray) -> np.ndarray:
  """Whether weights are exactly 0 elsewhere."""
  return ((weights == 0) | where).all(1)


def never(given: Filled) -> np.ndarray:
  """`[N]`, False: there is always a solution."""
  return np.zeros(len(given.active), bool)


def min_norm(given: Filled, weights: np.ndarray, said: np.ndarray) -> Verdict:
  """The duality gap, each vertex in its own length."""
  zero = given.active & (given.lengths == 0)
  any_zero = zero.any(1)
  direction = combined(given, weights)
  size = np.sum(weights * given.lengths, axis=1)
  square = np.sum(direction * direction, axis=1)
  on = given.lengths > 0
  gap = over(square[:, None], given.lengths) - unit_gains(given, direction)
  formed = (weights >= 0).all(1) & none_outside(weights, given.active)
  formed &= sums_to_one(given, weights)
  # Zero rows share it all.
  share = over(zero.astype(float), zero.sum(1, keepdims=True).astype(float))
  formed &= np.where(any_zero, np.abs(weights - share).max(1) <= EPS, True)
  # The square is off by roundings of that of the mean length, which is more to
  # a shorter vertex.
  longer = np.maximum(1.0, over(size[:, None], given.lengths))
  gap = np.maximum(over(gap, size[:, None]), 0.0)
  counts = on & ~any_zero[:, None]
  true, slack = _furthest(gap, said, ROUNDINGS * EPS * longer, counts)
  return Verdict(true, slack, formed, never(given))


def dual_cone(given: Filled, rows: np.ndarray, said: np.ndarray) -> Verdict:
  """What is not complementary, of the worse of the two rows."""
  del said
  true, formed = np.zeros(len(rows)), np.ones(len(rows), bool)
  on = given.lengths > 0
  for index in range(rows.shape[1]):
    found = rows[:, index]
    wanted = np.where(given.active, given.vectors[:, index].astype(float), 0.0)
    formed &= (found >= wanted).all(1)
    formed &= ((found == wanted) | on).all(1)
    slopes = unit_gains(given, combined(given, found))
    terms = np.abs(wanted) + (found - wanted)
    size = np.sum(terms * given.lengths, axis=1)
    wrong = np.where(found > wanted, np.abs(slopes), -slopes)
    true = np.maximum(true, over(largest(wrong, on), size))
  slack = np.full(len(true), ROUNDINGS * EPS)
  return Verdict(true, slack, formed, never(given))


def cagrad(given: Filled, weights: np.ndarray, said: np.ndarray) -> Verdict:
  """What differs from the least gain, in units of the coefficients."""
  c, on = given.c.astype(float), given.lengths > 0
  number = np.maximum(on.sum(1), 1)
  mean = given.grads.sum(1) / number[:, None]
  vector = combined(given, weights)
  size = np.sum(weights * given.lengths, axis=1)
  length = np.linalg.norm(vector, axis=1)
  # A square below its own rounding is none: a direction made of it would not
  # be one. Above, it is known to that rounding, and with it the pull.
  known = np.maximum(length, np.sqrt(4 * EPS) * size)
  radius = c * np.linalg.norm(mean, axis=1)
  pull = over(radius, known)
  total = given.lengths.sum(1) / number + pull * size
  gains = unit_gains(given, mean + pull[:, None] * vector)
  # By unit gradient, as all of it, so that no length leaves its range.
  level = over(np.sum(weights * given.lengths * gains, axis=1), size)
  mass = over(weights.sum(1), size)
  level = over(level, mass)
  excess = np.where(on, gains - over(level[:, None], given.lengths), 0.0)
  wrong = np.where(weights > 0, np.abs(excess), -excess)
  blurred = np.minimum(1.0, ROUNDINGS * EPS * over(size**2, known**2))
  slack = 2 * ROUNDINGS * EPS + blurred * over(pull * length, total)
  # The level is a mean of gains, off by roundings of the mean length; to a
  # short gradient that is more.
  mean_length = over(np.ones_like(mass), mass)
  slack = slack[:, None] * (1 + over(mean_length[:, None], given.lengths))
  true, slack = _furthest(over(wrong, total[:, None]), said, slack, on)
  # With c >= 1 a vector that vanishes is optimal as well: either will do.
  at_zero, of_zero = over(length**2, size**2), 2 * ROUNDINGS * EPS
  either = (c >= 1) & (size > 0)
  either &= (at_zero - said) / of_zero < (true - said) / slack
  true = np.where(either, at_zero, true)
  slack = np.where(either, of_zero, slack)
  formed = (weights >= 0).all(1) & none_outside(weights, on)
  formed &= np.where(
    on.any(1), np.abs(weights.sum(1) - 1) <= 64 * EPS, weights.sum(1) == 0
  )
  return Verdict(true, slack, formed, never(given))


def _fair(
  given: Filled, weights: np.ndarray, said: np.ndarray, alpha: np.ndarray
) -> Verdict:
  on = given.lengths > 0
  direction = combined(given, weights)
  terms = weights * given.lengths
  size = terms.sum(1)
  with np.errstate(over="ignore", under="ignore"):
    factor = np.where(on, weights, 0.0) ** (1 / alpha)[:, None]
  scaled = factor * given.lengths
  error = scaled * unit_gains(given, direction) - 1
  each = scaled * size[:, None]
  # The exponential of a logarithm is off by as many roundings as that is large:
  # of the length over the mean length, and of that mean's power.
  safe = np.where(on, given.lengths, 1.0)
  logs = np.max(np.abs(np.log(safe)), axis=1)
  power = np.where(alpha == 1, 0.0, 4 * logs)
  rounding = EPS * (ROUNDINGS + power[:, None]) * (1 + each)
  true, slack = _furthest(np.abs(error), said, rounding, on)
  square = np.sum(direction * direction, axis=1)
  # A weight may be too small for float32, where lengths are 1e15 apart; that
  # its equation does not hold has to be said then, as of any other.
  formed = (weights >= 0).all(1) & none_outside(weights, on)
  # Where no direction improves all, to rounding: as documented, and that of the
  # square itself.
  stationary = square <= (16 + ROUNDINGS) * EPS * size**2
  return Verdict(true, slack, formed, stationary)


def nash(given: Filled, weights: np.ndarray, said: np.ndarray) -> Verdict:
  """The error of the equations."""
  return _fair(given, weights, said, np.ones(len(weights)))


def fairness(given: Filled, weights: np.ndarray, said: np.ndarray) -> Verdict:
  """The same, with a power."""
  return _fair(given, weights, said, given.alpha.astype(float))


def _spread(given: Filled, weights: np.ndarray) -> np.ndarray:
  """Largest distance of a projection from their mean, to its terms."""
  on = given.lengths > 0
  gains = unit_gains(given, combined(given, weights))
  number = np.maximum(on.sum(1), 1)
  middle = np.where(on, gains, 0.0).sum(1) / number
  size = np.sum(np.abs(weights) * given.lengths, axis=1)
  return over(largest(np.abs(gains - middle[:, None]), on), size)


def _dependent(given: Filled) -> np.ndarray:
  """Whether unit gradients depend on each other, as far as float32 can tell."""
  on = given.lengths > 0
  unit = over(given.grads, given.lengths[:, :, None])
  cosines = unit @ unit.transpose(0, 2, 1)
  # An absent task is a direction of its own.
  cosines += np.eye(cosines.shape[1]) * ~on[:, None, :]
  number = np.maximum(on.sum(1), 1)
  values = np.linalg.eigvalsh(cosines)
  # The threshold of the rank is `T` roundings of the largest, and eigenvalues
  # of the rounded matrix are off by as much.
  return values[:, 0] <= 2 * EPS * number * values[:, -1]


def equal_projections(
  given: Filled, weights: np.ndarray, said: np.ndarray
) -> Verdict:
  """How far projections are from equal."""
  del said
  on = given.lengths > 0
  size = np.abs(weights).sum(1)
  formed = none_outside(weights, on)
  near = np.abs(weights.sum(1) - 1) <= 64 * EPS * size
  return Verdict(
    true=_spread(given, weights),
    slack=np.full(len(size), 2 * ROUNDINGS * EPS),
    formed=formed & np.where(on.any(1), near, size == 0),
    stationary=_dependent(given),
  )


def conflict_free(
  given: Filled, weights: np.ndarray, said: np.ndarray
) -> Verdict:
  """The same, of a vector whose length is 1 as far as projections are equal."""
  on = given.lengths > 0
  formed = none_outside(weights, on)
  nothing = (weights == 0).all(1)
  square = np.sum(combined(given, weights) ** 2, axis=1)
  size = np.sum(np.abs(weights) * given.lengths, axis=1)
  dependent = _dependent(given)
  # With projections off by the residual, the square is off by that times the
  # coefficients, twice; beside the roundings of both sums.
  bound = 2 * (np.nan_to_num(said) + 2 * ROUNDINGS * EPS) * size**2
  near = np.abs(square - 1) <= np.maximum(bound, 64 * EPS)
  formed &= np.where(nothing, dependent | ~on.any(1), near)
  return Verdict(
    true=np.where(nothing, on.any(1).astype(float), _spread(given, weights)),
    slack=np.full(len(size), 2 * ROUNDINGS * EPS),
    formed=formed,
    stationary=dependent,
  )


def aligned(given: Filled, weights: np.ndarray, said: np.ndarray) -> Verdict:
  """The distance to the update of float64, where the rank is not in doubt.

  What the solver says is the error of a matrix that it does not return. So this
  residual is another one, and the slack is what roundings of the matrix make of
  the update: the condition number of what is kept of it.
  """
  on = given.lengths > 0
  longest = given.lengths.max(1, initial=0.0)
  grads = over(given.grads, longest[:, None, None])
  left, roots, right = np.linalg.svd(grads, full_matrices=False)
  values = roots**2
  number = np.maximum(on.sum(1), 1)
  edge = number * EPS * values[:, 0]
  kept = values > edge[:, None]
  # An eigenvalue that is off by `T` roundings of the largest may fall on either
  # side; so near the edge nothing is known of the rank.
  near = (values > edge[:, None] / 8) & (values < 8 * edge[:, None])
  least = np.min(np.where(kept, values, np.inf), axis=1, initial=np.inf)
  root = np.where(on.any(1), np.sqrt(least), 0.0)
  shares = np.where(on, given.preference.astype(float), 0.0)
  along = np.einsum("nt,ntk->nk", shares, left) * kept
  best = np.einsum("nk,nkp->np", along, right) * root[:, None]
  found = np.einsum("nt,ntp->np", weights, grads)
  length = root * np.sqrt(np.sum(shares**2, axis=1))
  error = over(np.linalg.norm(found - best, axis=1), length)
  condition = over(values[:, 0], np.where(on.any(1), least, 0.0))
  slack = 8 * EPS * number * np.maximum(condition, 1.0)
  doubtful = near.any(1) | (slack > 0.1)
  formed = none_outside(weights, on)
  return Verdict(
    true=np.where(doubtful, 0.0, error),
    slack=slack,
    formed=formed,
    stationary=never(given),
  )


def simplex(given: Filled, points: np.ndarray, said: np.ndarray) -> Verdict:
  """The distance to the projection by float64, largest entry by entry.

  There is no certificate: all of it is slack, a rounding of each shift.
  """
  del said
  size = points.shape[1]
  vectors = given.vectors[:, 1] * given.alpha[:, None]
  v = np.where(given.active, vectors.astype(float), -np.inf)
  ordered = -np.sort(-v, axis=1)
  counts = np.arange(1, size + 1)
  some = np.where(np.isfinite(ordered), ordered, 0.0)
  levels = (np.cumsum(some, axis=1) - 1) / counts
  inside = np.isfinite(ordered) & (ordered > levels)
  last = np.maximum(inside.sum(1), 1) - 1
  level = levels[np.arange(len(v)), last]
  best = np.maximum(np.where(given.active, v - level[:, None], 0.0), 0.0)
  formed = (points >= 0).all(1) & none_outside(points, given.active)
  return Verdict(
    true=np.abs(points - best).max(1),
    slack=np.full(len(v), ROUNDINGS * EPS),
    formed=formed & sums_to_one(given, points),
    stationary=never(given),
  )
