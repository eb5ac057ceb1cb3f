"""Weights that are given."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  reference,
)


@reference("fixed_weighting")
@each_step
def fixed_weighting(
  num_tasks: int, grads: np.ndarray, extra: Extra, weights: np.ndarray
) -> np.ndarray:
  """The weights [T] themselves."""
  return np.asarray(weights, float)
