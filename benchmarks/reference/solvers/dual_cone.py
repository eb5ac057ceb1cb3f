"""Projection on the dual cone by non-negative least squares on gradients."""

import numpy as np
import scipy.optimize


def project_dual_cone(grads: np.ndarray, vector: np.ndarray) -> np.ndarray:
  """Coefficients `v >= vector` of the shortest `grads.T @ v`.

  Works on the unit gradients and not on their Gram matrix, so it does not
  square the condition number.

  Args:
    grads: `[T, P]` float64.
    vector: `[T]` float64.

  Returns:
    `[T]` float64.
  """
  norms = np.linalg.norm(grads, axis=1)
  present = norms > 0
  target = vector @ grads
  length = np.linalg.norm(target)
  result = np.array(vector, np.float64)
  if length == 0:
    return result
  unit = grads[present] / norms[present, None]
  extra, _ = scipy.optimize.nnls(unit.T, -target / length, maxiter=5000)
  result[present] += extra * length / norms[present]
  return result
