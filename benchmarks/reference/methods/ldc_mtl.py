"""Loss discrepancy control: Adam on the logits of the weights."""

import numpy as np

from benchmarks.reference.methods._shared import Adam, Extra, reference


@reference("ldc_mtl")
def ldc_mtl(
  num_tasks: int, grads: np.ndarray, extra: Extra, penalty: float = 0.05
) -> np.ndarray:
  """Weights [steps, T], each from before its step."""
  # Row i takes the i-th difference.
  differences = np.eye(num_tasks)[:-1] - np.eye(num_tasks)[1:]
  logits, adam, out = np.zeros(num_tasks), Adam(), []
  first = extra["losses"][0]
  for losses in extra["losses"] / first:
    shares = 1 / (1 + np.exp(-logits))
    # The gradient of the sum of the differences' magnitudes in `w L`.
    slopes = differences.T @ np.sign(differences @ (shares * losses))
    out.append((shares + penalty * shares * slopes) / first)
    logits = logits + adam(slopes * losses * shares * (1 - shares))
  return np.stack(out)
