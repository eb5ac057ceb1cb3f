"""The projection on the simplex."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_mtl import solvers

EPS = float(np.finfo(np.float32).eps)

project = jax.jit(solvers.project_simplex)
project_many = jax.jit(jax.vmap(lambda v: solvers.project_simplex(v)))
project_masked = jax.jit(
  jax.vmap(lambda v, active: solvers.project_simplex(v, active=active))
)


def _reference(v, total=1.0):
  """Bisection on the threshold, in float64: no sorting."""
  low, high = np.min(v) - total, np.max(v)
  for _ in range(200):
    middle = (low + high) / 2
    if np.maximum(v - middle, 0).sum() > total:
      low = middle
    else:
      high = middle
  return np.maximum(v - high, 0)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_against_bisection(size):
  rng = np.random.default_rng(size)
  v = np.concatenate(
    [rng.normal(0, scale, (40, size)) for scale in (1e-3, 0.3, 1, 100)]
  )
  v = v.astype(np.float32)
  x = np.asarray(project_many(v))
  expected = np.stack([_reference(row) for row in v.astype(np.float64)])
  # One rounding for the shift, relative to the spread of the entries that
  # take part (at most 1), and one per term of the mean.
  np.testing.assert_allclose(x, expected, atol=4 * EPS, rtol=0)
  assert (x >= 0).all()
  np.testing.assert_allclose(x.sum(1), 1, atol=4 * EPS)


def test_values():
  # One rounding each for the shift, the mean and the difference.
  close = functools.partial(np.testing.assert_allclose, atol=3 * EPS)
  close(project(np.float32([0.2, 0.8])), [0.2, 0.8])
  close(project(np.float32([5, 5])), [0.5, 0.5])
  close(project(np.float32([9, 1, 8.5])), [0.75, 0, 0.25])
  close(project(np.float32([-1e30])), [1])


def test_a_common_part_costs_no_accuracy():
  v = np.float32([0.25, 0.5, -3.0, 0.125])
  np.testing.assert_array_equal(project(v), project(v + np.float32(1024)))


def test_extreme_entries():
  x = project(np.float32([1e38, 0, -1e38, -np.inf]))
  np.testing.assert_array_equal(x, [1, 0, 0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
  assert np.isnan(project(np.float32([0, bad, 1]))).all()


def test_active():
  rng = np.random.default_rng(0)
  v = rng.normal(size=(50, 6)).astype(np.float32)
  active = rng.random((50, 6)) < 0.5
  active[0] = False
  garbage = np.where(active, v, np.resize([np.nan, np.inf, 9], v.shape))
  x = np.asarray(project_masked(garbage.astype(np.float32), active))
  assert (x[~active] == 0).all()
  assert (x[0] == 0).all()
  for row, mask, answer in zip(v[1:], active[1:], x[1:], strict=True):
    if mask.any():
      expected = _reference(row[mask].astype(np.float64))
      np.testing.assert_allclose(answer[mask], expected, atol=4 * EPS)


def test_total():
  v = np.float32([3, 1, 0])
  np.testing.assert_allclose(
    solvers.project_simplex(v, total=6.0), [11 / 3, 5 / 3, 2 / 3], rtol=3 * EPS
  )
  np.testing.assert_array_equal(solvers.project_simplex(v, total=0.0), [0] * 3)
  traced = jax.jit(lambda t: solvers.project_simplex(v, total=t))(2.0)
  np.testing.assert_array_equal(traced, [2, 0, 0])


@pytest.mark.parametrize("x64", [False, True])
def test_dtype(x64):
  with (
    jax.enable_x64(x64),
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
  ):
    x = jax.jit(solvers.project_simplex)(jnp.asarray([1, 0, 0], jnp.int32))
    assert x.dtype == (np.float64 if x64 else np.float32)
    assert not x.weak_type


def test_errors():
  with pytest.raises(ValueError, match="total must lie in"):
    solvers.project_simplex(jnp.ones(2), total=-1.0)
  with pytest.raises(ValueError, match="v is empty"):
    solvers.project_simplex(jnp.ones(0))
  with pytest.raises(ValueError, match="v must have shape"):
    solvers.project_simplex(jnp.ones((2, 2)))
  with pytest.raises(TypeError, match="active must be bool"):
    solvers.project_simplex(jnp.ones(2), active=jnp.ones(2))
  with pytest.raises(ValueError, match="active must hold one bool"):
    solvers.project_simplex(jnp.ones(2), active=jnp.ones(3, bool))


def test_an_argument_that_is_computed_along():
  """Fused with several readers, it may be rounded differently in each.

  A product and a difference in one program: compilers contract them, or not.
  The sum of the answer was off by up to 0.1 where the smallest entry inside was
  found by comparing two of its copies.
  """
  rng = np.random.default_rng(0)
  slopes = rng.standard_normal((400, 5)) * 10.0 ** rng.uniform(0, 8, (400, 5))
  step = jax.vmap(lambda s: solvers.project_simplex(0.2 - 1e-3 * s))
  x = np.asarray(jax.jit(step)(jnp.asarray(slopes, jnp.float32)))
  assert (x >= 0).all()
  np.testing.assert_allclose(x.sum(axis=1), 1, atol=4 * EPS)
