"""The scale-invariant loss's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, step

import optax_mtl


def weights(tx, losses):
  return step(tx, np.eye(len(losses)), losses=losses)[1].weights


def test_values():
  """`1 / L`, as the descent of the logarithms weighs, at any scale."""
  tx = optax_mtl.scale_invariant(3)
  logs = optax_mtl.log_losses(optax_mtl.equal_weighting(3))
  for scale in (1e-15, 1.0, 1e15):
    losses = np.float32([2 * scale, scale, 5 * scale])
    close(weights(tx, losses), 1 / np.float64(losses))
    updates, _ = step(tx, np.eye(3), losses=losses)
    close(updates, step(logs, np.eye(3), losses=losses)[0])


def test_a_loss_without_a_logarithm_leaves():
  tx = optax_mtl.scale_invariant(2)
  for other in (0.0, np.nan, np.inf, 1e-40):
    close(weights(tx, np.float32([4.0, other])), [0.25, 0.0])
  with pytest.raises(ValueError, match="not be negative, since scale_invar"):
    weights(tx, np.float32([4.0, -1.0]))
  negative = jnp.array([4.0, -1.0])
  close(jax.jit(lambda x: weights(tx, x))(negative), [0.25, 0.0])
