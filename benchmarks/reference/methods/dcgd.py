"""DCGD: two gradients, as its three algorithms have them."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


@reference("dcgd")
@each_step
def dcgd(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  variant: str = "center",
  residual: int = 0,
) -> np.ndarray:
  """Weights [T]; groups with a gradient, or none at all."""
  first = np.arange(num_tasks) == residual
  if first.all():
    return np.ones(num_tasks)
  groups = np.stack([first, ~first]).astype(float)
  pair = groups @ grads
  lengths = np.linalg.norm(pair, axis=1)
  total = pair.sum(axis=0)
  hurt = pair @ total < 0
  two = np.ones(2)
  if variant == "center":
    axis = (pair / lengths[:, None]).sum(axis=0)
    two = (axis @ total) / (axis @ axis) / lengths
  elif hurt.any() and variant == "average":
    two = (1 - pair[0] @ pair[1] / lengths**2) / 2
  elif hurt.any():
    two = np.where(hurt, 1 - pair @ total / lengths**2, 1)
  return two @ groups
