"""The projection on the simplex, for the methods that learn a point of it."""

import numpy as np


def project(point: np.ndarray) -> np.ndarray:
  """Held et al.: the largest support on which all entries are positive."""
  ordered = np.sort(point)[::-1]
  excess = (np.cumsum(ordered) - 1) / np.arange(1, len(point) + 1)
  return np.maximum(point - excess[ordered > excess][-1], 0)
