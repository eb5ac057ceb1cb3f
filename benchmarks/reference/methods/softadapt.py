"""SoftAdapt: a softmax over the slopes of the losses."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


@reference("softadapt")
def softadapt(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  beta: float = 0.1,
  variant: str = "original",
  order: int = 4,
) -> np.ndarray:
  """Weights [steps, T] that sum to T; equal until there are enough points."""
  out = []
  for t in range(len(grads)):
    if t < order:
      out.append(np.ones(num_tasks))
      continue
    points = extra["losses"][t - order : t + 1]
    # The slope at the last point of the polynomial through all of them.
    fit = np.polynomial.polynomial.polyfit(
      np.arange(-order, 1.0), points, order
    )
    slopes = fit[1]
    if variant == "normalized":
      slopes = slopes / np.abs(slopes).sum()
    power = np.exp(beta * slopes)
    if variant == "loss_weighted":
      power = power * points[-1]
    out.append(num_tasks * power / power.sum())
  return np.stack(out)
