"""Equal weighting: the gradient of the summed loss."""

import jax.numpy as jnp
import numpy as np
from one_step import close, step

import optax_mtl

GRADS = [[1.0, 0.0], [2.0, 5.0]]


def test_sum_and_mean_over_the_active_tasks():
  summed = optax_mtl.equal_weighting(2)
  mean = optax_mtl.equal_weighting(2, reduction="mean")
  updates, state = step(summed, GRADS)
  close(updates, [3.0, 5.0])
  close(state.weights, [1.0, 1.0])
  updates, state = step(mean, GRADS)
  close(updates, [1.5, 2.5])
  close(state.weights, [0.5, 0.5])
  mask = np.array([True, False])
  for tx in (summed, mean):
    updates, state = step(tx, GRADS, active=mask)
    close(updates, [1.0, 0.0])
    close(state.weights, [1.0, 0.0])


def test_no_task_at_all_is_no_step():
  mask = np.zeros(2, bool)
  for reduction in ("sum", "mean"):
    tx = optax_mtl.equal_weighting(2, reduction=reduction)
    updates, _ = step(tx, GRADS, active=mask)
    np.testing.assert_array_equal(updates, jnp.zeros(2))
