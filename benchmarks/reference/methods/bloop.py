"""Bloop: the auxiliary gradients without their part along the main average."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


@reference("bloop")
def bloop(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  main: int = 0,
  strength: float = 0.1,
) -> np.ndarray:
  """Updates [steps, P]."""
  del extra
  average, out = grads[0, main], []
  for g in grads:
    average = 0.9 * average + 0.1 * g[main]
    unit = average / np.linalg.norm(average)
    update = g[main].copy()
    for i in range(num_tasks):
      if i != main:
        update += strength * (g[i] - (g[i] @ unit) * unit)
    out.append(update)
  return np.stack(out)
