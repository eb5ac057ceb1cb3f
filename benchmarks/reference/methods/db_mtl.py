"""DB-MTL: averages of the log-losses' gradients, all as long as the largest."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


@reference("db_mtl")
def db_mtl(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  decay: float = 0.9,
  decay_power: float = 0.0,
) -> np.ndarray:
  """Updates [steps, P]."""
  buffer, out = np.zeros(grads.shape[1:]), []
  for k, (g, losses) in enumerate(zip(grads, extra["losses"], strict=True), 1):
    beta = decay / k**decay_power
    buffer = beta * buffer + (1 - beta) * g / losses[:, None]
    norms = np.linalg.norm(buffer, axis=1)
    # A task without a gradient has no direction to be as long in.
    factors = np.where(
      norms > 0, norms.max() / np.where(norms > 0, norms, 1), 0
    )
    out.append(factors @ buffer)
  return np.stack(out)
