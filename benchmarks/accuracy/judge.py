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
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.common.contenders import (
  ALPHA,
  METHODS,
  Answer,
  C,
  fixed_weights,
)
from benchmarks.reference.methods import REFERENCES
from benchmarks.reference.methods.pcgrad import surgery
from benchmarks.reference.solvers import min_norm

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

  def _blocks(self) -> Iterator[np.ndarray]:
    for start in range(0, self.matrix.shape[1], _CHUNK):
      yield self.matrix[:, start : start + _CHUNK].astype(np.float64)

  def distance(self, update: np.ndarray, weights: np.ndarray) -> float:
    """`|update - weights @ matrix| / |weights @ matrix|`, in float64."""
    square, start = 0.0, 0
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

    def solve(s: float) -> tuple[np.ndarray, float]:
      w = min_norm.min_norm(self.factor + s / radius * mean)
      return w, float(np.linalg.norm(w @ self.factor))

    low, high = 0.0, float(np.linalg.norm(self.factor, axis=1).max())
    for _ in range(60):
      middle = 0.5 * (low + high)
      w, norm = solve(middle)
      low, high = (middle, high) if norm > middle else (low, middle)
    return 1 / len(w) + radius / norm * w

  @functools.cache  # noqa: B019
  def reference(self, name: str, **kwargs: float) -> np.ndarray:
    """The weights [T] by the method's reference; T may be large for it.

    Args:
      name: Of the method.
      **kwargs: What its reference takes.
    """
    factor = self.factor[None]
    return REFERENCES[name](len(self.gram), factor, {}, **kwargs)[0]

  @functools.cache  # noqa: B019
  def imtl_g(self, unit: bool = True) -> np.ndarray:
    """Equal projections on the unit gradients; the weights sum to 1.

    NaN where zero alone has equal projections, as with more tasks than
    parameters: that is no direction.

    Args:
      unit: Whether the pseudo-inverse is taken between unit gradients, or
        between the gradients as they are. One and the same where they are
        linearly independent.
    """
    norms = np.sqrt(np.diag(self.gram))
    rows = self.factor / norms[:, None] if unit else self.factor
    inverse = np.linalg.pinv(rows)
    units = self.factor / norms[:, None]
    direction = np.linalg.pinv(units) @ np.ones_like(norms)
    # Solved to float64's roundings, or off by a good part of 1.
    if np.ptp(units @ direction) > 1e-6:
      return np.full_like(norms, np.nan)
    weights = inverse.T @ (inverse @ (np.ones_like(norms) if unit else norms))
    weights = weights / norms if unit else weights
    return weights / weights.sum()

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


#: The kind of error of each method.
KINDS = {name: "distance" for name in METHODS} | {
  "mgda": "length",
  "nash_mtl": "residual",
  "fairgrad": "residual",
}

#: Function to the weights [T] whose update is the one right answer, for the
#: methods whose error is a distance.
_RIGHT: dict[str, Callable[[Problem, Answer], np.ndarray]] = {
  "equal_weighting": lambda problem, _: np.ones(len(problem.gram)),
  "fixed_weighting": lambda problem, _: fixed_weights(len(problem.gram)),
  "pcgrad": lambda problem, answer: surgery(
    problem.factor, _given(answer.orders)
  ).sum(axis=0),
  "cagrad": lambda problem, _: problem.cagrad(C),
  "upgrad": lambda problem, _: problem.reference("upgrad"),
  "dual_proj": lambda problem, _: problem.reference("dual_proj"),
  "imtl_g": lambda problem, answer: problem.imtl_g(answer.side == "ours"),
  # The rank is decided at float32's roundings.
  "aligned_mtl": lambda problem, _: problem.reference(
    "aligned_mtl", tiny=len(problem.gram) * _EPS32
  ),
  "conflict_free": lambda problem, _: problem.reference("conflict_free"),
}


def _given(array: np.ndarray | None) -> np.ndarray:
  if array is None:
    raise ValueError("The answer lacks what its method is judged by.")
  return array


def error(name: str, problem: Problem, answer: Answer) -> float:
  """The relative error of an answer, of the method's kind.

  Args:
    name: A key of `contenders.METHODS`.
    problem: The matrix.
    answer: Of either side.

  Returns:
    The error; NaN where the problem has no solution.
  """
  if KINDS[name] == "length":
    return problem.length(answer.update)
  if KINDS[name] == "residual":
    alpha = 1.0 if name == "nash_mtl" else ALPHA
    return problem.residual(_given(answer.weights), alpha)
  if name == "cagrad" and not problem.descent:
    return float("nan")  # the peer returns 0 there, ours the mean
  return problem.distance(answer.update, _RIGHT[name](problem, answer))
