"""Δm, mean rank and gradient conflicts against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from optax_mtl import metrics
from optax_mtl._dtypes import solver_dtype


def check_dtype(value):
  assert value.dtype == solver_dtype()
  assert not value.weak_type


def test_delta_m_signs():
  upward = [True, False]
  base = jnp.array([0.8, 2.0])
  for values, expected in (
    ([0.8, 2.0], 0.0),
    ([0.4, 2.0], 25.0),  # accuracy halved: worse
    ([0.8, 1.0], -25.0),  # error halved: better
    ([0.4, 1.0], 0.0),
  ):
    actual = jax.jit(metrics.delta_m)(
      jnp.array(values), base, jnp.array(upward)
    )
    check_dtype(actual)
    # 100 times the rounding of quotients near 1.
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_delta_m_is_the_formula_over_leading_axes():
  rng = np.random.default_rng(0)
  values, base = rng.uniform(1, 2, size=(3, 4, 5)), rng.uniform(1, 2, size=5)
  upward = np.array([True, False, True, True, False])
  expected = 100 * np.mean((-1.0) ** upward * (values - base) / base, axis=-1)
  actual = metrics.delta_m(
    values.astype(np.float32), base.astype(np.float32), upward
  )
  # Relative changes up to 1, times 100, in float32.
  np.testing.assert_allclose(actual, expected, atol=1e-4)
  lower = metrics.delta_m(values, base, False)
  higher = metrics.delta_m(values, base, True)
  np.testing.assert_allclose(lower, -higher, rtol=1e-6)


def test_mean_rank_is_scipys():
  rng = np.random.default_rng(0)
  values = rng.integers(4, size=(6, 8)).astype(np.float32)  # many ties
  upward = rng.uniform(size=8) < 0.5
  ranks = stats.rankdata(np.where(upward, -values, values), axis=0)
  actual = jax.jit(metrics.mean_rank)(values, upward)
  check_dtype(actual)
  np.testing.assert_allclose(actual, ranks.mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("upward", [True, False])
def test_mean_rank_puts_nan_last(upward):
  values = jnp.array([[jnp.nan], [0.1], [jnp.nan], [0.2]])
  expected = [3.5, 2.0, 3.5, 1.0] if upward else [3.5, 1.0, 3.5, 2.0]
  assert metrics.mean_rank(values, upward).tolist() == expected


def grams(count, tasks, dim, seed=0):
  rows = np.random.default_rng(seed).normal(size=(count, tasks, dim))
  return rows, (rows @ rows.swapaxes(1, 2)).astype(np.float32)


def test_cosines_and_angles():
  rows, gram = grams(4, 3, 5)
  unit = rows / np.linalg.norm(rows, axis=2, keepdims=True)
  expected = unit @ unit.swapaxes(1, 2)
  cosines = jax.jit(metrics.conflict_cosines)(gram)
  angles = jax.jit(metrics.conflict_angles)(gram)
  check_dtype(cosines)
  check_dtype(angles)
  # A product, two divisions and a square root in float32.
  np.testing.assert_allclose(cosines, expected, atol=4e-7)
  off = ~np.eye(3, dtype=bool)
  # The slope of arccos is below 10 for these cosines (largest 0.99).
  np.testing.assert_allclose(
    angles[:, off], np.arccos(expected[:, off]), atol=1e-5
  )
  assert np.all(np.abs(cosines) <= 1) and np.all(np.isfinite(angles))


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_cosines_do_not_depend_on_scale(scale):
  _, gram = grams(2, 4, 5)
  expected = metrics.conflict_cosines(gram)
  scaled = metrics.conflict_cosines(gram * np.float32(scale))
  np.testing.assert_allclose(scaled, expected, atol=4e-7)


def test_a_zero_gradient_conflicts_with_nobody():
  gram = jnp.array([[0.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, -1.0, 1.0]])
  cosines = metrics.conflict_cosines(gram)
  assert cosines.tolist() == [[0, 0, 0], [0, 1, -1], [0, -1, 1]]
  angles = metrics.conflict_angles(gram)
  # pi itself is rounded to float32.
  np.testing.assert_allclose(
    angles[1:, 1:], [[0, np.pi], [np.pi, 0]], rtol=1e-6
  )
  np.testing.assert_allclose(angles[0], np.pi / 2, rtol=1e-6)
  np.testing.assert_allclose(metrics.conflict_rate(gram), 1 / 3, rtol=1e-6)


def test_conflict_rate_counts_pairs():
  _, gram = grams(20, 5, 3)
  gram = gram.reshape(4, 5, 5, 5)
  pairs = np.triu_indices(5, 1)
  expected = np.mean(gram[..., pairs[0], pairs[1]] < 0, axis=-1)
  actual = jax.jit(metrics.conflict_rate)(gram)
  check_dtype(actual)
  assert actual.shape == (4, 5) and 0 < actual.mean() < 1
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_conflict_rate_of_the_active_tasks():
  _, gram = grams(6, 5, 3)
  active = np.array([True, False, True, True, False])
  some = gram[:, active][:, :, active]
  expected = metrics.conflict_rate(some)
  np.testing.assert_array_equal(metrics.conflict_rate(gram, active), expected)
  each = np.broadcast_to(active, (6, 5))
  np.testing.assert_array_equal(metrics.conflict_rate(gram, each), expected)
  assert metrics.conflict_rate(gram[0], np.arange(5) == 1) == 0
  assert metrics.conflict_rate(jnp.ones((1, 1))) == 0


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: metrics.delta_m(jnp.ones(3), jnp.ones(2), True), "baseline.*K"),
    (lambda: metrics.delta_m(jnp.ones(3), jnp.ones(3), [True]), "higher_is"),
    (lambda: metrics.delta_m(1.0, 1.0, True), "higher_is"),
    (lambda: metrics.mean_rank(jnp.ones(3), True), "metrics.*methods"),
    (lambda: metrics.conflict_cosines(jnp.ones((2, 3))), "gram.*T, T"),
    (lambda: metrics.conflict_rate(jnp.ones(3)), "gram.*T, T"),
    (lambda: metrics.conflict_rate(jnp.eye(3), [True] * 2), "active.*T"),
  ],
)
def test_shapes_that_do_not_fit(call, message):
  with pytest.raises(ValueError, match=message):
    call()
