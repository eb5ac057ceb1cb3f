"""Nash and alpha-fair bargaining: exact values, residuals, a reference."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import Batched

from benchmarks.common import matrices
from benchmarks.reference.solvers import bargaining as reference
from optax_mtl.solvers import Status, bargaining, spectral

EPS = float(np.finfo(np.float32).eps)
# What is left of the equations is a few roundings of the terms in them.
ROUNDINGS = 3.0
# Zero is not in the hull of the rows once there are more parameters than tasks.
SOLVABLE = (
  "iid",
  "conflicting",
  "aligned",
  "duplicate_rows",
  "rank_deficient",
  "scaled_1e2",
  "scaled_1e6",
  "zero_rows",
  "identical",
)


@Batched
def _nash(gram, active):
  return bargaining.nash_bargaining(gram, active=active)


@Batched
def _fair(gram, active, alpha):
  return bargaining.fairness(gram, alpha, active=active)


def _cases(num_tasks, families=SOLVABLE):
  grads = []
  for name in families:
    for num_params in (num_tasks + 2, 4 * num_tasks):
      seed = zlib.crc32(f"{name}{num_tasks}{num_params}".encode())
      rng = np.random.default_rng(seed)
      grads.append(matrices.FAMILIES[name](rng, num_tasks, num_params))
  return grads


def _grams(grads):
  return np.stack([matrices.gram32(g) for g in grads])


def _errors(grads, weights, alpha):
  """Errors of the equations in float64, and what rounding makes of them."""
  weights = weights.astype(np.float64)
  norms = np.linalg.norm(grads, axis=1)
  on = norms > 0
  assert np.all(weights[~on] == 0) and np.all(weights[on] > 0)
  factor = weights[on] ** (1 / alpha)
  error = factor * ((weights @ grads) @ grads[on].T) - 1
  size = factor * norms[on] * (weights @ norms)
  return np.abs(error), size


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10, 40, 128])
def test_nash(num_tasks):
  grads = _cases(num_tasks)
  weights, certificate = _nash(_grams(grads))
  names = np.repeat(SOLVABLE, 2)
  for name, g, w, residual, converged in zip(
    names,
    grads,
    np.asarray(weights),
    certificate.residual,
    certificate.converged,
    strict=True,
  ):
    if not np.any(g):
      assert np.all(w == 0)
      continue
    error, size = _errors(g, w, 1.0)
    # Entries of the matrix and of `w` are rounded, each by EPS / 2 or so, and
    # the terms of the sums are as large as `size`.
    assert np.all(error <= ROUNDINGS * EPS * (1 + size))
    assert error.max() <= residual + ROUNDINGS * EPS * (1 + size.max())
    # |d|^2 is the sum of 1 + error.
    count = np.sum(np.any(g != 0, axis=1))
    length = np.linalg.norm(w.astype(np.float64) @ g)
    assert abs(length - np.sqrt(count)) <= error.max() * np.sqrt(count)
    if name != "conflicting":
      assert error.max() <= 1e-4 and converged
      assert abs(length - np.sqrt(count)) <= 1e-5 * np.sqrt(count)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 8.0])
def test_fairness(alpha):
  for num_tasks in (3, 10):
    families = ("iid", "conflicting", "aligned", "rank_deficient")
    if alpha >= 1:
      families += ("scaled_1e2",)
    grads = _cases(num_tasks, families)
    weights, _ = _fair(_grams(grads), np.float32(alpha))
    for g, w in zip(grads, np.asarray(weights), strict=True):
      error, size = _errors(g, w, alpha)
      bound = ROUNDINGS * EPS * (1 + size)
      assert np.all(error <= bound)
      best = reference.fairness(g, alpha) @ g
      ours = w.astype(np.float64) @ g
      # In relative terms the matrix of the equations is at least 1 / alpha on
      # the diagonal, and its rows are no longer than `size`.
      factor = max(1.0, alpha) * np.sqrt(num_tasks) * (1 + size.max())
      assert np.linalg.norm(ours - best) <= factor * bound.max() * (
        np.linalg.norm(best)
      )
      if size.max() < 10:
        assert np.linalg.norm(ours - best) <= 1e-4 * np.linalg.norm(best)


@pytest.mark.parametrize("num_tasks", [3, 10])
def test_residual_is_what_is_left(num_tasks):
  grads = _cases(num_tasks, ("iid", "conflicting", "scaled_1e2", "aligned"))
  grams = _grams(grads)
  for alpha in (1.0, 2.0):
    weights, certificate = _fair(grams, np.float32(alpha))
    for gram, w, residual in zip(
      grams.astype(np.float64),
      np.asarray(weights, np.float64),
      np.asarray(certificate.residual),
      strict=True,
    ):
      factor = w ** (1 / alpha)
      error = np.abs(factor * (gram @ w) - 1)
      size = factor * (np.abs(gram) @ w)
      # Of the float32 matrix: a cosine takes two roots and two divisions of
      # half a rounding each, which makes 2; a weight half of one; the sum of
      # its T terms about one more.
      bound = 4 * EPS * (1 + size)
      assert np.all(error <= bound)
      assert abs(residual - error.max()) <= bound.max()


def test_large_alpha_and_scales():
  # Where the terms of an equation are not beyond all digits of float32 (at
  # lengths of 1e-6 to 1e6 they are, for most of the rows, with alpha = 8).
  grads = _cases(3, ("scaled_1e2", "zero_rows", "iid"))
  for alpha in (4.0, 8.0):
    weights, certificate = _fair(_grams(grads), np.float32(alpha))
    assert certificate.converged.all()
    for g, w in zip(grads, np.asarray(weights), strict=True):
      error, size = _errors(g, w, alpha)
      assert np.all(error <= ROUNDINGS * EPS * (1 + size))
  grads = [
    matrices.scaled_1e6(np.random.default_rng(k), 2, 9) for k in range(9)
  ]
  weights, _ = _fair(_grams(grads), np.float32(2.0))
  for g, w in zip(grads, np.asarray(weights), strict=True):
    error, size = _errors(g, w, 2.0)
    # The powers of such lengths, and of their mean, are roundings of their own.
    assert np.all(error <= 2 * ROUNDINGS * EPS * (1 + size))


def test_alpha_one_is_nash():
  grads = _cases(10)
  grams = _grams(grads)
  nash, _ = _nash(grams)
  fair, _ = _fair(grams, np.float32(1))
  for g, a, b in zip(grads, np.asarray(nash), np.asarray(fair), strict=True):
    _, size = _errors(g, a, 1.0)
    np.testing.assert_allclose(
      a, b, rtol=2 * ROUNDINGS * EPS * (1 + size.max()) * np.sqrt(10)
    )


def test_two_tasks_are_unit_gradients():
  # Nash-MTL, IMTL-G and g_1 / n_1 + g_2 / n_2 are parallel.
  rng = np.random.default_rng(0)
  grads = rng.standard_normal((100, 2, 5)) * [[[1.0], [30.0]]]
  grams = _grams(grads)
  nash, certificate = _nash(grams)
  assert certificate.converged.all()
  imtl = jax.jit(jax.vmap(spectral.equal_projections))(grams)[0]
  norms = np.linalg.norm(grads, axis=2)
  cosines = np.sum(grads[:, 0] * grads[:, 1], axis=1) / norms.prod(axis=1)
  exact = 1 / (norms * np.sqrt(1 + cosines)[:, None])
  # The root halves the error of 1 + cos, the others add to it.
  rtol = 8 * EPS / (1 + cosines).min()
  np.testing.assert_allclose(nash, exact, rtol=rtol)
  exact = exact / exact.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(imtl, exact, rtol=rtol)


def test_stationary_points_have_no_solution():
  rng = np.random.default_rng(1)
  grads = np.stack([matrices.stationary(rng, 3, 8) for _ in range(30)])
  grads[0] = [[1.0] + [0.0] * 7, [-2.0] + [0.0] * 7, [0.0] * 8]
  for solve in (_nash, lambda m: _fair(m, np.float32(2))):
    weights, certificate = solve(_grams(grads))
    assert np.isfinite(weights).all() and np.all(weights >= 0)
    assert np.all(certificate.status == Status.STATIONARY)
    # They point where the gradients cancel.
    for g, w in zip(grads, np.asarray(weights, np.float64), strict=True):
      size = w @ np.linalg.norm(g, axis=1)
      assert np.linalg.norm(w @ g) <= 0.03 * size


def test_scale_permutation_and_active():
  rng = np.random.default_rng(2)
  grads = rng.standard_normal((20, 8, 20))
  grams = _grams(grads)
  nash, _ = _nash(grams)
  fair, _ = _fair(grams, np.float32(2))
  # Entries are rounded anew after scaling; iid gradients hardly cancel.
  rtol = 64 * EPS
  for scale in (1e-15, 1e15):
    scaled = (grams.astype(np.float64) * scale**2).astype(np.float32)
    found, certificate = _nash(scaled)
    assert certificate.converged.all()
    np.testing.assert_allclose(found * np.float32(scale), nash, rtol=rtol)
    found, certificate = _fair(scaled, np.float32(2))
    assert certificate.converged.all()
    power = np.float32(scale ** (4 / 3))
    # The exponential of a logarithm of up to 35 is off by that many roundings.
    np.testing.assert_allclose(found * power, fair, rtol=rtol + 80 * EPS)
  order = rng.permutation(8)
  found, _ = _nash(grams[:, order][:, :, order])
  np.testing.assert_allclose(found, nash[:, order], rtol=rtol)
  active = rng.random((20, 8)) < 0.6
  dirty = np.where(active[:, :, None] & active[:, None, :], grams, np.nan)
  found, certificate = _nash(dirty, active=active)
  assert certificate.converged.all()
  for g, mask, w in zip(grads, active, np.asarray(found), strict=True):
    assert np.all(w[~mask] == 0)
    if mask.any():
      np.testing.assert_allclose(
        w[mask], reference.fairness(g[mask], 1.0), rtol=rtol
      )


def test_nan_is_not_hidden():
  grams = np.stack([np.eye(8, dtype=np.float32)] * 20)
  grams[:, 0, 1] = np.nan
  active = np.ones((20, 8), bool)
  active[:, 7] = False
  found, certificate = _nash(grams, active=active)
  assert np.isnan(found[:, :7]).all() and np.all(found[:, 7] == 0)
  assert not certificate.converged.any()


@pytest.mark.parametrize("x64", [False, True])
def test_dtypes(x64):
  with jax.enable_x64(x64):
    dtype = jnp.float64 if x64 else jnp.float32
    grads = np.random.default_rng(3).standard_normal((6, 20))
    for alpha in (1.0, 2.0):
      found, certificate = jax.jit(bargaining.fairness)(
        jnp.asarray(grads @ grads.T, dtype), alpha
      )
      assert found.dtype == dtype and not found.weak_type
      assert certificate.residual.dtype == dtype
      assert certificate.iterations.dtype == jnp.int32
      assert certificate.status.dtype == jnp.int32 and certificate.converged
      if x64:
        np.testing.assert_allclose(
          found, reference.fairness(grads, alpha), rtol=1e-10
        )


def test_errors():
  for alpha in (0.0, -1.0, float("inf")):
    with pytest.raises(ValueError, match="alpha must lie in"):
      bargaining.fairness(jnp.eye(3), alpha)
