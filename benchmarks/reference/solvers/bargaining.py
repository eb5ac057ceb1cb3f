"""Alpha-fair bargaining by damped Newton on the convex objective."""

import numpy as np


def fairness(
  grads: np.ndarray, alpha: float, preference: np.ndarray | float = 1.0
) -> np.ndarray:
  """Solves `M w = (preference / w) ** (1 / alpha)` for `w > 0`.

  Minimises `w M w / 2 - sum phi(w)` with `phi'` the right-hand side over the
  coefficients of the unit gradients, with an Armijo line search.

  Args:
    grads: `[T, P]` float64, no zero rows, zero not in the hull of the rows.
    alpha: Positive.
    preference: `[T]`, positive, or one number for all.

  Returns:
    `[T]` float64.
  """
  norms = np.linalg.norm(grads, axis=1)
  unit = grads / norms[:, None]
  gram = unit @ unit.T
  weight = norms ** (1 / alpha - 1) * preference ** (1 / alpha)
  power = 1 - 1 / alpha

  def value(x: np.ndarray) -> float:
    if np.any(x <= 0):
      return np.inf
    gain = np.log(x) if alpha == 1 else x**power / power
    return 0.5 * x @ gram @ x - weight @ gain

  x = (weight / np.maximum(gram, 0).sum(1)) ** (alpha / (1 + alpha))
  for _ in range(500):
    slope = gram @ x - weight * x ** (-1 / alpha)
    if np.max(np.abs(slope) * x ** (1 / alpha) / weight) < 1e-11:
      break
    curvature = gram + np.diag(weight / alpha * x ** (-1 / alpha - 1))
    step = -np.linalg.solve(curvature, slope)
    size = 1.0
    while (
      value(x + size * step) > value(x) + 1e-4 * size * (slope @ step)
      and size > 1e-9
    ):
      size /= 2
    x = x + size * step
  return x / norms
