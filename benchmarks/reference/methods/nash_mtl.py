"""Nash-MTL: the bargaining solution; a limit is the update's, and not its."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  reference,
)
from benchmarks.reference.solvers import bargaining


@reference("nash_mtl")
@each_step
def nash_mtl(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  max_norm: float | None = 1.0,
) -> np.ndarray:
  """Weights [T]."""
  return bargaining.fairness(grads, 1.0)
