"""Learning-rate annealing in every step, by default as in the authors' code."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


@reference("lr_annealing")
def lr_annealing(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  reference: int = 0,
  relative: bool = True,
  decay: float = 0.9,
) -> np.ndarray:
  """Weights [steps, T]; the residual's is 1."""
  del extra
  weights, out = np.ones(num_tasks), []
  for g in grads:
    for i in range(num_tasks):
      if i == reference:
        continue
      below = np.abs(weights[i] * g[i] if relative else g[i]).mean()
      wanted = np.abs(g[reference]).max() / below
      weights[i] = decay * weights[i] + (1 - decay) * wanted
    out.append(weights.copy())
  return np.stack(out)
