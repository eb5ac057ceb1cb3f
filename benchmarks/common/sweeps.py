"""Grids of fixed weights, which every comparison has a row of."""

import numpy as np


def sweep_weights(num_tasks: int, size: int) -> np.ndarray:
  """A grid of fixed weights [N, T] that sum to T.

  For two tasks, `size` points on a line. For more, equal weights, and each task
  four times as heavy or as light as the others.

  Args:
    num_tasks: T.
    size: N, for two tasks.

  Returns:
    The weights.

  Example:
    >>> sweep_weights(2, 3).tolist()
    [[0.5, 1.5], [1.0, 1.0], [1.5, 0.5]]
    >>> sweep_weights(3, 9).shape
    (7, 3)
  """
  if num_tasks == 2:
    first = np.arange(1, size + 1) / (size + 1)
    weights = np.stack([first, 1 - first], axis=1)
  else:
    up, down = np.ones((2, num_tasks, num_tasks))
    np.fill_diagonal(up, 4.0)
    np.fill_diagonal(down, 0.25)
    weights = np.concatenate([np.ones((1, num_tasks)), up, down])
  return num_tasks * weights / weights.sum(axis=1, keepdims=True)
