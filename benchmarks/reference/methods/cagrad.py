"""CAGrad: its weights by trying all supports."""

import itertools

import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  each_step,
  or_equal,
  reference,
)


def conflict_averse(
  grads: np.ndarray, c: float, shares: np.ndarray
) -> np.ndarray:
  """The weights `w` of CAGrad's problem, by trying all supports.

  On its support S the optimum is along `y = inv(M_SS) (level 1 - q_S)`, with
  `q` the products with the mean and `level` such that `g_y` has the ball's
  radius for its length. Among the supports with `y >= 0` the best wins.
  """
  mean = shares @ grads
  radius = c * np.linalg.norm(mean)
  best, best_value = np.zeros(len(grads)), np.inf
  for size in range(1, len(grads) + 1):
    for support in itertools.combinations(range(len(grads)), size):
      part = grads[list(support)]
      gram, linear = part @ part.T, part @ mean
      ones, along = np.linalg.solve(
        gram, np.stack([np.ones(size), linear], axis=1)
      ).T
      # |g_y|^2 = a level^2 - 2 b level + c' = radius^2, the larger root.
      a, b = ones.sum(), along.sum()
      square = b * b - a * (linear @ along - radius**2)
      if square < 0:
        continue
      y = (b + np.sqrt(square)) / a * ones - along
      if (y < 0).any() or not y.sum() > 0:
        continue
      w = y / y.sum()
      combined = w @ part
      value = combined @ mean + radius * np.linalg.norm(combined)
      if value < best_value:
        best, best_value = np.zeros(len(grads)), value
        best[list(support)] = w
  return best


@reference("cagrad")
@each_step
def cagrad(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  c: float = 0.5,
  rescale: int = 1,
  preference: np.ndarray | None = None,
  clip: bool = False,
) -> np.ndarray:
  """Weights [T], the mean's share among them."""
  shares = or_equal(preference, num_tasks)
  w = conflict_averse(grads, c, shares)
  if clip:
    w = np.minimum(w, shares / shares.sum())
  mean, combined = shares @ grads, w @ grads
  pull = c * np.linalg.norm(mean) / np.linalg.norm(combined)
  return (shares + pull * w) / (1, 1 + c**2, 1 + c)[rescale]
