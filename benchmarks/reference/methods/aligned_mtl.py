"""Aligned-MTL: the gradients with equal singular values."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  or_equal,
  reference,
)
from benchmarks.reference.solvers import spectral


@reference("aligned_mtl")
@each_step
def aligned_mtl(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  preference: np.ndarray | None = None,
  scale: str = "min",
  tiny: float = 0.0,
) -> np.ndarray:
  """Weights [T], the shortest where the gradients are not independent.

  Args:
    num_tasks: The number of tasks T.
    grads: `[T, P]`; of any rank with a positive `tiny`.
    extra: Not used.
    preference: `[T]`; None: equal.
    scale: "min", "median" or "rmse".
    tiny: Squared singular values below this times the largest are dropped.
  """
  update = spectral.aligned_direction(
    grads, or_equal(preference, num_tasks), scale, tiny
  )
  return np.linalg.lstsq(grads.T, update, rcond=None)[0]
