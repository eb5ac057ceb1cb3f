"""The geometric mean of the losses."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


@reference("gls")
@each_step
def gls(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """Weights [T]."""
  losses = extra["losses"]
  return np.prod(losses) ** (1 / num_tasks) / (num_tasks * losses)
