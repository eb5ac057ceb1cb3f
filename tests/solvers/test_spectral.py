"""IMTL-G, ConFIG and Aligned-MTL against closed forms on the gradients."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import Batched

from benchmarks.common import matrices
from benchmarks.reference.solvers import spectral as reference
from optax_mtl.solvers import Status, spectral

EPS = float(np.finfo(np.float32).eps)
# Independent rows, whose unit Gram matrix has a condition number below 1e3.
INDEPENDENT = ("iid", "scaled_1e2", "scaled_1e6")


# Both sides of the number of tasks from which all decompose the same.
SIZES = {10: 32, 24: 16, 40: 8}


def _two(gram, active):
  """Both answers [2, T], and their certificates."""
  found = [
    spectral.equal_projections(gram, active=active),
    spectral.conflict_free_direction(gram, active=active),
  ]
  return jax.tree.map(lambda *x: jnp.stack(x), *found)


_two = Batched(_two, SIZES)


@functools.cache
def _batched_aligned(scale):
  def solve(gram, active, preference):
    return spectral.aligned_weights(
      gram, preference=preference, scale=scale, active=active
    )

  return Batched(solve, SIZES)


def _aligned(grams, preference, scale):
  return _batched_aligned(scale)(grams, rows=[preference])


def _solve(grams, active=None):
  """For each of both, the answers [N, T] and their certificates."""
  answers, certificates = _two(grams, active=active)
  return tuple(
    (answers[:, i], jax.tree.map(lambda leaf, i=i: leaf[:, i], certificates))
    for i in range(2)
  )


def _both(grads):
  return _solve(np.stack([matrices.gram32(g) for g in grads]))


def _cases(num_tasks, families, num_params):
  grads = []
  for name in families:
    seed = zlib.crc32(f"{name}{num_tasks}{num_params}".encode())
    rng = np.random.default_rng(seed)
    grads.append(matrices.FAMILIES[name](rng, num_tasks, num_params))
  return grads


def _condition(grads):
  norms = np.linalg.norm(grads, axis=1, keepdims=True)
  return np.linalg.cond(grads / np.where(norms > 0, norms, 1)) ** 2


@pytest.mark.parametrize("num_tasks", [2, 3, 10, 40])
def test_equal_projections(num_tasks):
  grads = _cases(num_tasks, INDEPENDENT, 4 * num_tasks)
  (imtl, imtl_certificate), (config, config_certificate) = _both(grads)
  assert imtl_certificate.converged.all()
  assert config_certificate.converged.all()
  for g, w, c in zip(grads, imtl, config, strict=True):
    # An eigendecomposition is off by a few T roundings, the inverse by that
    # times the condition number.
    rtol = 4 * EPS * num_tasks * _condition(g)
    assert rtol < 1e-1
    best = reference.equal_projections(g)
    update, found = best @ g, w.astype(np.float64) @ g
    assert np.linalg.norm(found - update) <= rtol * np.linalg.norm(update) * (
      np.abs(best).sum()
    )
    direction = reference.conflict_free_direction(g)
    assert np.linalg.norm(c.astype(np.float64) @ g - direction) <= rtol
    # IMTL-G and ConFIG are parallel.
    cosine = found @ direction / np.linalg.norm(found)
    assert abs(abs(cosine) - 1) <= rtol


@pytest.mark.parametrize("num_tasks", [3, 10])
def test_equal_projections_add_little_to_the_rounding(num_tasks):
  families = (*INDEPENDENT, "conflicting", "aligned")
  grads = _cases(num_tasks, families, 4 * num_tasks)
  (imtl, imtl_certificate), (config, config_certificate) = _both(grads)
  for residual in (imtl_certificate.residual, config_certificate.residual):
    # Two roundings of an entry, one of a coefficient, and those of the sums.
    assert np.all(residual <= 8 * EPS)
  for g, w, c in zip(grads, imtl, config, strict=True):
    gram = matrices.gram32(g).astype(np.float64)
    norms = np.sqrt(np.diag(gram))
    best = np.linalg.solve(gram / norms[:, None] / norms, np.ones(num_tasks))
    # Moving the entries of the matrix of cosines by two roundings each, as
    # forming it in float32 does, moves the solution by `T` times that over
    # its smallest eigenvalue; the solver may add as much.
    smallest = np.linalg.eigvalsh(gram / norms[:, None] / norms)[0]
    rtol = 2 * 2 * EPS * num_tasks / smallest
    atol = rtol * np.abs(best).max() / norms
    best = best / norms
    scale = np.sqrt(best @ gram @ best)
    # Errors of the entries add up in what normalises them.
    total = 1 + np.abs(best).sum() / abs(best.sum())
    for found, factor in ((w, 1 / best.sum()), (c, 1 / scale)):
      bound = atol * abs(factor) * total
      assert np.all(np.abs(found - best * factor) <= bound)


@pytest.mark.parametrize("num_params", [1, 2, 3, 6, 9])
def test_one_task_more_than_params(num_params):
  # The paper's closed form is regular here, and its combination is zero: the
  # only one with equal projections, if these are rows in general position.
  rng = np.random.default_rng(num_params)
  num_tasks = num_params + 1
  grads = rng.standard_normal((12, num_tasks, num_params))
  grads[6:] *= 10.0 ** rng.uniform(-3, 3, (6, num_tasks, 1))
  if num_params == 1:  # Otherwise both may point the same way.
    grads[:, 1] = -np.sign(grads[:, 0]) * np.abs(grads[:, 1])
  (imtl, certificate), _ = _both(grads)
  assert np.all(certificate.status == Status.SOLVED)
  for g, w in zip(grads, imtl.astype(np.float64), strict=True):
    best = reference.equal_projections(g)
    norms = np.linalg.norm(g, axis=1)
    assert np.linalg.norm(best @ g) <= 1e-9 * (np.abs(best) @ norms)
    size = np.abs(w) @ norms
    # Of a matrix with `T` roundings of its largest eigenvalue, at most `T`.
    assert np.linalg.norm(w @ g) <= np.sqrt(num_tasks) * 8 * EPS * (
      num_tasks * size
    )
    # The null space turns by the rounding over the smallest eigenvalue that is
    # not zero, and the sum that normalises it adds the weights' cancellation.
    unit = g / norms[:, None]
    kept = np.linalg.eigvalsh(unit @ unit.T)[1]
    rtol = 4 * EPS * num_tasks / kept * (1 + np.abs(best).sum())
    assert np.all(np.abs(w - best) * norms <= rtol * (np.abs(best) @ norms))


def test_dependent_gradients():
  # In the first the third row is between the other two, and the combination
  # that vanishes, [1/2, 1/2, -1], has weights of sum 0: no combination of sum 1
  # has equal projections. In the second it is [1, 1, -1], which has.
  half = np.sqrt(3) / 2
  grads = np.array(
    [
      [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]],
      [[1.0, 0.0], [-0.5, half], [0.5, half]],
    ]
  )
  (imtl, certificate), (config, config_certificate) = _both(grads)
  np.testing.assert_array_equal(
    certificate.status, [Status.STATIONARY, Status.SOLVED]
  )
  np.testing.assert_allclose(imtl[0].sum(), 1, atol=8 * EPS)
  np.testing.assert_allclose(imtl[1], [1, 1, -1], rtol=32 * EPS)
  # No direction has equal cosines: the least-squares one, of length one.
  assert np.all(config_certificate.status == Status.STATIONARY)
  np.testing.assert_allclose(
    np.linalg.norm(np.einsum("nt,ntp->np", config, grads), axis=1),
    1,
    rtol=32 * EPS,
  )


@pytest.mark.parametrize("num_tasks", [3, 10, 40])
def test_aligned_keeps_the_digits_of_short_gradients(num_tasks):
  grads = _cases(num_tasks, ("scaled_1e2", "iid"), 16 * num_tasks)
  grads[1] = grads[1] * np.geomspace(1e-2, 1, num_tasks)[:, None]
  preference = np.full((len(grads), num_tasks), 1 / num_tasks, np.float32)
  grams = np.stack([matrices.gram32(g) for g in grads])
  weights, certificate = _aligned(grams, preference, "min")
  assert certificate.converged.all()
  for g, w in zip(grads, np.asarray(weights), strict=True):
    best = reference.aligned_direction(
      g, np.full(num_tasks, 1 / num_tasks), "min", num_tasks * EPS
    )
    # Lengths differ by a factor of up to 1e4, and with it eigenvalues by 1e8;
    # but only the condition number of the matrix of cosines counts.
    rtol = 4 * EPS * num_tasks * _condition(g)
    assert rtol < 1e-3
    found = w.astype(np.float64) @ g
    assert np.linalg.norm(found - best) <= rtol * np.linalg.norm(best)


def test_one_matrix_or_many():
  # Under vmap both decompositions are made, and one is chosen.
  grads = _cases(20, ("iid", "scaled_1e6", "duplicate_rows"), 80)
  grads.append(_cases(20, ("iid",), 10)[0] @ np.eye(10, 80))
  grams = np.stack([matrices.gram32(g) for g in grads])
  many = _solve(grams)
  equal = np.full((4, 20), 1 / 20, np.float32)
  aligned, _ = _aligned(grams, equal, "min")

  @jax.jit
  def single(gram):
    (imtl, _), (config, _) = (
      spectral.equal_projections(gram),
      spectral.conflict_free_direction(gram),
    )
    return imtl, config, spectral.aligned_weights(gram)[0]

  for row, (g, gram) in enumerate(zip(grads, grams, strict=True)):
    batch = many[0][0][row], many[1][0][row], np.asarray(aligned)[row]
    for found, wanted in zip(single(gram), batch, strict=True):
      # To a rounding where gradients are independent, else to some of those
      # of the eigenvalues; of the terms, as the sum of some vanishes.
      size = np.abs(wanted) @ np.linalg.norm(g, axis=1)
      assert np.linalg.norm((found - wanted) @ g) <= 1e3 * EPS * size
    # The least-norm one of several solutions.
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    inverse = np.linalg.pinv(unit, rcond=1e-4)
    direction = inverse @ np.ones(20)
    direction /= np.linalg.norm(direction)
    rtol = 4 * EPS * 20 * np.linalg.norm(inverse, 2) ** 2
    assert np.linalg.norm(batch[1] @ g - direction) <= rtol


@pytest.mark.parametrize("num_tasks", [1, 3, 10, 24])
def test_every_family_is_finite(num_tasks):
  for num_params in (2, 4 * num_tasks):
    grads = _cases(num_tasks, matrices.FAMILIES, num_params)
    (imtl, _), (config, config_certificate) = _both(grads)
    assert np.isfinite(imtl).all() and np.isfinite(config).all()
    for g, w, c, fine in zip(
      grads, imtl, config, config_certificate.converged, strict=True
    ):
      on = np.any(g != 0, axis=1)
      assert np.all(w[~on] == 0) and np.all(c[~on] == 0)
      if on.any():
        size = np.abs(w).sum()
        assert abs(w.sum() - 1) <= 8 * EPS * num_tasks * size
      if fine and on.any():
        unit = g[on] / np.linalg.norm(g[on], axis=1, keepdims=True)
        direction = c.astype(np.float64) @ g
        cosines = unit @ direction
        size = np.abs(c[on]) @ np.linalg.norm(g[on], axis=1)
        # The certificate's bound, and rounding.
        assert np.ptp(cosines) <= 2 * (64 + 4) * EPS * size


def test_opposite_and_duplicate_gradients():
  grads = np.array(
    [
      [[1.0, 0.0], [-2.0, 0.0]],
      [[1.0, 0.0], [1.0, 0.0]],
      [[3.0, 0.0], [0.0, 0.0]],
    ]
  )
  (imtl, certificate), (config, config_certificate) = _both(grads)
  assert certificate.converged.all()
  np.testing.assert_allclose(
    imtl, [[2 / 3, 1 / 3], [0.5, 0.5], [1, 0]], rtol=8 * EPS
  )
  np.testing.assert_allclose(
    config, [[0, 0], [0.5, 0.5], [1 / 3, 0]], rtol=8 * EPS
  )
  np.testing.assert_array_equal(
    config_certificate.status,
    [Status.STATIONARY, Status.SOLVED, Status.SOLVED],
  )


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned(scale):
  for num_tasks in (3, 10):
    grads = _cases(
      num_tasks,
      ("iid", "conflicting", "duplicate_rows", "zero_rows", "identical"),
      4 * num_tasks,
    )
    rng = np.random.default_rng(num_tasks)
    preference = rng.random((len(grads), num_tasks)).astype(np.float32)
    grams = np.stack([matrices.gram32(g) for g in grads])
    weights, certificate = _aligned(grams, preference, scale)
    assert certificate.converged.all()
    for g, p, w in zip(grads, preference, np.asarray(weights), strict=True):
      best = reference.aligned_direction(g, p, scale, num_tasks * EPS)
      values = np.linalg.eigvalsh(g @ g.T)
      kept = values[values > values[-1] * num_tasks * EPS]
      # Eigenvalues are off by a few roundings of the largest.
      rtol = 8 * EPS * num_tasks * kept[-1] / kept[0]
      found = w.astype(np.float64) @ g
      assert np.linalg.norm(found - best) <= rtol * np.linalg.norm(best)
      assert np.all(w[~np.any(g != 0, axis=1)] == 0)


def test_aligned_default_preference():
  grads = np.array([[1.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
  weights, _ = spectral.aligned_weights(
    matrices.gram32(grads), active=jnp.array([True, True, False])
  )
  np.testing.assert_allclose(weights, [0.5, 0.125, 0], rtol=8 * EPS)


def test_scale_permutation_and_active():
  rng = np.random.default_rng(2)
  grads = rng.standard_normal((20, 8, 40))
  (imtl, _), (config, _) = _both(grads)
  condition = max(_condition(g) for g in grads)
  rtol = 16 * EPS * 8 * condition
  for scale in (1e-15, 1e15):
    grams = np.stack([g @ g.T for g in grads]) * scale**2
    (found, a), (direction, b) = _solve(grams.astype(np.float32))
    assert a.converged.all() and b.converged.all()
    np.testing.assert_allclose(found, imtl, atol=rtol)
    np.testing.assert_allclose(
      direction * np.float32(scale), config, atol=rtol * np.abs(config).max()
    )
  order = rng.permutation(8)
  (found, _), _ = _both(grads[:, order])
  np.testing.assert_allclose(found, imtl[:, order], atol=rtol)
  active = rng.random((20, 8)) < 0.6
  grams = np.stack([matrices.gram32(g) for g in grads])
  dirty = np.where(active[:, :, None] & active[:, None, :], grams, np.nan)
  (found, _), (direction, _) = _solve(dirty, active)
  for g, mask, w, c in zip(grads, active, found, direction, strict=True):
    assert np.all(w[~mask] == 0) and np.all(c[~mask] == 0)
    if mask.sum() > 1:
      best = reference.equal_projections(g[mask])
      np.testing.assert_allclose(w[mask], best, atol=rtol)
      np.testing.assert_allclose(
        c.astype(np.float64) @ g,
        reference.conflict_free_direction(g[mask]),
        atol=rtol,
      )


def test_nan_is_not_hidden():
  grams = np.stack([np.eye(8, dtype=np.float32)] * 20)
  grams[:, 0, 1] = np.nan
  active = np.ones((20, 8), bool)
  active[:, 7] = False
  for found, certificate in _solve(grams, active):
    assert np.isnan(found[:, :7]).all() and np.all(found[:, 7] == 0)
    assert not certificate.converged.any()


@pytest.mark.parametrize("x64", [False, True])
def test_dtypes(x64):
  with jax.enable_x64(x64):
    dtype = jnp.float64 if x64 else jnp.float32
    grads = np.random.default_rng(3).standard_normal((6, 20))
    gram = jnp.asarray(grads @ grads.T, dtype)
    solve = jax.jit(
      lambda gram: (
        spectral.equal_projections(gram),
        spectral.conflict_free_direction(gram),
        spectral.aligned_weights(gram),
      )
    )
    for found, certificate in solve(gram):
      assert found.dtype == dtype and not found.weak_type
      assert certificate.residual.dtype == dtype
      assert certificate.iterations.dtype == jnp.int32
      assert certificate.status.dtype == jnp.int32 and certificate.converged
    if x64:
      np.testing.assert_allclose(
        solve(gram)[0][0],
        reference.equal_projections(grads),
        rtol=1e-11,
      )


def test_errors():
  with pytest.raises(ValueError, match="scale must be one of"):
    spectral.aligned_weights(jnp.eye(2), scale="max")
  with pytest.raises(ValueError, match="preference must hold one value"):
    spectral.aligned_weights(jnp.eye(2), preference=jnp.ones(3))
