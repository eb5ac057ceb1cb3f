"""MoCo: its algorithm, step by step."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def on_simplex(point: np.ndarray) -> np.ndarray:
  """The nearest point of the simplex, by bisection on what is subtracted."""
  low, high = point.min() - 1, point.max()
  for _ in range(200):
    middle = (low + high) / 2
    if np.maximum(point - middle, 0).sum() > 1:
      low = middle
    else:
      high = middle
  return np.maximum(point - high, 0)


@reference("moco")
def moco(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  beta: float = 0.5,
  gamma: float = 0.1,
  beta_power: float = 0.5,
  gamma_power: float = 0.5,
  rho: float = 0.0,
  normalize: str | None = None,
) -> np.ndarray:
  """Updates [steps, P]."""
  tracked, shares = np.zeros(grads.shape[1:]), np.full(num_tasks, 1 / num_tasks)
  out = []
  for k, g in enumerate(grads, 1):
    if normalize == "loss":
      norms = np.linalg.norm(g, axis=1)
      g = g * (extra["losses"][k - 1] / norms)[:, None]
    tracked = tracked - beta / k**beta_power * (tracked - g)
    matrix = tracked @ tracked.T + rho * np.eye(num_tasks)
    shares = on_simplex(shares - gamma / k**gamma_power * (matrix @ shares))
    out.append(shares @ tracked)
  return np.stack(out)
