"""Improvable gap balancing: a softmax of ratios, on the losses' logarithms."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


@reference("igb")
def igb(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  steps_per_epoch: int,
  base_epoch: int = 1,
) -> np.ndarray:
  """Weights [steps, T]; `1 / L` until the epoch of the base losses is over."""
  start, end = (steps_per_epoch * (base_epoch + k) for k in (0, 1))
  base = extra["losses"][start:end].mean(axis=0)
  out = []
  for t, losses in enumerate(extra["losses"]):
    power = np.exp(losses / base) if t >= end else np.ones(num_tasks)
    out.append(num_tasks * power / power.sum() / losses)
  return np.stack(out)
