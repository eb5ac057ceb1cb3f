"""MoDo: one projected step on the weights, from two batches."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference
from benchmarks.reference.methods._simplex import project


@reference("modo")
def modo(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  gamma: float = 1e-3,
  rho: float = 0.1,
) -> np.ndarray:
  """Weights [steps, T]; `extra` has the second batch's, [steps, T, P]."""
  shares, out = np.full(num_tasks, 1 / num_tasks), []
  for first, second in zip(grads, extra["second_grads"], strict=True):
    combined = second.T @ shares
    shares = project(shares - gamma * (first @ combined + rho * shares))
    out.append(shares)
  return np.stack(out)
