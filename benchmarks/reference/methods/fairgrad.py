"""FairGrad: alpha-fair weights."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  reference,
)
from benchmarks.reference.solvers import bargaining


@reference("fairgrad")
@each_step
def fairgrad(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  alpha: float = 1.0,
  max_norm: float | None = 1.0,
) -> np.ndarray:
  """Weights [T]."""
  # The limit is the update's, not the weights'.
  return bargaining.fairness(grads, alpha)
