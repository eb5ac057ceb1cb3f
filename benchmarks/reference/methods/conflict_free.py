"""ConFIG: the direction with equal cosines, and a length."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  reference,
)
from benchmarks.reference.solvers import spectral


@reference("conflict_free")
@each_step
def conflict_free(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  length: str = "projection",
) -> np.ndarray:
  """Weights [T]; the gradients may have any rank."""
  norms = np.linalg.norm(grads, axis=1)
  unit = grads / norms[:, None]
  direction = spectral.conflict_free_direction(grads)
  lengths = {
    "projection": norms,
    "min": norms.min(),
    "max": norms.max(),
    "harmonic": num_tasks / np.sum(1 / norms),
    "arithmetic": norms.mean(),
    "geometric": np.prod(norms) ** (1 / num_tasks),
  }[length]
  update = np.sum(lengths * (unit @ direction)) * direction
  return np.linalg.lstsq(grads.T, update, rcond=None)[0]
