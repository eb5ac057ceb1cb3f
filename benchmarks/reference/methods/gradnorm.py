"""GradNorm: Adam on the weights, towards equal rates of training."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Adam,
  Extra,
  reference,
)


@reference("gradnorm")
def gradnorm(
  num_tasks: int, grads: np.ndarray, extra: Extra, alpha: float = 1.5
) -> np.ndarray:
  """Weights [steps, T] that sum to T."""
  weights, out = np.ones(num_tasks), []
  adam, unit = Adam(), None
  for g, losses in zip(grads, extra["losses"], strict=True):
    out.append(weights)
    norms = np.linalg.norm(g, axis=1)
    weighted = weights * norms
    unit = weighted.mean() if unit is None else unit
    ratio = losses / extra["losses"][0]
    target = weighted.mean() * (ratio / ratio.mean()) ** alpha
    # |x|' = sign(x); the unit is what Adam does not see but for its epsilon.
    moved = weights + adam(np.sign(weighted - target) * norms / unit)
    moved = np.maximum(moved, 1e-4)
    weights = moved * num_tasks / moved.sum()
  return np.stack(out)
