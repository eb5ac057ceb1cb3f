"""FairGrad: alpha-fair weights, then the norm is limited."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  clipped,
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
  return clipped(grads, bargaining.fairness(grads, alpha), max_norm)
