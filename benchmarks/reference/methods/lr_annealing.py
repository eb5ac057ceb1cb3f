"""Learning-rate annealing, as in the authors' code, in every step."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


@reference("lr_annealing")
def lr_annealing(
  num_tasks: int, grads: np.ndarray, extra: Extra, reference: int = 0
) -> np.ndarray:
  """Weights [steps, T]; the residual's is 1."""
  del extra
  weights, out = np.ones(num_tasks), []
  for g in grads:
    for i in range(num_tasks):
      if i == reference:
        continue
      wanted = np.abs(g[reference]).max() / np.abs(weights[i] * g[i]).mean()
      weights[i] = 0.9 * weights[i] + 0.1 * wanted
    out.append(weights.copy())
  return np.stack(out)
