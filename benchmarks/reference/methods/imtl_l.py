"""IMTL-L: Adam on the logarithms of the losses' scales."""

import numpy as np

from benchmarks.reference.methods._shared import Adam, Extra, reference


@reference("imtl_l")
def imtl_l(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """Weights `exp(s)` [steps, T], each from before its step."""
  scales, adam, out = np.zeros(num_tasks), Adam(), []
  for losses in extra["losses"]:
    out.append(np.exp(scales))
    # Of `exp(s) L - s`.
    scales = scales + adam(np.exp(scales) * losses - 1)
  return np.stack(out)
