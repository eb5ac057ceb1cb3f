"""The sum of the losses' logarithms."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


@reference("scale_invariant")
@each_step
def scale_invariant(
  num_tasks: int, grads: np.ndarray, extra: Extra
) -> np.ndarray:
  """Weights [T]."""
  return 1 / extra["losses"]
