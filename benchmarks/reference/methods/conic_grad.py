"""ConicGrad: the best worst gain in a cone, by trying all supports."""

import itertools

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


def best_in_cone(grads: np.ndarray, c: float) -> np.ndarray:
  """Weights of the direction of the best least gain, as long as the mean.

  The tasks on a support have equal gains. So the direction is `κ A + a B`, with
  `A` in their span of gain 1 on each, and `B` the mean's part that is
  orthogonal to the span: two that are orthogonal themselves, and the cone is a
  quadratic equation of `a / κ`. Of those of all supports the best wins.

  Args:
    grads: `[T, P]` of linearly independent rows.
    c: The least cosine with the mean.
  """
  mean = grads.mean(axis=0)
  length = np.linalg.norm(mean)
  best, best_gain = np.full(len(grads), 1 / len(grads)), np.min(grads @ mean)
  for size in range(1, len(grads) + 1):
    for support in itertools.combinations(range(len(grads)), size):
      part = grads[list(support)]
      ones, along = np.linalg.solve(
        part @ part.T, np.stack([np.ones(size), part @ mean], axis=1)
      ).T
      level, rest = ones @ part, mean - along @ part
      # (level.mean + t rest.mean)² = c² |mean|² (|level|² + t² |rest|²)
      bound = (c * length) ** 2
      a, b = level @ mean, rest @ mean
      roots = np.roots(
        [
          b * b - bound * (rest @ rest),
          2 * a * b,
          a * a - bound * level @ level,
        ]
      )
      for t in [0.0, *roots[np.isreal(roots)].real]:
        added = ones - t * along
        direction = level + t * rest
        cosine = direction @ mean / length / np.linalg.norm(direction)
        if t < 0 or (added < -1e-9).any() or cosine < c - 1e-9:
          continue
        factor = length / np.linalg.norm(direction)
        gain = factor * np.min(grads @ direction)
        if gain > best_gain:
          best_gain = gain
          best = np.full(len(grads), t / len(grads))
          best[list(support)] += added
          best = factor * best
  return best


@reference("conic_grad")
@each_step
def conic_grad(
  num_tasks: int, grads: np.ndarray, extra: Extra, c: float = 0.75
) -> np.ndarray:
  """Weights [T]."""
  return best_in_cone(grads, c)
