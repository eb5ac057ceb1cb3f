"""Uncertainty weighting: Adam on the logarithms of the variances."""

from collections.abc import Sequence

import numpy as np

from benchmarks.reference.methods._shared import (
  Adam,
  Extra,
  reference,
)


@reference("uncertainty_weighting")
def uncertainty_weighting(
  num_tasks: int, grads: np.ndarray, extra: Extra, kind: Sequence[str]
) -> np.ndarray:
  """`1/(2σ²)`, `1/σ²` or `1/σ` by the kind of the task; [steps, T]."""
  factor = np.array([0.5 if k == "regression" else 1.0 for k in kind])
  power = np.array([0.5 if k == "laplace" else 1.0 for k in kind])
  log_vars, adam, out = np.zeros(num_tasks), Adam(), []
  for losses in extra["losses"]:
    weights = factor / np.exp(log_vars) ** power
    out.append(weights)
    log_vars = log_vars + adam(0.5 - power * weights * losses)
  return np.stack(out)
