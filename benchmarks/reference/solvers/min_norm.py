"""The min-norm point by non-negative least squares on the gradients."""

import numpy as np
import scipy.optimize


def min_norm(grads: np.ndarray) -> np.ndarray:
  """Weights of the shortest vector in the convex hull of the rows of `grads`.

  Works on the gradients and not on their Gram matrix, so it does not square
  the condition number: `w` is proportional to the solution of
  `min ||F.T @ u - e||` over `u >= 0`, where row `i` of `F` is
  `(g_i / n_i, n_min / n_i)`, `n_i` the length of `g_i`, and `e` the last unit
  vector (Lawson & Hanson, Solving Least Squares Problems, chapter 23).

  Args:
    grads: `[T, P]` float64.

  Returns:
    `[T]` float64 on the simplex.
  """
  lengths = np.linalg.norm(grads, axis=1)
  zero = lengths == 0
  if zero.any():
    return zero / zero.sum()
  if grads.shape[1] > grads.shape[0]:
    grads = np.linalg.qr(grads.T, mode="r").T
  ratio = lengths.min() / lengths
  factor = np.column_stack([grads / lengths[:, None], ratio])
  target = np.zeros(factor.shape[1])
  target[-1] = 1.0
  solution, _ = scipy.optimize.nnls(factor.T, target, maxiter=10_000)
  weights = solution * ratio
  return weights / weights.sum()


def kkt_violation(grads: np.ndarray, weights: np.ndarray) -> float:
  """`max_i (||d||^2 - g_i.d) / (n_i sum_j w_j n_j)`; zero at the optimum."""
  lengths = np.linalg.norm(grads, axis=1)
  direction = weights @ grads
  gap = direction @ direction - grads @ direction
  size = lengths * (weights @ lengths)
  return float(np.max(gap / np.where(size > 0, size, 1.0)))
