"""Judges of the solvers that keep to bounds: on weights, gains, an angle.

In the manner of `judges.py`, and of what is orthogonal besides. Where a
docstring leaves a level open, it is chosen here so that the answer comes off
best: a certificate that is true for one level is true.
"""

import numpy as np
import scipy.optimize

from benchmarks.faults.draws import Filled
from benchmarks.faults.judges import (
  EPS,
  ROUNDINGS,
  Verdict,
  combined,
  largest,
  never,
  none_outside,
  over,
  sums_to_one,
  unit_gains,
)

# What the least-distance problem counts as solved at, of which it makes whether
# it has a solution.
_TOL = 16 * EPS


def _least(
  values: np.ndarray, slack: np.ndarray, said: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What is worst of all conditions, at the level where that is best.

  Args:
    values: `[N, L, K]`, of each condition by each level.
    slack: `[N, L, K]`, or what broadcasts to it.
    said: `[N]`.

  Returns:
    The value and its slack, `[N]` each.
  """
  slack = np.broadcast_to(slack, values.shape)
  excess = (values - np.nan_to_num(said)[:, None, None]) / slack
  rows = np.arange(len(values))
  level = np.argmin(excess.max(2), axis=1)
  which = np.argmax(excess[rows, level], axis=1)
  # Where nothing is above what was said, no more than the largest is asked.
  fine = excess[rows, level, which] <= 0
  level = np.where(fine, np.argmin(values.max(2), axis=1), level)
  which = np.where(fine, np.argmax(values[rows, level], axis=1), which)
  return values[rows, level, which], slack[rows, level, which]


def capped(given: Filled, weights: np.ndarray, said: np.ndarray) -> Verdict:
  """`min_norm` with a cap: the gap of the polytope, for a level."""
  on, zero = given.lengths > 0, given.active & (given.lengths == 0)
  number = np.maximum(given.active.sum(1), 1).astype(np.float32)
  cap = np.clip(given.cap, np.float32(1) / number, 1).astype(float)[:, None]
  lengths = np.where(on, given.lengths, 1.0)
  size = np.sum(weights * given.lengths, axis=1)
  products = unit_gains(given, combined(given, weights)) * given.lengths
  inner = on & (weights > 0) & (weights < cap)
  share = np.where(inner, weights, 0.0)
  mean = over(np.sum(share * products, axis=1), share.sum(1))
  highest = np.max(np.where(on, products, -np.inf), axis=1, initial=-np.inf)
  highest = np.where(on.any(1), highest, 0.0)
  levels = np.where(on, products, highest[:, None])
  middle = np.where(inner.any(1), mean, highest)
  levels = np.concatenate([levels, middle[:, None]], axis=1)[:, :, None]
  slopes = products[:, None, :] - levels
  below = on & (weights < cap)
  missing = np.where(below[:, None, :], -slopes, 0.0) / lengths[:, None, :]
  missing = over(missing, size[:, None, None])
  surplus = np.sum(weights[:, None, :] * np.maximum(slopes, 0), axis=2)
  surplus = over(surplus, size[:, None] ** 2)
  values = np.concatenate([missing, surplus[:, :, None]], axis=2)
  # The level is off by roundings of the square of the mean length, which is
  # more to a shorter vertex.
  longer = np.maximum(1.0, size[:, None] / lengths)
  longer = np.concatenate([longer, np.ones((len(size), 1))], axis=1)
  slack = ROUNDINGS * EPS * longer[:, None, :]
  true, slack = _least(np.maximum(values, 0.0), slack, said)
  formed = ((weights >= 0) & (weights <= cap)).all(1)
  formed &= none_outside(weights, given.active) & sums_to_one(given, weights)
  # Zero rows have as much as they may, each the same.
  zeros = zero.sum(1).astype(float)
  all_of_it = over(np.minimum(cap[:, 0] * zeros, 1.0), zeros)[:, None]
  off = np.where(zero, np.abs(weights - all_of_it), 0.0).max(1)
  return Verdict(true, slack, formed & (off <= 2 * EPS), never(given))


def _out_of_reach(unit: np.ndarray, missing: np.ndarray) -> bool:
  """Whether no direction has such products, as far as float32 can tell.

  By a combination, of coefficients that are not negative, which vanishes but
  asks for more: the one of least squares tells.

  Args:
    unit: `[T, P]`, of length one.
    missing: `[T]`, at most 1 in size.
  """
  if not len(unit):
    return False
  system = np.concatenate([unit.T, missing[None]])
  goal = np.zeros(len(system))
  goal[-1] = 1.0
  found, _ = scipy.optimize.nnls(system, goal, maxiter=100 * len(unit))
  total = found.sum()
  # That of the roundings of a square, and as much again: other combinations
  # may be as good.
  edge = 2 * (_TOL + ROUNDINGS * EPS) * total * (1 + total)
  return bool(1 - missing @ found <= edge)


def gains(given: Filled, found: np.ndarray, said: np.ndarray) -> Verdict:
  """What is missing of the gains, or is not complementary."""
  on = given.lengths > 0
  free = on & given.constrained
  start = np.where(given.active, given.start.astype(float), 0.0)
  wanted = over(np.where(free, given.gains.astype(float), 0.0), given.lengths)
  formed = (found >= start).all(1) & ((found == start) | free).all(1)
  direction = combined(given, found)
  short = wanted - unit_gains(given, direction)
  terms = np.abs(start) + (found - start)
  size = np.abs(wanted).max(1) + np.sum(terms * given.lengths, axis=1)
  wrong = np.where(found > start, np.abs(short), short)
  stationary = never(given)
  # Only where nothing was added can it be said that nothing would do.
  asked = (np.nan_to_num(said) > _TOL) & (found == start).all(1) & given.finite
  for i in np.flatnonzero(asked):
    unit = given.grads[i, free[i]] / given.lengths[i, free[i]][:, None]
    stationary[i] = _out_of_reach(unit, short[i, free[i]] / size[i])
  return Verdict(
    true=over(largest(wrong, free), size),
    slack=np.full(len(size), ROUNDINGS * EPS),
    formed=formed,
    stationary=stationary,
  )


def _from_the_level(
  given: Filled, found: np.ndarray, more: np.ndarray
) -> np.ndarray:
  """How far gains are from a level, or short of it where not `more`: `[N]`.

  That is convex in the level, and least where one that rises with it meets one
  that falls: all such pairs are tried.
  """
  on = given.lengths > 0
  gained = unit_gains(given, combined(given, found))
  slope = over(on.astype(float), given.lengths)
  size = np.sum(found * given.lengths, axis=1)
  rising = gained[:, :, None] + gained[:, None, :]
  levels = over(rising, slope[:, :, None] + slope[:, None, :])
  levels = levels.reshape(len(found), -1, 1)
  excess = gained[:, None, :] - levels * slope[:, None, :]
  wrong = np.where(more[:, None, :], np.abs(excess), -excess)
  wrong = np.max(np.where(on[:, None, :], wrong, 0.0), axis=2, initial=0.0)
  terms = np.abs(levels[:, :, 0]) * slope.max(1)[:, None] + size[:, None]
  pairs = (on[:, :, None] & more[:, None, :]).reshape(wrong.shape)
  least = np.min(np.where(pairs, over(wrong, terms), np.inf), axis=1)
  # A multiple of the mean has no level to keep.
  return np.where(more.any(1), least, 0.0)


def cone(given: Filled, found: np.ndarray, said: np.ndarray) -> Verdict:
  """Gains from their level, and the angle from the cone's."""
  on = given.lengths > 0
  number = np.maximum(given.active.sum(1), 1).astype(float)
  mean = given.grads.sum(1) / number[:, None]
  mean_length = np.linalg.norm(mean, axis=1)
  direction = combined(given, found)
  length = np.linalg.norm(direction, axis=1)
  size = np.sum(found * given.lengths, axis=1)
  along = np.sum(over(direction, length[:, None]) * mean, axis=1)
  inside = over(along, mean_length) - given.cosine.astype(float)
  # Lengths are known to the rounding of squares.
  of_mean = over(mean_length * number, given.lengths.sum(1)) ** 2
  of_direction = over(length, size) ** 2
  blurred = 1 / np.maximum(of_mean, EPS) + 1 / np.maximum(of_direction, EPS)
  rounding = np.minimum(ROUNDINGS * EPS * (1 + blurred), 1.0)
  # What has no more than the mean gives it has the least weight of all.
  least = np.min(np.where(on, found, np.inf), axis=1, initial=np.inf)
  least = np.where(on.any(1), least, 0.0) * (1 + 2 * ROUNDINGS * EPS)
  more = on & (found > least[:, None])
  on_edge = np.stack([_from_the_level(given, found, more), np.abs(inside)], 1)
  # Or MGDA's direction, which has nothing of the mean, inside.
  end = _from_the_level(given, found, on & (found > 0))
  within = np.stack([end, np.maximum(-inside, 0.0)], 1)
  slack = np.stack([np.full(len(size), 2 * ROUNDINGS * EPS), rounding], 1)
  values = np.stack([on_edge, within], 1)
  true, slack = _least(values, slack[:, None, :], said)
  vanishes = of_mean <= (16 + ROUNDINGS) * EPS
  equal = over(given.active.astype(float), number[:, None])
  is_mean = (np.abs(found - equal) <= EPS).all(1)
  true = np.where(vanishes & is_mean, 0.0, true)
  formed = (found >= 0).all(1) & none_outside(found, given.active)
  near = np.abs(length - mean_length) <= rounding * mean_length
  formed &= near | (vanishes & is_mean)
  stationary = never(given)
  asked = (np.nan_to_num(said) > 2 * _TOL) & given.finite & formed
  for i in np.flatnonzero(asked):
    own = given.lengths[i, on[i]]
    unit = given.grads[i, on[i]] / own[:, None]
    stationary[i] = len(own) and _out_of_reach(unit, own.min() / own)
  return Verdict(true, slack, formed, stationary)


def orthogonal(given: Filled, parts: np.ndarray, said: np.ndarray) -> Verdict:
  """Products with the other gradients, and what is left out or made up.

  The coefficient on the own gradient has to be 1.
  """
  del said
  on = given.lengths > 0
  count, size = on.shape
  pair = on[:, :, None] & on[:, None, :]
  safe = np.where(on, given.lengths, 1.0)
  unit = over(given.grads, given.lengths[:, :, None])
  own = parts * safe[:, None, :] / safe[:, :, None]
  vectors = np.einsum("nij,njp->nip", own, unit)
  products = np.einsum("nip,njp->nij", vectors, unit)
  eye = np.eye(size, dtype=bool)
  wrong = over(np.abs(products), np.abs(own).sum(2)[:, :, None])
  true = np.where(pair & ~eye, wrong, 0.0).max((1, 2))
  there = (parts != 0).any(2)
  formed = ((parts == 0) | pair).all((1, 2))
  ones = np.abs(np.diagonal(parts, axis1=1, axis2=2) - 1)
  formed &= (~there | (ones <= 2 * EPS)).all(1)
  # Whether a gradient lies in the span of the others, where that is certain:
  # no eigenvalue is near the edge, and its part in the null space is neither
  # small nor a rounding.
  left, roots, _ = np.linalg.svd(unit, full_matrices=False)
  values = roots**2
  number = np.maximum(on.sum(1), 1)
  edge = number * EPS * values[:, 0]
  kept = values > edge[:, None]
  near = (values > edge[:, None] / 8) & (values < 8 * edge[:, None])
  in_span = np.sum(np.where(kept[:, None, :], left, 0.0) ** 2, axis=2)
  null = np.sqrt(np.maximum(np.where(on, 1.0 - in_span, 0.0), 0.0))
  least = np.min(np.where(kept, values, np.inf), axis=1, initial=np.inf)
  turned = np.where(on.any(1), over(edge, least), 0.0)[:, None]
  some = np.sqrt(4 * number * EPS)[:, None]
  wants, lacks = null + turned < some / 2, null - turned > 2 * some
  told = np.where(there, ~lacks, ~wants) | ~on
  formed &= near.any(1) | told.all(1)
  return Verdict(
    true=true,
    slack=np.full(count, 2 * ROUNDINGS * EPS),
    formed=formed,
    stationary=never(given),
  )
