"""Inverse norms: each gradient divided by its own."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


@reference("norm_balance")
@each_step
def norm_balance(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """Weights [T]: the mean norm over each norm."""
  del num_tasks, extra
  norms = np.sqrt(np.sum(grads**2, axis=1))
  return norms.mean() / norms
