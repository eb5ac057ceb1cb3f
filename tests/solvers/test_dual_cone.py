"""Projection on the dual cone: exact values, KKT, a float64 reference."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import SIZES, Batched

from benchmarks.common import matrices
from benchmarks.reference.solvers import dual_cone as reference
from optax_mtl.solvers import _gradient_blocks, dual_cone

EPS = float(np.finfo(np.float32).eps)
TOL = 16 * EPS
NUMBERS = (1, 2, 3, 10, 40)
# Families where rounding the Gram matrix to float32 changes the projections by
# less than 1e-5 once there are more parameters than tasks.
BENIGN = (
  "iid",
  "aligned",
  "duplicate_rows",
  "rank_deficient",
  "scaled_1e2",
  "scaled_1e6",
  "zero_rows",
  "identical",
)


def _one(gram, active, vectors):
  return dual_cone.project_dual_cone(gram, vectors, active=active)


# A matrix of 128 tasks is 128 problems.
_project = Batched(_one, SIZES | {128: 1})


def _upgrad(grams):
  count, num_tasks = grams.shape[:2]
  eye = np.tile(np.eye(num_tasks, dtype=np.float32), (count, 1, 1))
  return _project(grams, rows=[eye])


@functools.cache
def _cases(num_tasks):
  """Every family, few and many parameters."""
  cases = []
  for name, family in matrices.FAMILIES.items():
    for num_params in (max(2, num_tasks // 2), num_tasks + 1, 4 * num_tasks):
      seed = zlib.crc32(f"{name}{num_tasks}{num_params}".encode())
      rng = np.random.default_rng(seed)
      cases.append((name, num_params, family(rng, num_tasks, num_params)))
  return cases


@functools.cache
def _solved(num_tasks):
  grams = np.stack([matrices.gram32(g) for _, _, g in _cases(num_tasks)])
  return _upgrad(grams)


def _check_kkt(cases, coefficients, certificate):
  eye = np.eye(len(cases[0][2]))
  for (name, num_params, grads), found, residual in zip(
    cases, coefficients, certificate.residual, strict=True
  ):
    label = f"{name} {num_params}"
    found = found.astype(np.float64)
    assert np.all(found >= eye), label
    norms = np.linalg.norm(grads, axis=1)
    safe = np.where(norms > 0, norms, 1)
    slopes = (found @ grads) @ grads.T / safe
    size = (found @ norms)[:, None]
    # The certificate is computed from the rounded matrix, in float32: the
    # entries are off by EPS / 2, sums of T products by a few EPS.
    bound = (residual + 4 * EPS) * size
    assert np.all(slopes >= -bound), label
    raised = found > eye
    assert np.all(
      np.abs(slopes[raised]) <= np.broadcast_to(bound, slopes.shape)[raised]
    ), label


@pytest.mark.parametrize("num_tasks", NUMBERS)
def test_kkt(num_tasks):
  coefficients, certificate = _solved(num_tasks)
  _check_kkt(_cases(num_tasks), coefficients, certificate)
  # Gradients whose condition number is beyond float32 may fail to converge.
  hard = [n == "ill_conditioned" for n, _, _ in _cases(num_tasks)]
  assert np.all(certificate.converged | hard)
  assert np.all(certificate.residual[~np.array(hard)] <= TOL)
  assert np.all(certificate.residual <= 1e-4)


@pytest.mark.parametrize("num_tasks", [64, 128])
def test_many_tasks(num_tasks):
  # Fewer parameters than tasks, so that rows depend on each other, and more.
  rng = np.random.default_rng(num_tasks)
  cases = [
    (name, num_params, matrices.FAMILIES[name](rng, num_tasks, num_params))
    for name in ("conflicting", "duplicate_rows", "scaled_1e2", "zero_rows")
    for num_params in (num_tasks // 2, 3 * num_tasks)
  ]
  grams = np.stack([matrices.gram32(g) for *_, g in cases])
  coefficients, certificate = _upgrad(grams)
  _check_kkt(cases, coefficients, certificate)
  assert np.all(certificate.residual <= TOL)


def test_gradient_steps_are_few():
  rng = np.random.default_rng(6)
  for name, most in (("iid", 25), ("aligned", 25), ("conflicting", 40)):
    grams = [
      matrices.gram32(matrices.FAMILIES[name](rng, 40, 160)) for _ in range(8)
    ]
    _, certificate = _upgrad(np.stack(grams))
    assert np.all(certificate.residual <= TOL / 8), name
    # So few that the driver took no step.
    assert np.all(certificate.iterations <= most), name


def test_driver_alone(monkeypatch):
  # What solves the rows that the gradients leave has to solve everything.
  grams = np.stack(
    [matrices.gram32(g) for n, _, g in _cases(40) if n != "ill_conditioned"]
  )
  monkeypatch.setattr(_gradient_blocks, "_MOST", 0)
  found, certificate = jax.jit(
    jax.vmap(lambda m: dual_cone.project_dual_cone(m, jnp.eye(40)[:5]))
  )(grams)
  assert certificate.converged.all()
  monkeypatch.undo()
  usual = _upgrad(grams)[0][:, :5]
  for gram, v, w in zip(grams.astype(float), found, usual, strict=True):
    lengths = np.sqrt(np.diagonal(gram))
    for one, other in zip(np.float64(v), np.float64(w), strict=True):
      # The bound of the docstring, for two answers.
      size = max(one @ lengths, other @ lengths)
      bound = 8 * (TOL + 4 * EPS) * size * size
      assert abs(one @ gram @ one - other @ gram @ other) <= bound


@pytest.mark.parametrize("num_tasks", NUMBERS)
def test_reference(num_tasks):
  coefficients, certificate = _solved(num_tasks)
  checked = 0
  for (name, num_params, grads), found, residual in zip(
    _cases(num_tasks), coefficients, certificate.residual, strict=True
  ):
    norms = np.linalg.norm(grads, axis=1)
    for task in range(0, num_tasks, max(1, num_tasks // 8)):
      best = reference.project_dual_cone(grads, np.eye(num_tasks)[task])
      ours = found[task].astype(np.float64)
      length = np.linalg.norm(ours @ grads)
      shortest = np.linalg.norm(best @ grads)
      # The bound of the docstring: convexity, with a Gram matrix whose entries
      # are off by EPS / 2 and a residual computed to a few EPS.
      size, best_size = ours @ norms, best @ norms
      bound = 2 * (residual + 4 * EPS) * size * (size + best_size)
      label = f"{name} {num_params} {task}"
      assert abs(length**2 - shortest**2) <= bound, label
      if name in BENIGN and num_params > num_tasks:
        assert abs(length - shortest) <= 1e-5 * norms[task], label
        checked += 1
  assert checked


def test_large():
  rng = np.random.default_rng(0)
  grads = matrices.conflicting(rng, 128, 300)
  found, certificate = _upgrad(matrices.gram32(grads)[None])
  assert certificate.converged.all()
  for task in (0, 64, 127):
    best = reference.project_dual_cone(grads, np.eye(128)[task]) @ grads
    ours = np.asarray(found[0, task], np.float64) @ grads
    assert np.linalg.norm(ours - best) <= 1e-5 * np.linalg.norm(best)


def test_two_tasks():
  # v_1 = (1, max(0, -cos n_1 / n_2)): PCGrad's projection, whose sum over the
  # tasks is twice the mean of UPGrad.
  rng = np.random.default_rng(1)
  grads = rng.standard_normal((200, 2, 3))
  found = np.asarray(_upgrad(np.stack([matrices.gram32(g) for g in grads]))[0])
  for g, v in zip(grads, found, strict=True):
    dot = min(g[0] @ g[1], 0)
    first = g[0] - dot / (g[1] @ g[1]) * g[1]
    second = g[1] - dot / (g[0] @ g[0]) * g[0]
    scale = np.linalg.norm(g, axis=1)
    # The exact multiplier is a quotient of float32 entries.
    np.testing.assert_allclose(v[0] @ g, first, atol=8 * EPS * scale.sum() * 2)
    np.testing.assert_allclose(v[1] @ g, second, atol=8 * EPS * scale.sum() * 2)


def test_opposite_gradients_project_on_zero():
  grads = np.array([[2.0, 0.0], [-3.0, 0.0]])
  found, certificate = _upgrad(matrices.gram32(grads)[None])
  np.testing.assert_allclose(found[0], [[1, 2 / 3], [3 / 2, 1]], rtol=4 * EPS)
  assert certificate.converged[0]


def _masked_case(num_tasks=10, count=30):
  rng = np.random.default_rng(2)
  grads = np.stack(
    [matrices.conflicting(rng, num_tasks, num_tasks + 4) for _ in range(count)]
  )
  active = rng.random((count, num_tasks)) < 0.6
  active[:, 0] = True
  vectors = rng.random((count, num_tasks, num_tasks)).astype(np.float32)
  return grads, active, vectors


def test_active_is_the_sub_problem():
  grads, active, vectors = _masked_case()
  grams = np.stack([matrices.gram32(g) for g in grads])
  # Whatever stands in the rows of an inactive task must not matter.
  off = ~(active[:, :, None] & active[:, None, :])
  grams[off] = np.nan
  found, certificate = _project(grams, active=active, rows=[vectors])
  assert certificate.converged.all()
  assert np.all(
    np.asarray(found)[~np.broadcast_to(active[:, None], vectors.shape)] == 0
  )
  for g, mask, u, v in zip(grads, active, vectors, found, strict=True):
    for row, ours in zip(u, np.asarray(v, np.float64), strict=True):
      best = reference.project_dual_cone(g[mask], row[mask].astype(np.float64))
      best = best @ g[mask]
      # Conflicting gradients cancel: |v|_1 / |d| is about 10 here.
      assert np.linalg.norm(ours @ g - best) <= 1e-4 * np.linalg.norm(best)


def test_scale_and_permutation():
  grads, _, vectors = _masked_case()
  rng = np.random.default_rng(3)
  grams = np.stack([matrices.gram32(g) for g in grads])
  base, _ = _project(grams, rows=[vectors])
  for scale in (1e-15, 1e15):
    scaled = (grams.astype(np.float64) * scale**2).astype(np.float32)
    found, certificate = _project(scaled, rows=[vectors])
    assert certificate.converged.all()
    # Rounding of the scaled entries, magnified by the cancellation.
    np.testing.assert_allclose(found, base, rtol=2e-3, atol=2e-3)
  order = rng.permutation(grams.shape[1])
  found, _ = _project(grams[:, order][:, :, order], rows=[vectors[:, :, order]])
  np.testing.assert_allclose(found, base[:, :, order], rtol=2e-3, atol=2e-3)
  # A power of two changes nothing but the exponents.
  found, _ = _project(grams * np.float32(2.0**40), rows=[vectors])
  np.testing.assert_array_equal(found, base)


def test_nan_is_not_hidden():
  grams = np.stack([np.eye(3, dtype=np.float32)] * 2)
  grams[0, 0, 1] = np.nan
  grams[1, 1, 1] = np.inf
  found, certificate = _upgrad(grams)
  assert np.isnan(found).all() and np.isnan(certificate.residual).all()
  assert not certificate.converged.any()


def test_negative_vectors_and_zero_rows():
  grads = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
  vectors = np.array([[-1.0, -2.0, 0.5]], np.float32)
  vectors = np.tile(vectors, (1, 3, 1))
  found, _ = _project(matrices.gram32(grads)[None], rows=[vectors])
  np.testing.assert_allclose(found[0], [[0.0, -2.0, 0.5]] * 3, atol=EPS)


def test_vmap_is_the_loop():
  rng = np.random.default_rng(4)
  grads = rng.standard_normal((1000, 4, 5))
  grams = np.stack([matrices.gram32(g) for g in grads])
  found, certificate = _upgrad(grams)
  assert certificate.converged.all()
  single = jax.jit(lambda m: dual_cone.project_dual_cone(m, jnp.eye(4))[0])
  for index in range(0, 1000, 100):
    np.testing.assert_allclose(
      found[index], single(grams[index]), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("x64", [False, True])
def test_dtypes(x64):
  with jax.enable_x64(x64):
    dtype = jnp.float64 if x64 else jnp.float32
    solve = jax.jit(dual_cone.project_dual_cone)
    rng = np.random.default_rng(5)
    grads = matrices.conflicting(rng, 6, 20)
    found, certificate = solve(
      jnp.asarray(grads @ grads.T, dtype), jnp.eye(6, dtype=dtype)
    )
    assert found.dtype == dtype and not found.weak_type
    assert certificate.residual.dtype == dtype
    assert certificate.iterations.dtype == jnp.int32
    assert certificate.status.dtype == jnp.int32 and certificate.converged
    if x64:
      best = reference.project_dual_cone(grads, np.eye(6)[2]) @ grads
      np.testing.assert_allclose(found[2] @ grads, best, rtol=1e-9, atol=1e-12)


def test_errors():
  for vectors in (jnp.ones(3), jnp.ones((2, 4)), jnp.ones((1, 2, 3))):
    with pytest.raises(ValueError, match="vectors must have shape"):
      dual_cone.project_dual_cone(jnp.eye(3), vectors)
