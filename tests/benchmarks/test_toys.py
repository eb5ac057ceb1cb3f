"""The toys with known Pareto fronts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.data import toys


def test_fonseca_front_and_its_volume():
  toy = toys.fonseca(20)
  # The Pareto set is the segment between the two minima.
  u = np.linspace(1, -1, 9)
  centre = np.ones(20) / np.sqrt(20)
  losses = jax.vmap(toy.losses)((u[:, None] * centre).astype(np.float32))
  # Twenty squares in float32; near a minimum the loss is their difference
  # from 0, so the error is absolute there.
  np.testing.assert_allclose(losses, toy.front(9), rtol=1e-5, atol=1e-12)
  front = toy.front(20001)
  slabs = (1 - front[:-1, 1] / 2 - front[1:, 1] / 2) * np.diff(front[:, 0])
  # The rest of the square lies right of the front's end. The trapezoid rule
  # errs by h^2 f''/12 * 2, with h = 1e-4 less than 1e-8.
  volume = slabs.sum() + (1 - front[-1, 0])
  np.testing.assert_allclose(volume, toy.hypervolume, atol=1e-8)
  np.testing.assert_allclose(toy.hypervolume, 0.3421155931, atol=1e-10)
  start = toy.start(jax.random.key(0))
  assert start.shape == (20,) and np.all(np.abs(start) < 0.5)
  with pytest.raises(ValueError, match="dim"):
    toys.fonseca(0)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_valleys_front_is_stationary(scale):
  toy = toys.valleys(scale)
  front = toy.front(15)
  assert np.all(np.diff(front[:, 0]) > 0) and np.all(np.diff(front[:, 1]) < 0)
  # On the front x2 is -8.355 in the middle and -8.434 at the ends.
  for x1, x2, point in ((7, -8.434, 0), (0, -8.355, 7), (-7, -8.434, 14)):
    loss = toy.losses(jnp.array([x1, x2], jnp.float32))
    # x2 has three decimals and the slope there is 0 in the weighted sum, so
    # what is left is float32 rounding of numbers near 20.
    np.testing.assert_allclose(loss, front[point], rtol=1e-5, atol=2e-5)
  assert toy.starts.shape == ((5, 2) if scale == 0.1 else (3, 2))


def test_valleys_slope_at_the_clips():
  # At (0, 0) tanh(+-x2/2) = 0 sits on both clips; with slope 1 there,
  # d l2/d x2 = (f2 - q2)/2 for f2 = log(3.5) + 6, q2 = -14.46.
  grad = jax.jacobian(toys.valleys(1.0).losses)(jnp.zeros(2))
  expected = (np.log(3.5) + 6 + 14.46) / 2
  np.testing.assert_allclose(grad[:, 1], [expected, expected], rtol=1e-6)
  losses = toys.valleys().losses(jnp.array([-8.5, 7.5]))
  assert losses.shape == (2,) and np.all(np.isfinite(losses))
