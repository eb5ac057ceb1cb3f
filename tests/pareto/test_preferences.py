"""Directions that divide the loss space, with pymoo as the judge."""

import jax.numpy as jnp
import numpy as np
import pytest
from pymoo.util.ref_dirs import get_reference_directions

from optax_mtl import pareto


def sorted_rows(rows):
  return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize(
  "num_tasks, num_partitions", [(2, 1), (2, 9), (3, 4), (4, 5), (5, 3)]
)
def test_das_dennis_directions_are_pymoos(num_tasks, num_partitions):
  directions = pareto.das_dennis_directions(num_tasks, num_partitions)
  judge = get_reference_directions(
    "das-dennis", num_tasks, n_partitions=num_partitions
  )
  judge = judge / np.linalg.norm(judge, axis=1, keepdims=True)
  assert directions.shape == judge.shape
  # Both in float64, a few roundings; rounded so that they sort alike.
  np.testing.assert_allclose(
    sorted_rows(directions.round(12)), sorted_rows(judge.round(12)), atol=1e-11
  )


def test_one_task_has_one_direction():
  np.testing.assert_array_equal(pareto.das_dennis_directions(1, 5), [[1.0]])


@pytest.mark.parametrize("count", [2, 3, 10])
def test_uniform_directions(count):
  directions = pareto.uniform_directions(count)
  angles = np.arctan2(directions[:, 1], directions[:, 0])
  np.testing.assert_allclose(
    angles, np.pi / 2 * np.arange(count) / (count - 1), atol=1e-15
  )
  np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0)


def test_invert_preference():
  """R ∝ 1/u: on the ray L ∝ u all r_i L_i are equal; twice is no change."""
  rng = np.random.default_rng(0)
  u = jnp.asarray(rng.uniform(0.1, 1, (4, 3)), jnp.float32)
  r = pareto.invert_preference(u)
  products = np.asarray(r * u)
  np.testing.assert_allclose(products, products[:, :1] * np.ones(3), rtol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(r, axis=1), 1.0, rtol=1e-6)
  back = pareto.invert_preference(r)
  unit = u / jnp.linalg.norm(u, axis=1, keepdims=True)
  np.testing.assert_allclose(back, unit, rtol=1e-5)
  # A direction of (1, 0) asks for task 1 alone; as a weight, task 2 matters.
  np.testing.assert_allclose(
    pareto.invert_preference(jnp.array([1.0, 0.0])), [0.0, 1.0], atol=1e-6
  )
