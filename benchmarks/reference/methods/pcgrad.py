"""PCGrad: gradient surgery, in the orders that the package draws."""

import jax
import numpy as np

from benchmarks.reference.methods._shared import (
  Extra,
  reference,
)


def drawn_orders(num_steps: int, num_tasks: int, seed: int = 0) -> np.ndarray:
  """The orders [steps, T, T] that `pcgrad` with this seed draws.

  Those are the package's own choice and nothing of the paper: the test that
  they are what the paper asks for is that of their distribution.
  """
  key, orders = jax.random.key(seed, impl="threefry2x32"), []
  for _ in range(num_steps):
    key, now = jax.random.split(key)
    bits = jax.random.bits(now, (num_tasks, num_tasks), np.uint32)
    orders.append(np.argsort(np.asarray(bits), axis=1))
  return np.stack(orders)


def surgery(grads: np.ndarray, orders: np.ndarray) -> np.ndarray:
  """PCGrad's algorithm 1, line by line, on coefficients and on gradients.

  Args:
    grads: `[T, P]`, of any rank.
    orders: `[T, T]`, row i the order in which gradient i meets the others.

  Returns:
    `[T, T]`, row i the coefficients of the projected gradient i.
  """
  coefficients = np.eye(len(grads))
  for i, order in enumerate(orders):
    left = grads[i].copy()
    for j in order:
      product = left @ grads[j]
      if j != i and product < 0:
        share = product / (grads[j] @ grads[j])
        left -= share * grads[j]
        coefficients[i, j] -= share
  return coefficients


@reference("pcgrad")
def pcgrad(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """The sum of the projected gradients, as weights [steps, T]."""
  orders = drawn_orders(len(grads), num_tasks)
  return np.stack(
    [surgery(g, o).sum(axis=0) for g, o in zip(grads, orders, strict=True)]
  )
