"""ConicGrad: the best worst gain in a cone, by trying all supports."""

import itertools

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


def best_in_cone(grads: np.ndarray, c: float) -> np.ndarray:
  """Weights of the direction of the best least gain, as long as the mean.

  The tasks on a support have equal gains. So the direction is `κ A + t B`, with
  `A` in their span of gain 1 on each, `κ` of either sign, and `B` the mean's
  part that is orthogonal to the span: the cone's boundary is a quadratic
  equation of `t / κ`. Of those of all supports the best wins.

  Args:
    grads: `[T, P]` of linearly independent rows.
    c: The least cosine with the mean.
  """
  mean = grads.mean(axis=0)
  length = np.linalg.norm(mean)
  best, best_gain = np.full(len(grads), 1 / len(grads)), np.min(grads @ mean)
  supports = itertools.chain.from_iterable(
    itertools.combinations(range(len(grads)), size)
    for size in range(1, len(grads) + 1)
  )
  for support, sign in itertools.product(supports, (1, -1)):
    part = grads[list(support)]
    ones, along = np.linalg.solve(
      part @ part.T, np.stack([np.ones(len(part)), part @ mean], axis=1)
    ).T
    level, rest = sign * ones @ part, mean - along @ part
    # (level.mean + t rest.mean)² = c² |mean|² (|level|² + t² |rest|²)
    bound = (c * length) ** 2
    a, b = level @ mean, rest @ mean
    roots = np.roots(
      [b * b - bound * rest @ rest, 2 * a * b, a * a - bound * level @ level]
    )
    for t in [0.0, *roots[np.isreal(roots)].real]:
      added, direction = sign * ones - t * along, level + t * rest
      norm = np.linalg.norm(direction)
      if t < 0 or (added < -1e-9).any():
        continue
      if direction @ mean < (c - 1e-9) * length * norm:
        continue
      gain = length / norm * np.min(grads @ direction)
      if gain > best_gain:
        best, best_gain = np.full(len(grads), t / len(grads)), gain
        best[list(support)] += added
        best *= length / norm
  return best


@reference("conic_grad")
@each_step
def conic_grad(
  num_tasks: int, grads: np.ndarray, extra: Extra, c: float = 0.75
) -> np.ndarray:
  """Weights [T]."""
  return best_in_cone(grads, c)
