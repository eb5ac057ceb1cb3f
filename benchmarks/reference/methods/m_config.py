"""M-ConFIG: its algorithm, step by step, with the matrix of all momenta."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def config(rows: np.ndarray) -> np.ndarray:
  """ConFIG's update [P] of gradients [T, P]; zero rows are left out."""
  norms = np.linalg.norm(rows, axis=1)
  rows, norms = rows[norms > 0], norms[norms > 0]
  if not len(rows):
    return np.zeros(rows.shape[1])
  direction = np.linalg.pinv(rows / norms[:, None]) @ np.ones(len(rows))
  direction = direction / np.linalg.norm(direction)
  return np.sum(rows @ direction) * direction


@reference("m_config")
def m_config(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
) -> np.ndarray:
  """Updates [steps, P]: there are no weights."""
  momenta = np.zeros(grads.shape[1:])
  counts = np.zeros(num_tasks, int)
  last, square, t, out = np.zeros(grads.shape[2]), 0.0, 0, []
  for step, g in enumerate(grads):
    task = step % num_tasks
    counts[task] += 1
    momenta[task] = b1 * momenta[task] + (1 - b1) * g[task]
    if not counts.all():
      out.append(np.zeros_like(last))
      continue
    t += 1
    update = config(momenta / (1 - b1**counts)[:, None])
    momentum = (1 - b1**t) * update
    pseudo = (momentum - b1 * last) / (1 - b1)
    square = b2 * square + (1 - b2) * pseudo**2
    last = momentum
    out.append(update / (np.sqrt(square / (1 - b2**t)) + eps))
  return np.stack(out)
