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
) -> np.ndarray:
  """Weights [steps, T] of both phases, with the constraints' added in."""
  out, optimizing = [], False
  lengths = np.linalg.norm(directions, axis=1, keepdims=True)
  units = directions / np.where(lengths == 0, 1, lengths)
  spent = 0
  for g, losses, preference in zip(
    grads, extra["losses"], extra["preference"], strict=True
  ):
    own = preference / np.linalg.norm(preference)
    normals = units - own
    values = normals @ losses / np.linalg.norm(losses)
    if spent >= feasibility_steps or not (values > 0).any():
      optimizing = True
    # With epsilon 0 the same constraints count in both phases.
    rows = normals[values > 0]
    if optimizing:
      rows = np.concatenate([np.eye(num_tasks), rows])
    else:
      spent += 1
    # More rows than one can try all supports of.
    out.append(min_norm.min_norm(rows @ g) @ rows)
  return np.stack(out)
