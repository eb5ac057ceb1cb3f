"""GradOPS: each conflicting gradient less its projection on all the others."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, each_step, reference


def parts(grads: np.ndarray) -> np.ndarray:
  """Coefficients [T, T] of what each gradient becomes; of any rank."""
  rows = np.eye(len(grads))
  for i, g in enumerate(grads):
    others = np.arange(len(grads)) != i
    if (grads[others] @ g < 0).any():
      found = np.linalg.lstsq(grads[others].T, g, rcond=1e-10)[0]
      left = g - found @ grads[others]
      rows[i, others] = -found
      if np.linalg.norm(left) <= 1e-8 * np.linalg.norm(g):
        rows[i] = 0
  return rows


@reference("grad_ops")
@each_step
def grad_ops(
  num_tasks: int, grads: np.ndarray, extra: Extra, alpha: float = 0.0
) -> np.ndarray:
  """Weights [T]."""
  rows = parts(grads)
  left = rows.any(axis=1)
  update = rows.sum(axis=0) @ grads
  gains = grads[left] @ update / np.sum(grads[left] ** 2, axis=1)
  ratio = gains / gains.mean()
  weights = ratio**alpha / np.mean(ratio**alpha)
  return weights @ rows[left]
