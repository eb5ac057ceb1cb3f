"""UPGrad: the projections of all gradients on the dual cone."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  or_equal,
  reference,
)
from benchmarks.reference.solvers import dual_cone


@reference("upgrad")
@each_step
def upgrad(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  preference: np.ndarray | None = None,
) -> np.ndarray:
  """Weights [T]; the gradients may have any rank."""
  rows = [dual_cone.project_dual_cone(grads, e) for e in np.eye(num_tasks)]
  return or_equal(preference, num_tasks) @ np.stack(rows)
