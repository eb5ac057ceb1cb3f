"""GradVac: gradients turned towards each other, in the package's orders."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference
from benchmarks.reference.methods.pcgrad import drawn_orders


def vaccine(
  grads: np.ndarray, orders: np.ndarray, targets: np.ndarray, beta: float
) -> tuple[np.ndarray, np.ndarray]:
  """The paper's algorithm 1 for one step, on coefficients and on gradients.

  Args:
    grads: `[T, P]`.
    orders: `[T, T]`, row i the order in which gradient i meets the others.
    targets: `[T, T]`, the cosines aimed at.
    beta: How far these move.

  Returns:
    `[T, T]`, row i the coefficients of what becomes of gradient i, and the next
    targets.
  """
  coefficients, targets = np.eye(len(grads)), np.array(targets)
  norms = np.linalg.norm(grads, axis=1)
  for i, order in enumerate(orders):
    left = grads[i].copy()
    for j in order:
      own = np.linalg.norm(left)
      if j == i or own == 0 or norms[j] == 0:
        continue
      cosine, target = left @ grads[j] / (own * norms[j]), targets[i, j]
      if cosine < target:
        # The law of sines in the triangle of the two gradients.
        angle, wanted = np.arccos(cosine), np.arccos(target)
        share = own * np.sin(angle - wanted) / (norms[j] * np.sin(wanted))
        left += share * grads[j]
        coefficients[i, j] += share
      targets[i, j] = (1 - beta) * target + beta * cosine
  return coefficients, targets


@reference("gradvac")
def gradvac(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  beta: float = 0.01,
  initial_cosine: float = 0.0,
) -> np.ndarray:
  """The sum of the turned gradients, as weights [steps, T]."""
  orders = drawn_orders(len(grads), num_tasks)
  targets = initial_cosine * (1 - np.eye(num_tasks))
  weights = []
  for g, o in zip(grads, orders, strict=True):
    parts, targets = vaccine(g, o, targets, beta)
    weights.append(parts.sum(axis=0))
  return np.stack(weights)
