"""FairGrad: alpha-fair weights; a limit is the update's, and not theirs."""

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
  preference: np.ndarray | float = 1.0,
) -> np.ndarray:
  """Weights [T]; a preference that comes with the step takes the place."""
  counts = extra.get("preference", preference)
  return bargaining.fairness(grads, alpha, counts)
