"""Pareto MTL: into the sub-region first, then down within it."""

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  reference,
)
from benchmarks.reference.solvers import min_norm


@reference("pareto_mtl")
def pareto_mtl(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  directions: np.ndarray,
  feasibility_steps: int,
  reenter: bool = True,
) -> np.ndarray:
  """Weights [steps, T] of both phases, with the constraints' added in."""
  out = []
  lengths = np.linalg.norm(directions, axis=1, keepdims=True)
  units = directions / np.where(lengths == 0, 1, lengths)
  # What is left of the first phase; it is filled up inside of the region.
  left = feasibility_steps
  for g, losses, preference in zip(
    grads, extra["losses"], extra["preference"], strict=True
  ):
    normals = units - preference / np.linalg.norm(preference)
    # With epsilon 0 the same constraints count in both phases.
    rows = normals[normals @ losses > 0]
    if len(rows) == 0:
      left = feasibility_steps if reenter else 0
    if len(rows) == 0 or left == 0:
      rows = np.concatenate([np.eye(num_tasks), rows])
    else:
      left -= 1
    # More rows than one can try all supports of.
    out.append(min_norm.min_norm(rows @ g) @ rows)
  return np.stack(out)
