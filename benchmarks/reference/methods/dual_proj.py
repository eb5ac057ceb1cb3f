"""DualProj: the projection of the mean on the dual cone."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  or_equal,
  reference,
)
from benchmarks.reference.solvers import dual_cone


@reference("dual_proj")
@each_step
def dual_proj(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  preference: np.ndarray | None = None,
) -> np.ndarray:
  """Weights [T]; the gradients may have any rank."""
  return dual_cone.project_dual_cone(grads, or_equal(preference, num_tasks))
