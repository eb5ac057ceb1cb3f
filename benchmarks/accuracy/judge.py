"""The error of an update, against a float64 solution of the same problem.

Every number is relative. Three kinds:

* "distance": `|d - d*| / |d*|`, for methods that have one right answer `d*`;
* "length": `(|d| - |d*|) / |d*|`, for MGDA, which asks for the shortest `d`;
* "residual": for Nash-MTL and FairGrad the largest relative error of the
  equations that define the weights. Implementations scale the weights (to a
  largest norm, for one) after having solved for them, so the residual is of the
  multiple of the weights that solves the equations best.

Where the problem of a method has no solution, as at a Pareto stationary point,
the error is NaN.
"""

import functools

import numpy as np

from benchmarks.reference.solvers import (
  bargaining,
  dual_cone,
  min_norm,
  spectral,
)

_EPS32 = float(np.finfo(np.float32).eps)
_CHUNK = 1 << 16
#: With at most this many columns the factor comes from the gradients.
_EXACT_COLUMNS = 1 << 12


class Problem:
  """A matrix of gradients, and a small factor with the same Gram matrix.

  Attributes:
    matrix: [T, P] of float32.
    gram: [T, T] of float64.
    factor: [T, r] of float64, `factor @ factor.T == gram`: the gradients in an
      orthonormal basis of their span.
    descent: Whether some direction makes every task better, to first order.
  """

  def __init__(self, matrix: np.ndarray):
    """Takes a matrix [T, P]."""
    self.matrix = matrix
    num_tasks, num_params = matrix.shape
    if num_params <= _EXACT_COLUMNS:
      double = matrix.astype(np.float64)
      self.factor = np.linalg.qr(double.T, mode="r").T
      self.gram = double @ double.T
    else:
      self.gram = np.zeros((num_tasks, num_tasks))
      for block in self._blocks():
        self.gram += block @ block.T
      norms = np.sqrt(np.diag(self.gram))
      unit = self.gram / norms[:, None] / norms
      self.factor = norms[:, None] * np.linalg.cholesky(unit)
    shortest = np.linalg.norm(self.mgda() @ self.factor)
    norms = np.sqrt(np.diag(self.gram))
    self.descent = bool(shortest > 1e-7 * norms.min())

  def _blocks(self):
    for start in range(0, self.matrix.shape[1], _CHUNK):
      yield self.matrix[:, start : start + _CHUNK].astype(np.float64)

  def distance(self, update: np.ndarray, weights: np.ndarray) -> float:
    """`|update - weights @ matrix| / |weights @ matrix|`, in float64."""
    square = start = 0
    for block in self._blocks():
      stop = start + block.shape[1]
      square += np.sum((update[start:stop] - weights @ block) ** 2)
      start = stop
    return float(np.sqrt(square) / np.linalg.norm(weights @ self.factor))

  @functools.cache  # noqa: B019
  def mgda(self) -> np.ndarray:
    """The shortest vector in the convex hull."""
    return min_norm.min_norm(self.factor)

  @functools.cache  # noqa: B019
  def cagrad(self, c: float) -> np.ndarray:
    """`mean + c |mean| g_w / |g_w|`, not rescaled.

    With `|g_w| = min_s (|g_w|^2 / s + s) / 2` the objective is jointly convex
    in `w` and `s`; for fixed `s` it is the shortest vector in the hull of
    `g_i + (s / radius) mean`, and at the optimum `s = |g_w|`: a root to bisect.
    """
    mean = self.factor.mean(axis=0)
    radius = c * np.linalg.norm(mean)

    def solve(s):
      w = min_norm.min_norm(self.factor + s / radius * mean)
      return w, np.linalg.norm(w @ self.factor)

    low, high = 0.0, np.linalg.norm(self.factor, axis=1).max()
    for _ in range(60):
      middle = 0.5 * (low + high)
      w, norm = solve(middle)
      low, high = (middle, high) if norm > middle else (low, middle)
    return 1 / len(w) + radius / norm * w

  @functools.cache  # noqa: B019
  def upgrad(self) -> np.ndarray:
    """The mean of the projections on the dual cone."""
    rows = np.eye(len(self.gram))
    project = dual_cone.project_dual_cone
    return np.mean([project(self.factor, row) for row in rows], axis=0)

  @functools.cache  # noqa: B019
  def dual_proj(self) -> np.ndarray:
    """The projection of the mean on the dual cone."""
    num_tasks = len(self.gram)
    equal = np.full(num_tasks, 1 / num_tasks)
    return dual_cone.project_dual_cone(self.factor, equal)

  @functools.cache  # noqa: B019
  def imtl_g(self, unit: bool = True) -> np.ndarray:
    """Equal projections on the unit gradients; the weights sum to 1.

    Args:
      unit: Whether the pseudo-inverse is taken between unit gradients, or
        between the gradients as they are. One and the same where they are
        linearly independent.
    """
    norms = np.sqrt(np.diag(self.gram))
    rows = self.factor / norms[:, None] if unit else self.factor
    inverse = np.linalg.pinv(rows)
    weights = inverse.T @ (inverse @ (np.ones_like(norms) if unit else norms))
    weights = weights / norms if unit else weights
    return weights / weights.sum()

  @functools.cache  # noqa: B019
  def config(self) -> np.ndarray:
    """The direction with equal cosines, as long as the projections' sum."""
    direction = spectral.conflict_free_direction(self.factor)
    update = np.sum(self.factor @ direction) * direction
    return np.linalg.lstsq(self.factor.T, update, rcond=None)[0]

  @functools.cache  # noqa: B019
  def aligned_mtl(self) -> np.ndarray:
    """Equal singular values; the rank is decided at float32's roundings."""
    num_tasks = len(self.gram)
    equal = np.full(num_tasks, 1 / num_tasks)
    update = spectral.aligned_direction(
      self.factor, equal, "min", num_tasks * _EPS32
    )
    return np.linalg.lstsq(self.factor.T, update, rcond=None)[0]

  def pcgrad(self, orders: np.ndarray) -> np.ndarray:
    """Gradient surgery in the orders given: row `i` is the one of task `i`."""
    total = np.zeros(len(self.gram))
    for task, order in enumerate(orders):
      left = np.zeros(len(self.gram))
      left[task] = 1.0
      for other in order:
        product = self.gram[other] @ left
        if other != task and product < 0:
          left[other] -= product / self.gram[other, other]
      total += left
    return total

  def length(self, update: np.ndarray) -> float:
    """How much longer than the shortest, relative to that."""
    if not self.descent:
      return float("nan")
    best = np.linalg.norm(self.mgda() @ self.factor)
    norm = np.linalg.norm(update.astype(np.float64))
    return float(abs(norm - best) / best)

  def residual(self, weights: np.ndarray, alpha: float) -> float:
    """The error in `M w = w ** (-1 / alpha)`, of the best multiple of `w`."""
    if not self.descent:
      return float("nan")
    weights = weights.astype(np.float64)
    if not (weights > 0).all():
      return float("inf")
    products = weights ** (1 / alpha) * (self.gram @ weights)
    return float(np.max(np.abs(products / products.mean() - 1)))

  def bargaining(self, alpha: float) -> np.ndarray:
    """The weights that solve `M w = w ** (-1 / alpha)`."""
    return bargaining.fairness(self.factor, alpha)
