"""Multi-Krum, from the gradients' distances."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


@reference("krum")
@each_step
def krum(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  num_byzantine: int,
  num_selected: int = 1,
) -> np.ndarray:
  """Weights [T]: the mean of those with the nearest neighbours."""
  scores = []
  for i, own in enumerate(grads):
    others = np.delete(grads, i, axis=0)
    squares = sorted(np.sum((others - own) ** 2, axis=1))
    scores.append(sum(squares[: max(num_tasks - num_byzantine - 2, 1)]))
  selected = min(num_selected, num_tasks)
  weights = np.zeros(num_tasks)
  for i in sorted(range(num_tasks), key=lambda i: (scores[i], i))[:selected]:
    weights[i] = 1 / selected
  return weights
