"""The geometric loss strategy's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, step

import optax_mtl


def weights(losses, **extra):
  tx = optax_mtl.gls(len(losses))
  losses = jnp.asarray(losses, jnp.float32)
  return step(tx, np.eye(len(losses)), losses=losses, **extra)[1].weights


def test_is_the_gradient_of_the_geometric_mean():
  losses = jnp.array([1.0, 2.0, 4.0])
  want = jax.grad(lambda x: jnp.prod(x) ** (1 / 3))(losses)
  # Logarithm, mean and exponential: a few roundings of numbers near 1.
  close(weights(losses), want)
  close(weights(losses), 2 / (3 * np.array([1.0, 2.0, 4.0])))


def test_products_that_no_float32_holds():
  """Three losses of 1e±15; a logarithm of 35 is rounded to 2e-6."""
  for scale in (1e-15, 1e15):
    close(weights([scale, 2 * scale, 4 * scale]), weights([1, 2, 4]), 1e-5)


def test_a_loss_without_a_root_leaves():
  """As an absent task does; and a negative one is refused."""
  want = [1.0, 0.25, 0.0]
  for other in (0.0, np.nan, np.inf):
    close(weights([1.0, 4.0, other]), want)
  active = np.array([True, True, False])
  close(weights([1.0, 4.0, 9.0], active=active), want)
  close(weights([0.0, 0.0]), [0.0, 0.0])
  close(weights([3.0]), [1.0])
  with pytest.raises(ValueError, match="must not be negative, since gls"):
    weights([1.0, 4.0, -1.0])
  close(jax.jit(weights)(jnp.array([1.0, 4.0, -1.0])), want)
