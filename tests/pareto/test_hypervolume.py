"""The hypervolume, with pymoo as the judge."""

import jax
import jax.numpy as jnp
import numpy as np
from pymoo.indicators.hv import HV

from optax_mtl import pareto


def test_hypervolume_is_pymoos():
  """On clouds, fronts, duplicates and points outside, in one vmap."""
  rng = np.random.default_rng(1)
  angles = rng.uniform(0, np.pi / 2, (20, 12))
  front = 1 - np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  clouds = rng.uniform(-0.2, 1.4, (20, 12, 2))
  points = np.concatenate([clouds, front, np.round(clouds, 1)])
  reference = np.array([1.0, 1.1])
  judge = HV(ref_point=reference)
  expected = [judge(p) for p in points]
  volumes = jax.jit(
    jax.vmap(
      lambda p: pareto.hypervolume_2d(p, jnp.asarray(reference, p.dtype))
    )
  )(jnp.asarray(points, jnp.float32))
  assert volumes.dtype == jnp.float32
  # A sum of twelve rectangles of size at most 1.5.
  np.testing.assert_allclose(volumes, expected, rtol=1e-5, atol=1e-6)


def test_hypervolume_edges():
  """No point inside, one point, one point twice; and the slopes."""

  @jax.jit
  def volume_and_slope(points):
    return jax.value_and_grad(pareto.hypervolume_2d)(points, jnp.ones(2))

  assert volume_and_slope(jnp.full((2, 2), 2.0))[0] == 0.0
  assert volume_and_slope(jnp.array([[0.0, 0.0], [2.0, 2.0]]))[0] == 1.0
  assert volume_and_slope(jnp.zeros((2, 2)))[0] == 1.0
  assert pareto.hypervolume_2d(jnp.zeros((1, 2)), jnp.ones(2)) == 1.0
  _, slope = volume_and_slope(jnp.array([[0.2, 0.5], [0.6, 0.1]]))
  np.testing.assert_allclose(slope, [[-0.5, -0.4], [-0.4, -0.4]], rtol=1e-5)
