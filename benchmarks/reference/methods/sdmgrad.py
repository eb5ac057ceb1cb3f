"""SDMGrad: twenty projected steps with momentum, from two batches."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, or_equal, reference
from benchmarks.reference.methods._simplex import project


@reference("sdmgrad")
def sdmgrad(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  pull: float = 0.3,
  preference: np.ndarray | None = None,
  num_steps: int = 20,
  learning_rate: float = 10.0,
  momentum: float = 0.5,
) -> np.ndarray:
  """Weights [steps, T]; `extra` has the second batch's, [steps, T, P]."""
  direction = or_equal(preference, num_tasks)
  direction = direction / direction.sum()
  shares, out = np.full(num_tasks, 1 / num_tasks), []
  for first, second in zip(grads, extra["second_grads"], strict=True):
    cross = first @ second.T
    scale = np.mean(np.sqrt(np.maximum(np.diag(cross), 0)))
    if scale > 0:
      cross, velocity = cross / scale**2, np.zeros(num_tasks)
      for _ in range(num_steps):
        velocity = momentum * velocity + cross @ (shares + pull * direction)
        shares = project(shares - learning_rate * velocity)
    out.append((shares + pull * direction) / (1 + pull))
  return np.stack(out)
