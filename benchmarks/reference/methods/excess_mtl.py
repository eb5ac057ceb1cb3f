"""ExcessMTL: multiplicative weights by excess risks, step by step."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def excess_weights(grads: np.ndarray, rate: float = 1e-2) -> np.ndarray:
  """Weights [steps, T] that sum to 1, of gradients [steps, T, P]."""
  squares = np.zeros(grads.shape[1:])
  weights = np.full(grads.shape[1], 1 / grads.shape[1])
  first, out = None, []
  for g in grads:
    squares = squares + g**2
    excess = np.sum(g**2 / np.sqrt(squares), axis=1)
    if first is None:
      first = excess
    else:
      weights = weights * np.exp(rate * excess / first)
      weights = weights / weights.sum()
    out.append(weights)
  return np.stack(out)


@reference("excess_mtl")
def excess_mtl(
  num_tasks: int, grads: np.ndarray, extra: Extra, rate: float = 1e-2
) -> np.ndarray:
  """Updates [steps, P]."""
  return np.einsum("st,stp->sp", excess_weights(grads, rate), grads)
