"""ExcessMTL: multiplicative weights by excess risks, step by step."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def excess_weights(grads: np.ndarray, rate: float = 1e-2) -> np.ndarray:
  """Weights [steps, T] that sum to 1, of gradients [steps, T, P]."""
  squares, logs = np.zeros(grads.shape[1:]), np.zeros(grads.shape[1])
  first, out = np.zeros(grads.shape[1]), []
  for g in grads:
    squares = squares + g**2
    excess = np.sum(g**2 / np.sqrt(np.where(squares > 0, squares, 1)), axis=1)
    # Those without a first excess keep their part of the sum.
    known = first > 0
    if known.any():
      moved = logs[known] + rate * excess[known] / first[known]
      # Logarithms, as a weight may be too small for a number and come back.
      grown = np.logaddexp.reduce(moved) - np.logaddexp.reduce(logs[known])
      logs[known] = moved - grown
    first = np.where(known, first, excess)
    out.append(np.exp(logs - np.logaddexp.reduce(logs)))
  return np.stack(out)


@reference("excess_mtl")
def excess_mtl(
  num_tasks: int, grads: np.ndarray, extra: Extra, rate: float = 1e-2
) -> np.ndarray:
  """Updates [steps, P]."""
  return np.einsum("st,stp->sp", excess_weights(grads, rate), grads)
