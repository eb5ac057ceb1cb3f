"""Soft optimal uncertainty weighting: its values and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, step

import optax_mtl


def weights(losses, temperature=1.0):
  tx = optax_mtl.uw_so(len(losses), temperature)
  return step(tx, np.eye(len(losses)), losses=losses)[1].weights


def test_values():
  power = np.exp([2.0, 1.0, 0.25])
  close(weights(np.float32([0.5, 1, 4])), power / power.sum())
  # The temperature has the unit of the inverse loss.
  for scale in (1e-15, 1e15):
    losses = np.float32([0.5 * scale, scale, 4 * scale])
    close(weights(losses, 1 / scale), power / power.sum())
  close(weights(np.float32([0.1, 5, 9]), 1e9), np.full(3, 1 / 3))


def test_edges():
  """A softmax that overflows, and losses that have no inverse."""
  close(weights(np.float32([1e-37, 1.0]), 1e-3), [1, 0])
  for other in (0.0, np.nan, np.inf):
    close(weights(np.float32([4.0, other])), [1, 0])
  close(weights(np.zeros(2, np.float32)), [0, 0])
  with pytest.raises(ValueError, match="must not be negative, since uw_so"):
    weights(np.float32([4.0, -1.0]))
  close(jax.jit(weights)(jnp.array([4.0, -1.0])), [1, 0])
  with pytest.raises(ValueError, match="temperature must lie"):
    optax_mtl.uw_so(2, 0.0)
