"""Dynamic weight average: a softmax over the losses' ratios of two epochs."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  reference,
)


@reference("dwa")
def dwa(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  steps_per_epoch: int,
  temperature: float = 2.0,
) -> np.ndarray:
  """Weights [steps, T] that sum to T; equal in the first two epochs."""
  out = []
  for t in range(len(grads)):
    epoch = t // steps_per_epoch
    if epoch < 2:
      out.append(np.ones(num_tasks))
      continue
    last, previous = (
      extra["losses"][(epoch - k) * steps_per_epoch :][:steps_per_epoch].mean(0)
      for k in (1, 2)
    )
    power = np.exp(last / previous / temperature)
    out.append(num_tasks * power / power.sum())
  return np.stack(out)
