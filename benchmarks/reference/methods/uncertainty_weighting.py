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
  """`c / σ²`, c 1/2 for a regression and 1 for a classification; [steps, T]."""
  factor = np.array([{"regression": 0.5, "classification": 1}[k] for k in kind])
  log_vars, adam, out = np.zeros(num_tasks), Adam(), []
  for losses in extra["losses"]:
    weights = factor / np.exp(log_vars)
    out.append(weights)
    log_vars = log_vars + adam(0.5 - weights * losses)
  return np.stack(out)
