"""Soft optimal uncertainty weighting: a softmax of inverse losses."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


@reference("uw_so")
@each_step
def uw_so(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """Weights [T] that sum to 1."""
  power = np.exp(1 / extra["losses"])
  return power / power.sum()
