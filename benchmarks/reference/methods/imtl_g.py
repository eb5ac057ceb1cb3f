"""IMTL-G: equal projections on the unit gradients."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  reference,
)


@reference("imtl_g")
@each_step
def imtl_g(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """Weights [T] that sum to 1."""
  weights = np.linalg.pinv(grads @ grads.T) @ np.linalg.norm(grads, axis=1)
  return weights / weights.sum()
