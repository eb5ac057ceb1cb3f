"""MGDA: the shortest vector in the hull, by trying all supports."""

import itertools

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  reference,
)


def shortest_in_hull(rows: np.ndarray) -> np.ndarray:
  """Weights of the shortest vector in the hull of a few rows: all supports.

  On its support the optimum is the shortest vector of the affine hull; among
  the supports whose affine solution is non-negative, the shortest wins.

  Args:
    rows: `[T, P]` float64.

  Returns:
    `[T]` float64 on the simplex.
  """
  best, best_norm = np.zeros(len(rows)), np.inf
  for size in range(1, len(rows) + 1):
    for support in itertools.combinations(range(len(rows)), size):
      part = rows[list(support)]
      base, edges = part[0], part[1:] - part[0]
      step = np.linalg.lstsq(edges.T, -base, rcond=None)[0]
      weights = np.concatenate([[1 - step.sum()], step])
      norm = np.linalg.norm(weights @ part)
      if (weights >= -1e-12).all() and norm < best_norm * (1 - 1e-12):
        best = np.zeros(len(rows))
        best[list(support)] = weights
        best_norm = norm
  return best


def shortest_below(rows: np.ndarray, cap: float) -> np.ndarray:
  """The same with weights of at most `cap`: all ways to be at a bound.

  Args:
    rows: `[T, P]` float64.
    cap: From 1 / T to 1.

  Returns:
    `[T]` float64 on the simplex.
  """
  best, best_norm = np.full(len(rows), 1 / len(rows)), np.inf
  for places in itertools.product((0.0, cap, None), repeat=len(rows)):
    free = np.array([place is None for place in places])
    weights = np.array([place or 0.0 for place in places])
    rest = 1 - weights.sum()
    if free.any():
      part, fixed = rows[free], weights @ rows
      base, edges = fixed + rest * part[0], part[1:] - part[0]
      step = np.linalg.lstsq(edges.T, -base, rcond=None)[0]
      weights[free] = np.concatenate([[rest - step.sum()], step])
    elif abs(rest) > 1e-12:
      continue
    norm = np.linalg.norm(weights @ rows)
    inside = (weights >= -1e-12).all() and (weights <= cap + 1e-12).all()
    if inside and norm < best_norm * (1 - 1e-12):
      best, best_norm = weights, norm
  return best


@reference("mgda")
@each_step
def mgda(
  num_tasks: int, grads: np.ndarray, extra: Extra, cap: float | None = None
) -> np.ndarray:
  """Weights [T] on the simplex."""
  if cap is not None:
    return shortest_below(grads, max(cap, 1 / num_tasks))
  return shortest_in_hull(grads)
