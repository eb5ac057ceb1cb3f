"""CAGrad's weights: optimality by the duality gap, exact values, edges."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import Batched

from benchmarks.common import matrices
from benchmarks.reference.solvers import conflict_averse as reference
from optax_mtl import solvers
from optax_mtl.solvers import conflict_averse

EPS = float(np.finfo(np.float32).eps)
TOL = 16 * EPS
CS = (0.1, 0.5, 0.9, 1.5)


@Batched
def _solve(gram, active, c):
  return conflict_averse.cagrad_weights(gram, c, active=active)


@functools.cache
def _cases(num_tasks):
  cases = []
  for name, family in matrices.FAMILIES.items():
    for num_params in (max(2, num_tasks // 3), num_tasks + 1, 4 * num_tasks):
      seed = zlib.crc32(f"{name}{num_tasks}{num_params}".encode())
      rng = np.random.default_rng(seed)
      cases.append((name, num_params, family(rng, num_tasks, num_params)))
  return cases


def _grams(grads):
  return np.stack([matrices.gram32(g) for g in grads])


def _check_optimal(cases, c):
  num_tasks = len(cases[0][2])
  weights, certificate = _solve(_grams([g for *_, g in cases]), np.float32(c))
  weights = np.asarray(weights, np.float64)
  assert np.all(weights >= 0)
  # Rows that cancel to rounding leave a few times the tolerance.
  easy = np.array([n != "ill_conditioned" for n, *_ in cases])
  assert np.all(certificate.converged[easy])
  assert np.all(certificate.residual <= 8 * TOL)
  for (name, num_params, grads), w, residual in zip(
    cases, weights, certificate.residual, strict=True
  ):
    label = f"{name} {num_params}"
    norms = np.linalg.norm(grads, axis=1)
    on = norms > 0
    assert np.all(w[~on] == 0)
    if not on.any():
      continue
    # The weights are rounded.
    np.testing.assert_allclose(w.sum(), 1, atol=4 * EPS * num_tasks)
    # The mean is over all tasks, so that leaving out zero rows scales it: it
    # changes no minimiser.
    g, w, norms = grads[on], w[on] / w.sum(), norms[on]
    mean = np.linalg.norm(g.mean(axis=0))
    combined = np.linalg.norm(w @ g)
    size = w @ norms
    if combined**2 <= (residual + 8 * EPS) * size**2:
      # Zero to rounding: the kink. The objective is 0 there, within the root
      # of a rounding.
      assert c >= 1 or name in ("stationary", "conflicting", "ill_conditioned")
      continue
    # A residual of r, in units of the coefficients' sum `total`, is a gap of
    # 2 r total size: the gap sums the excess of the support and the least gain
    # outside it. Rounding of the matrix and of the gains is a few EPS more.
    pull = c * mean / combined
    total = norms.mean() + pull * size
    # The level is an average over the support; by unit gradient, a difference
    # to it counts with the length of the gradient.
    bound = (residual + 8 * EPS) * total * (size + norms.max())
    assert reference.gap(g, w, c) <= bound, label


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("c", CS)
def test_optimal(num_tasks, c):
  _check_optimal(_cases(num_tasks), c)


MANY = ("iid", "conflicting", "aligned", "duplicate_rows", "scaled_1e2")


@pytest.mark.parametrize("num_tasks", [64, 128])
def test_many_tasks(num_tasks):
  # Fewer parameters than tasks, so that rows depend on each other, and more.
  rng = np.random.default_rng(num_tasks)
  cases = [
    (name, num_params, matrices.FAMILIES[name](rng, num_tasks, num_params))
    for name in MANY
    for num_params in (num_tasks // 2, 3 * num_tasks)
  ]
  _check_optimal(cases, 0.5)


def test_blocks_take_few_steps():
  rng = np.random.default_rng(5)
  for num_tasks in (10, 40):
    for name in (*MANY, "zero_rows", "identical"):
      family = matrices.FAMILIES[name]
      grads = [family(rng, num_tasks, 4 * num_tasks) for _ in range(8)]
      _, certificate = _solve(_grams(grads), np.float32(0.5))
      assert certificate.converged.all()
      # Below the limit on blocks: no search followed. 6 are usual; how many a
      # compiler's roundings make of them on equal rows is not ours to say.
      assert certificate.iterations.max() < conflict_averse._BLOCKS, name


def test_search_alone(monkeypatch):
  # What solves where blocks do not settle has to solve everything.
  rng = np.random.default_rng(6)
  grads = [matrices.FAMILIES[n](rng, 10, p) for n in MANY for p in (5, 40)]
  found, _ = _solve(_grams(grads), np.float32(0.5))
  monkeypatch.setattr(conflict_averse, "_BLOCKS", 0)
  alone, certificate = jax.jit(
    jax.vmap(lambda gram: conflict_averse.cagrad_weights(gram, 0.5))
  )(_grams(grads))
  assert certificate.converged.all()
  assert certificate.iterations.max() > 6
  for g, v, w in zip(grads, found, alone, strict=True):
    v, w = np.asarray(v, np.float64), np.asarray(w, np.float64)
    # Weights are not unique where rows coincide; the objective is. Two
    # residuals of at most TOL are two gaps, in units as in `_check_optimal`.
    scale = np.linalg.norm(g, axis=1).max() * np.linalg.norm(g.mean(axis=0))
    norms = np.linalg.norm(g, axis=1)
    scale += norms.mean() * norms.max()
    difference = reference.objective(g, v, 0.5) - reference.objective(g, w, 0.5)
    assert abs(difference) <= 8 * TOL * scale


def test_well_scaled_accuracy():
  for num_tasks in (3, 10, 40):
    rng = np.random.default_rng(num_tasks)
    grads = rng.standard_normal((8, num_tasks, 4 * num_tasks))
    weights, certificate = _solve(_grams(grads), np.float32(0.5))
    assert certificate.converged.all()
    for g, w in zip(grads, np.asarray(weights, np.float64), strict=True):
      best = abs(reference.objective(g, w, 0.5))
      assert reference.gap(g, w, 0.5) <= 1e-5 * max(
        best, np.linalg.norm(g.mean(axis=0)) * np.linalg.norm(w @ g)
      )


def test_two_tasks():
  rng = np.random.default_rng(0)
  grads = rng.standard_normal((60, 2, 3))
  for c in CS:
    weights, _ = _solve(_grams(grads), np.float32(c))
    for g, w in zip(grads, np.asarray(weights, np.float64), strict=True):
      best = reference.two_tasks(g, c)
      scale = np.linalg.norm(g.mean(axis=0)) * np.linalg.norm(g, axis=1).max()
      assert reference.objective(g, w, c) <= best + 1e-5 * scale


def test_limits():
  # A large c leaves the min-norm point, c = 0 the task that the mean helps
  # least.
  rng = np.random.default_rng(1)
  grads = rng.standard_normal((20, 10, 30))
  grams = _grams(grads)
  weights, _ = _solve(grams, np.float32(1e6))
  shortest, _ = jax.jit(jax.vmap(solvers.min_norm))(grams)
  np.testing.assert_allclose(weights, shortest, atol=1e-5)
  weights, _ = _solve(grams, np.float32(0))
  least = np.argmin(np.einsum("nij->ni", grams), axis=1)
  np.testing.assert_array_equal(np.argmax(weights, axis=1), least)


def test_mean_is_zero_or_gradients_are_opposite():
  # Exactly representable, so that the mean is exactly zero in the first.
  grads = np.array(
    [
      [[1.0, 2.0], [-1.0, -2.0]],
      [[1.0, 0.0], [-2.0, 0.0]],
      [[3.0, 0.0], [-2.0, 0.0]],
    ]
  )
  for c in CS:
    weights, certificate = _solve(_grams(grads), np.float32(c))
    weights = np.asarray(weights)
    assert np.isfinite(weights).all() and certificate.converged.all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=4 * EPS)
    if c < 1:
      # d = (1 - c) mean: the task against the mean has all the weight.
      np.testing.assert_allclose(weights[1:], [[1, 0], [0, 1]], atol=EPS)
    else:
      np.testing.assert_allclose(
        weights[1:], [[2 / 3, 1 / 3], [2 / 5, 3 / 5]], rtol=1e-3
      )


def test_scale_permutation_and_active():
  rng = np.random.default_rng(2)
  grads = rng.standard_normal((20, 8, 20))
  grams = _grams(grads)
  base, _ = _solve(grams, np.float32(0.5))
  # Two optimal weights differ by the tolerance times the condition number,
  # which is about 16 here.
  atol = 64 * TOL
  for scale in (1e-15, 1e15):
    scaled = (grams.astype(np.float64) * scale**2).astype(np.float32)
    found, certificate = _solve(scaled, np.float32(0.5))
    assert certificate.converged.all()
    np.testing.assert_allclose(found, base, atol=atol)
  order = rng.permutation(8)
  found, _ = _solve(grams[:, order][:, :, order], np.float32(0.5))
  np.testing.assert_allclose(found, base[:, order], atol=atol)
  active = rng.random((20, 8)) < 0.6
  dirty = np.where(active[:, :, None] & active[:, None, :], grams, np.nan)
  found, certificate = _solve(dirty, np.float32(0.5), active=active)
  assert certificate.converged.all()
  for g, mask, w in zip(grads, active, np.asarray(found), strict=True):
    assert np.all(w[~mask] == 0)
    if mask.any():
      g, w = g[mask], w[mask].astype(np.float64)
      length = np.linalg.norm(g.mean(axis=0)) * np.linalg.norm(w @ g)
      assert reference.gap(g, w, 0.5) <= 1e-5 * length


def test_nan_is_not_hidden():
  grams = np.stack([np.eye(8, dtype=np.float32)] * 20)
  grams[:, 0, 1] = np.nan
  active = np.ones((20, 8), bool)
  active[:, 7] = False
  found, certificate = _solve(grams, np.float32(0.5), active=active)
  assert np.isnan(found[:, :7]).all() and np.all(found[:, 7] == 0)
  assert not certificate.converged.any()


def test_a_thousand_at_once():
  rng = np.random.default_rng(3)
  grads = rng.standard_normal((1000, 4, 3))
  weights, certificate = _solve(_grams(grads), np.float32(0.5))
  assert np.mean(certificate.converged) > 0.99
  assert np.isfinite(weights).all()
  # A residual is relative to the coefficients; a miss must still be a near one.
  assert certificate.residual.max() <= 1e-3


@pytest.mark.parametrize("x64", [False, True])
def test_dtypes(x64):
  with jax.enable_x64(x64):
    dtype = jnp.float64 if x64 else jnp.float32
    grads = matrices.conflicting(np.random.default_rng(4), 6, 20)
    found, certificate = jax.jit(conflict_averse.cagrad_weights)(
      jnp.asarray(grads @ grads.T, dtype), 0.5
    )
    assert found.dtype == dtype and not found.weak_type
    assert certificate.residual.dtype == dtype
    assert certificate.iterations.dtype == jnp.int32
    assert certificate.status.dtype == jnp.int32 and certificate.converged
    if x64:
      found = np.asarray(found)
      length = np.linalg.norm(grads.mean(axis=0))
      length *= np.linalg.norm(found @ grads)
      assert reference.gap(grads, found, 0.5) <= 1e-10 * length


def test_hard_ones_are_solved():
  # Of these, blocks alone leave some with residuals of 1e-2 and more.
  rng = np.random.default_rng(7)
  for name, c in (
    ("ill_conditioned", 0.5),
    ("stationary", 0.9),
    ("stationary", 2.0),
    ("scaled_1e6", 0.5),
  ):
    family = matrices.FAMILIES[name]
    grads = [family(rng, 10, p) for p in 40 * (3, 11)]
    _, certificate = _solve(_grams(grads), np.float32(c))
    assert np.all(certificate.residual <= 4 * TOL), name
    assert np.mean(certificate.converged) > 0.95, name


def test_errors():
  with pytest.raises(ValueError, match="c must lie in"):
    conflict_averse.cagrad_weights(jnp.eye(2), -0.1)
