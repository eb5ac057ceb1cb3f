"""CAGrad's objective, its duality gap, and a search for two tasks."""

import numpy as np
import scipy.optimize


def objective(grads: np.ndarray, weights: np.ndarray, c: float) -> float:
  """`g_w . mean + c |mean| |g_w|`, from the gradients themselves."""
  mean = grads.mean(axis=0)
  combined = weights @ grads
  length = np.linalg.norm(mean) * np.linalg.norm(combined)
  return combined @ mean + c * length


def gap(grads: np.ndarray, weights: np.ndarray, c: float) -> float:
  """How far `weights` are from optimal at most, by convexity."""
  mean = grads.mean(axis=0)
  combined = weights @ grads
  norm = np.linalg.norm(combined)
  pull = c * np.linalg.norm(mean) / norm if norm > 0 else 0.0
  gains = grads @ (mean + pull * combined)
  return weights @ gains - gains.min()


def two_tasks(grads: np.ndarray, c: float) -> float:
  """The least objective for two tasks.

  Args:
    grads: `[2, P]` float64.
    c: Not negative.

  Returns:
    The minimum over the segment.
  """

  def along(t: float) -> float:
    return objective(grads, np.array([t, 1 - t]), c)

  found = scipy.optimize.minimize_scalar(
    along, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}
  )
  return min(found.fun, along(0.0), along(1.0))
