"""Dynamic task prioritization: focal weights of averaged indicators."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  reference,
)


@reference("dtp")
def dtp(
  num_tasks: int, grads: np.ndarray, extra: Extra, gamma: float = 1.0
) -> np.ndarray:
  """`-(1 - κ)^γ log κ` [steps, T], κ the moving average of the indicators."""
  out, average = [], None
  for kpis in extra["kpis"]:
    average = kpis if average is None else 0.1 * kpis + 0.9 * average
    out.append(-((1 - average) ** gamma) * np.log(average))
  return np.stack(out)
