"""The min-norm point with a cap: the certificate tells the truth."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import Batched

from benchmarks.common import matrices
from benchmarks.reference.methods.mgda import shortest_below
from optax_mtl import solvers

EPS = float(np.finfo(np.float32).eps)
TOL = 8 * EPS
# One task, two and three are run among ten; T = 128 is what is promised.
NUMBERS = {1: 12, 2: 24, 3: 24, 10: 48, 128: 8}


@functools.cache
def _solver():
  def solve(gram, active, cap):
    return solvers.min_norm(gram, cap=cap, active=active)

  return Batched(solve, {10: 48, 128: 8})


def _violation(grads, weights, cap):
  """The docstring's residual in float64, for the level that makes it least."""
  norms, there = np.linalg.norm(grads, axis=1), np.any(grads != 0, axis=1)
  gains, size = grads @ (weights @ grads), weights @ norms
  if size == 0:
    return 0.0
  below, inner = weights < cap, (weights > 0) & (weights < cap) & there
  levels = list(gains[there])
  if inner.any():
    levels.append(weights[inner] @ gains[inner] / weights[inner].sum())
  safe = np.where(there, norms, 1)
  slopes = gains[None] - np.array(levels)[:, None]
  missing = np.max(np.where(below & there, -slopes, 0) / safe, axis=1) / size
  surplus = np.maximum(slopes, 0) @ (weights * there) / size**2
  return np.min(np.maximum(missing, surplus))


@pytest.mark.parametrize("num_tasks", NUMBERS)
@pytest.mark.parametrize("family", matrices.FAMILIES)
def test_certified(family, num_tasks):
  rng = np.random.default_rng(zlib.crc32(f"{family}{num_tasks}".encode()))
  count = NUMBERS[num_tasks]
  num_params = [2, max(2, num_tasks // 2), num_tasks + 1, 4 * num_tasks]
  grads = [
    matrices.FAMILIES[family](rng, num_tasks, num_params[k % 4])
    for k in range(count)
  ]
  # Whole numbers of tasks at their cap are the degenerate ones.
  caps = np.array([1, 1.5, 2, 1e9, 4, 1.1])[np.arange(count) // 4 % 6]
  caps = np.minimum(caps / num_tasks, 1).astype(np.float32)
  grams = np.stack([matrices.gram32(g) for g in grads])
  weights, certificate = _solver()(grams, caps)
  assert (weights >= 0).all() and (weights <= caps[:, None]).all()
  # A sum of T numbers.
  assert (abs(weights.sum(1) - 1) <= 2 * max(num_tasks, 2) * EPS).all()
  # Rounding has the last word where lengths are 1e12 apart or a condition
  # number is 1e8, in one of a hundred.
  converged = np.asarray(certificate.converged)
  if family not in ("scaled_1e6", "ill_conditioned"):
    assert converged.all()
  assert converged.mean() >= 0.9
  # The limit is 100 + 5 T, and typical are 1 to 30.
  assert np.max(certificate.iterations) <= 50 + num_tasks
  for g, w, cap, residual in zip(
    grads, weights, caps, certificate.residual, strict=True
  ):
    found = _violation(g, w.astype(float), float(cap))
    # The rounding of M moves a slope by two roundings of its terms.
    assert found <= residual + 4 * EPS, (found / EPS, residual / EPS)


def test_the_exact_solution():
  """Against all ways to be at a bound, where the weights are unique."""
  rng = np.random.default_rng(0)
  grads = rng.standard_normal((48, 4, 6))
  caps = rng.uniform(0.25, 0.7, 48).astype(np.float32)
  grams = np.stack([matrices.gram32(g) for g in grads])
  weights, _ = _solver()(grams, caps)
  for g, w, cap in zip(grads, weights, caps, strict=True):
    # The rounding of M, times a condition number of at most 1e3.
    np.testing.assert_allclose(w, shortest_below(g, float(cap)), atol=2e-4)


def test_between_mgda_and_the_mean():
  rng = np.random.default_rng(1)
  grads = rng.standard_normal((48, 10, 12))
  grams = np.stack([matrices.gram32(g) for g in grads])
  free, _ = jax.jit(jax.vmap(lambda gram: solvers.min_norm(gram)))(grams)
  one, _ = _solver()(grams, np.ones(48, np.float32))
  np.testing.assert_allclose(one, free, atol=1e-4)
  mean, _ = _solver()(grams, np.full(48, 0.1, np.float32))
  # One entry may have the rounding of a sum of ten.
  np.testing.assert_allclose(mean, 0.1, rtol=40 * EPS)
  # The more a cap allows, the shorter.
  before = np.full(48, np.inf)
  for cap in (0.1, 0.2, 0.4, 1.0):
    weights, _ = _solver()(grams, np.full(48, cap, np.float32))
    norm = np.linalg.norm(np.einsum("nt,ntp->np", weights, grads), axis=1)
    assert (norm <= before * (1 + 1e-5)).all()
    before = norm


def test_zero_rows_and_absent_ones():
  gram = np.diag([0.0, 1.0, 4.0, 9.0, 0.0]).astype(np.float32)
  active = np.array([[True] * 4 + [False], [True] * 5, [False] * 5])
  weights, certificate = _solver()(
    np.stack([gram] * 3), np.float32([0.4, 0.4, 0.4]), active=active
  )
  # 0.4 on the zero row; of the other 0.6 the cap, and 9 to 4.
  rest = [0.4, 0.2 * 9 / 13, 0.2 * 4 / 13]
  np.testing.assert_allclose(weights[0], [0.4, *rest, 0], rtol=1e-6)
  np.testing.assert_allclose(weights[1, [0, 4]], 0.4, rtol=1e-6)
  assert abs(weights[1].sum() - 1) <= 4 * EPS
  assert (weights[2] == 0).all() and np.asarray(certificate.converged).all()


def test_a_traced_cap_out_of_range():
  """Clipped at both ends, as documented; and NaN is not hidden."""
  grads = np.random.default_rng(2).standard_normal((1, 8, 9))
  grams = np.stack([matrices.gram32(grads[0])] * 7)
  caps = np.float32([np.nan, -1, 0, 0.1, 1, 5, np.inf])
  weights, certificate = _solver()(grams, caps)
  assert np.isnan(weights[0]).all()
  assert certificate.status[0] == solvers.Status.NOT_FINITE
  np.testing.assert_allclose(weights[1:4], 1 / 8, rtol=4 * EPS)
  for above in weights[5:]:
    np.testing.assert_array_equal(above, weights[4])
  assert certificate.converged[1:].all()


def test_errors():
  gram = jnp.eye(3)
  with pytest.raises(ValueError, match="cap must be at least 1/3"):
    solvers.min_norm(gram, cap=0.2)
  for options in ({"variant": "away"}, {"init": jnp.ones(3)}):
    with pytest.raises(ValueError, match="cap= goes with variant='wolfe'"):
      solvers.min_norm(gram, cap=0.5, **options)
