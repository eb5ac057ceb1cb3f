"""Smooth Tchebycheff: a softmax of the weighted losses above their least."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


@reference("stch")
def stch(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """Weights [steps, T], with the preferences of the steps and `μ = 1`."""
  out = []
  for t, losses in enumerate(extra["losses"]):
    wanted = extra["preference"][t]
    power = np.exp(wanted * (losses - extra["losses"][: t + 1].min(axis=0)))
    out.append(wanted * power / power.sum())
  return np.stack(out)
