"""IMTL-G where the gradients are dependent and the paper's form is regular.

With one parameter less than tasks, T = P + 1, the differences of the gradients
span the space: the paper's `w = g_1 Uᵀ (D Uᵀ)⁻¹` has an answer, and the only
vector with equal projections on all unit gradients is 0.
"""

import numpy as np
from one_step import gradients, run


def paper(grads):
  """The paper's weights [T] from gradients [T, P]."""
  units = grads / np.linalg.norm(grads, axis=1, keepdims=True)
  spread, change = units[0] - units[1:], grads[0] - grads[1:]
  rest = np.linalg.solve((change @ spread.T).T, spread @ grads[0])
  return np.concatenate([[1 - rest.sum()], rest])


def test_one_task_more_than_parameters():
  """The update is 0, the weights are the paper's, and that is a solution."""
  grads = gradients(3)[..., :2]
  found = run("imtl_g", grads)
  expected = np.stack([paper(g) for g in grads])
  # The eigenvalue that is zero is known to roundings of the largest one, so
  # that its eigenvector is as good as the gap to the next; and the weights are
  # large where their sum nearly vanishes.
  values = np.linalg.eigvalsh(
    np.einsum(
      "ntp,nsp->nts",
      *[grads / np.linalg.norm(grads, axis=-1, keepdims=True)] * 2,
    )
  )
  size = np.abs(expected).sum(axis=1)
  bound = 64 * np.finfo(float).eps / values[:, 1] * size**2
  error = np.abs(found.weights - expected).max(axis=1)
  assert (error <= bound).all(), np.max(error / bound)
  longest = np.linalg.norm(grads, axis=-1).max(axis=1)
  norm = np.linalg.norm(found.updates, axis=1)
  assert (norm <= bound * longest).all()
  assert np.asarray(found.memory.converged).all()
