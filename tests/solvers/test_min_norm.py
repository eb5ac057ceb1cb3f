"""The min-norm point: exact values, certificates, and a float64 reference."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import SIZES, Batched

from benchmarks.common import matrices
from benchmarks.reference.solvers import min_norm as reference
from optax_mtl import solvers
from optax_mtl.solvers.min_norm import VARIANTS

EPS = float(np.finfo(np.float32).eps)
# The default tolerance, and what the docstring adds to it for rounding.
TOL = 8 * EPS
BOUND = TOL + 2 * EPS
NUMBERS = (1, 2, 3, 10, 40, 64)


@functools.cache
def _batched(variant):
  def solve(gram, active, tol, max_iter):
    return solvers.min_norm(
      gram, variant=variant, active=active, tol=tol, max_iter=max_iter
    )

  # Two tasks have a closed form.
  sizes = {2: 64, 10: 64, 40: 24, 64: 24}
  return Batched(solve, sizes if variant == "wolfe" else SIZES)


def _solve(grams, variant="wolfe", *, active=None, tol=None, max_iter=None):
  """Solves a batch; the defaults are those of `min_norm`."""
  grams = np.asarray(grams, np.float32)
  first_order = variant != "wolfe"
  if tol is None:
    tol = 1e-5 if first_order else TOL
  if max_iter is None:
    max_iter = 1000 if first_order else 50 + 3 * grams.shape[1]
  return _batched(variant)(
    grams, np.float32(tol), np.int32(max_iter), active=active
  )


def _solve_one(gram, *args, active=None, **kwargs):
  """The same for one matrix."""
  active = None if active is None else np.asarray(active)[None]
  found = _solve(np.asarray(gram)[None], *args, active=active, **kwargs)
  return jax.tree.map(lambda leaf: leaf[0], found)


@functools.cache
def _cases(family, num_tasks):
  """Gradients of one family, few and many params, and their best weights."""
  rng = np.random.default_rng(zlib.crc32(f"{family}{num_tasks}".encode()))
  num_params = [2, max(2, num_tasks // 2), num_tasks + 1, 4 * num_tasks]
  grads = [matrices.FAMILIES[family](rng, num_tasks, p) for p in 3 * num_params]
  return grads, [reference.min_norm(g) for g in grads]


def _lengths(grads, weights):
  """`||d||` and `sum_i w_i n_i` in float64."""
  weights = np.asarray(weights, np.float64)
  norm = np.linalg.norm(weights @ grads)
  return norm, weights @ np.linalg.norm(grads, axis=1)


def _assert_bound(grads, weights, best, bound=BOUND):
  """The docstring's bound on what an answer may lose against the optimum."""
  norm, size = _lengths(grads, weights)
  best_norm, best_size = _lengths(grads, best)
  # The last term is the reference's own error.
  slack = bound * (size**2 + best_size**2) + 1e-12 * best_norm**2
  assert norm**2 <= best_norm**2 + slack
  if best_norm > 0.1 * max(size, best_size):
    assert norm <= best_norm * (1 + 1e-5)


def _assert_simplex(weights):
  weights = np.asarray(weights)
  assert (weights >= 0).all()
  # One rounding per division and a pairwise sum.
  np.testing.assert_allclose(weights.sum(-1), 1, atol=8 * EPS)


@pytest.mark.parametrize("family", matrices.FAMILIES)
@pytest.mark.parametrize("num_tasks", NUMBERS)
def test_reference(family, num_tasks):
  # The judge is judged: float64 meets the optimality conditions.
  for grads, best in zip(*_cases(family, num_tasks), strict=True):
    assert reference.kkt_violation(grads, best) <= 1e-13
    assert best.min() >= 0 and abs(best.sum() - 1) < 1e-12


@pytest.mark.parametrize("family", matrices.FAMILIES)
@pytest.mark.parametrize("num_tasks", NUMBERS)
def test_wolfe_is_exact(family, num_tasks):
  cases, optima = _cases(family, num_tasks)
  grams = np.stack([matrices.gram32(g) for g in cases])
  weights, certificate = _solve(grams)
  _assert_simplex(weights)
  assert np.asarray(certificate.converged).all()
  # A multiple of what is typical (1 to 10), far below the cap of 50 + 3 T.
  assert np.asarray(certificate.iterations).max() <= 30 + num_tasks // 2
  for grads, best, answer in zip(cases, optima, weights, strict=True):
    _assert_bound(grads, answer, best)
    # The certificate says the truth about the exact gradients.
    exact = np.asarray(answer, np.float64)
    assert reference.kkt_violation(grads, exact) <= BOUND


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
  "grads,weights",
  [
    ([[1, 0, 0], [0, 2, 0], [0, 0, 3]], [36 / 49, 9 / 49, 4 / 49]),
    ([[1, 0], [0, 2]], [0.8, 0.2]),
    ([[1, 0], [5, 0]], [1, 0]),
    ([[1, 0], [-1, 0]], [0.5, 0.5]),
    ([[3, 3], [-3, 2], [2, -1]], [0, 13 / 34, 21 / 34]),
    ([[7]], [1]),
    ([[1, 1], [2, 2]], [1, 0]),
  ],
)
def test_values(variant, grads, weights):
  grads = np.asarray(grads, np.float64)
  tol = None if variant == "wolfe" else 1e-6
  answer, certificate = _solve_one(matrices.gram32(grads), variant, tol=tol)
  assert certificate.converged
  # ||w - w*|| <= ||d - d*|| / sigma <= sqrt(2 tol s s*) / sigma, and neither
  # s s* <= 3 nor 1 / sigma <= 1 is exceeded here.
  atol = 1e-6 if variant == "wolfe" else np.sqrt(6e-6)
  np.testing.assert_allclose(answer, weights, atol=atol)
  _assert_bound(
    grads, answer, np.asarray(weights), bound=(tol or TOL) + 2 * EPS
  )


def test_published_counterexample():
  grads = np.array([[3.0, 3.0], [-3.0, 2.0], [2.0, -1.0]])
  weights, _ = _solve_one(matrices.gram32(grads))
  norm, _ = _lengths(grads, weights)
  np.testing.assert_allclose(norm, 0.17149859, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS[1:])
@pytest.mark.parametrize("num_tasks", [3, 10])
def test_first_order_variants(variant, num_tasks):
  # Sublinear convergence buys fewer digits within the same 1000 steps.
  tol = 2e-3 if variant == "vanilla" else 1e-5
  for family in (*matrices.WELL_SCALED, "stationary", "zero_rows", "all_zero"):
    # Enough parameters for the rate not to suffer from the conditioning.
    cases, optima = (part[3::4] for part in _cases(family, num_tasks))
    grams = np.stack([matrices.gram32(g) for g in cases])
    weights, certificate = _solve(grams, variant, tol=tol)
    assert certificate.converged.all(), family
    _assert_simplex(weights)
    for grads, best, answer in zip(cases, optima, weights, strict=True):
      norm, size = _lengths(grads, answer)
      best_norm, best_size = _lengths(grads, best)
      slack = 2 * (tol + 2 * EPS) * size * best_size + 1e-12 * best_norm**2
      assert norm**2 <= best_norm**2 + slack


def test_iteration_cap_ends_it():
  gram = matrices.gram32(matrices.scaled_1e6(np.random.default_rng(0), 5, 20))
  for variant in VARIANTS:
    weights, certificate = _solve_one(gram, variant, max_iter=1)
    _assert_simplex(weights)
    assert certificate.iterations == 1
    assert certificate.status == solvers.Status.OUT_OF_ITERATIONS
    assert certificate.residual > TOL


@pytest.mark.parametrize("family", matrices.FAMILIES)
def test_scale_equivariance(family):
  # Powers of ten, so that the scaled matrix is rounded anew. Rows of 1e±6 of
  # that leave the range of float32.
  largest = (
    8 if family == "scaled_1e6" else 12 if family == "scaled_1e2" else 15
  )
  scales = 10.0 ** np.array([-largest, -7, -3, 0, 3, 7, largest])
  for num_tasks in (2, 10):
    cases, optima = _cases(family, num_tasks)
    for grads, best in list(zip(cases, optima, strict=True))[:4]:
      grams = np.stack([matrices.gram32(c * grads) for c in scales])
      weights, certificate = _solve(grams)
      assert np.asarray(certificate.converged).all()
      for answer in np.asarray(weights):
        _assert_bound(grads, answer, best)


def test_powers_of_two_change_no_bit():
  cases, _ = _cases("scaled_1e2", 10)
  gram = matrices.gram32(cases[3])
  scales = np.float32(4.0) ** np.array([-40, -3, 0, 5, 40], np.float32)
  weights, _ = _solve(gram * scales[:, None, None])
  np.testing.assert_array_equal(weights, np.tile(weights[2], (5, 1)))


@pytest.mark.parametrize("family", ["iid", "scaled_1e6", "duplicate_rows"])
def test_permutation(family):
  rng = np.random.default_rng(0)
  cases, optima = _cases(family, 10)
  for grads, best in zip(cases, optima, strict=True):
    orders = [rng.permutation(10) for _ in range(4)]
    weights, _ = _solve(
      np.stack([matrices.gram32(grads[order]) for order in orders])
    )
    for order, answer in zip(orders, weights, strict=True):
      _assert_bound(grads[order], answer, best[order])


def test_duplicates_share():
  weights, _ = _solve_one(
    matrices.gram32(np.array([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 0]]))
  )
  # Any split is optimal. The ridge of 64 epsilons makes it the even one, up to
  # the few epsilons of rounding that it is measured against.
  np.testing.assert_allclose(weights, [1 / 8, 1 / 2, *[1 / 8] * 3], atol=0.02)
  np.testing.assert_allclose(weights[1], 1 / 2, atol=8 * EPS)


@pytest.mark.parametrize("family", matrices.FAMILIES)
@pytest.mark.parametrize("num_tasks", [2, 10])
def test_active_is_the_subproblem(family, num_tasks):
  rng = np.random.default_rng(1)
  cases, _ = _cases(family, num_tasks)
  active = rng.random((len(cases), num_tasks)) < 0.6
  active[:, 0] |= ~active.any(1)
  grams = np.stack([matrices.gram32(g) for g in cases])
  # What inactive rows hold must not matter, and neither must their zeros.
  pair = active[:, :, None] & active[:, None, :]
  for garbage in (np.nan, np.inf, 0.0):
    weights, certificate = _solve(
      np.where(pair, grams, np.float32(garbage)), active=active
    )
    assert (weights[~active] == 0).all()
    assert np.asarray(certificate.converged).all()
    _assert_simplex(weights)
    for grads, mask, answer in zip(cases, active, weights, strict=True):
      best = reference.min_norm(grads[mask])
      _assert_bound(grads[mask], answer[mask], best)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_nothing_active(variant, num_tasks):
  weights, certificate = _solve_one(
    np.eye(num_tasks), variant, active=np.zeros(num_tasks, bool)
  )
  np.testing.assert_array_equal(weights, np.zeros(num_tasks))
  assert certificate.converged and certificate.residual == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_zero_rows_take_the_weight(variant, num_tasks):
  grads = np.eye(num_tasks)
  grads[-1] = 0
  weights, certificate = _solve_one(grads @ grads.T, variant)
  np.testing.assert_array_equal(weights, np.arange(num_tasks) == num_tasks - 1)
  assert certificate.converged and certificate.residual == 0
  weights, certificate = _solve_one(0 * grads, variant)
  np.testing.assert_array_equal(
    weights, np.full(num_tasks, np.float32(1) / np.float32(num_tasks))
  )
  assert certificate.converged and certificate.iterations == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_not_hidden(variant, num_tasks, bad):
  for place in ((0, 0), (0, num_tasks - 1)):
    gram = np.eye(num_tasks, dtype=np.float32)
    gram[place] = bad
    active = np.ones(num_tasks, bool)
    if num_tasks == 5:
      active[2] = False
    weights, certificate = _solve_one(gram, variant, active=active)
    np.testing.assert_array_equal(np.isnan(weights), active)
    assert np.isnan(certificate.residual)
    assert certificate.status == solvers.Status.NOT_FINITE


def test_hard_inputs_stay_finite():
  # Not Gram matrices at all, or only up to rounding.
  rng = np.random.default_rng(2)
  noise = rng.normal(size=(10, 5, 5)).astype(np.float32)
  indefinite = noise + noise.transpose(0, 2, 1)
  grads = rng.normal(size=(10, 5, 1))
  noisy = (grads @ grads.transpose(0, 2, 1) * (1 + 1e-3 * noise)).astype("f")
  spread = 10.0 ** rng.uniform(-18, 18, (10, 5, 1))
  wild = rng.normal(size=(10, 5, 9)) * spread
  wild = (wild @ wild.transpose(0, 2, 1)).astype(np.float32)
  for variant in VARIANTS:
    grams = np.concatenate([indefinite, noisy, wild, -indefinite])
    weights, _ = _solve(grams, variant, max_iter=50)
    _assert_simplex(weights)


def test_warm_start():
  solve = jax.jit(jax.vmap(lambda gram, w: solvers.min_norm(gram, init=w)))
  for family in ("iid", "scaled_1e2", "ill_conditioned", "rank_deficient"):
    cases, optima = _cases(family, 10)
    grams = np.stack([matrices.gram32(g) for g in cases])
    weights, cold = _solve(grams)
    again, warm = solve(grams, weights)
    assert np.asarray(warm.converged).all()
    # The support is right already: one solve, and refinement where the
    # conditioning needs it.
    assert np.mean(warm.iterations) <= min(3, np.mean(cold.iterations))
    # Nothing but a wrong or empty start, too, only costs iterations.
    wrong, certificate = solve(grams, np.asarray(weights) == 0)
    assert np.asarray(certificate.converged).all()
    for grads, best, *answers in zip(cases, optima, again, wrong, strict=True):
      for answer in answers:
        _assert_bound(grads, answer, best)


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_first_order_start(variant):
  gram = matrices.gram32(matrices.iid(np.random.default_rng(0), 5, 20))
  best, _ = solvers.min_norm(gram)
  _, certificate = solvers.min_norm(gram, variant=variant, init=best)
  assert certificate.iterations == 0
  weights, certificate = solvers.min_norm(
    gram, variant=variant, init=np.zeros(5), tol=1e-3
  )
  assert certificate.converged
  _assert_simplex(weights)


def test_thousand_matrices_at_once():
  rng = np.random.default_rng(0)
  grads = rng.normal(size=(1000, 5, 8)) * 10.0 ** rng.uniform(
    -2, 2, (1000, 5, 1)
  )
  grams = (grads @ grads.transpose(0, 2, 1)).astype(np.float32)
  weights, certificate = _solve(grams)
  assert np.asarray(certificate.converged).all()
  for i in range(0, 1000, 50):
    _assert_bound(grads[i], weights[i], reference.min_norm(grads[i]))
    # Neither filled up nor one of many.
    alone, _ = solvers.min_norm(grams[i])
    np.testing.assert_allclose(weights[i], alone, atol=1e-4)


def test_scan_carries_the_support():
  grads = matrices.iid(np.random.default_rng(0), 6, 12)
  drift = matrices.iid(np.random.default_rng(1), 6, 12)
  path = [grads + 0.05 * i * drift for i in range(20)]
  grams = np.stack([matrices.gram32(g) for g in path])

  @jax.jit
  def run(grams):
    def body(weights, gram):
      weights, certificate = solvers.min_norm(gram, init=weights)
      return weights, (weights, certificate)

    return jax.lax.scan(body, jnp.zeros(6), grams)[1]

  weights, certificate = run(grams)
  assert np.asarray(certificate.converged).all()
  assert np.mean(certificate.iterations) < 2.5
  for grads, answer in zip(path, weights, strict=True):
    _assert_bound(grads, answer, reference.min_norm(grads))


def test_large():
  grads = matrices.iid(np.random.default_rng(0), 300, 600)
  weights, certificate = solvers.min_norm(matrices.gram32(grads))
  assert certificate.converged
  _assert_bound(grads, weights, reference.min_norm(grads))


def test_float64():
  with jax.enable_x64(True):
    solve = jax.jit(jax.vmap(lambda gram: solvers.min_norm(gram)))
    for family in matrices.FAMILIES:
      cases, optima = _cases(family, 10)
      weights, certificate = solve(np.stack([g @ g.T for g in cases]))
      assert np.asarray(certificate.converged).all()
      for grads, best, answer in zip(cases, optima, weights, strict=True):
        norm, size = _lengths(grads, answer)
        best_norm, best_size = _lengths(grads, best)
        # As `_assert_bound`, with the epsilon of float64. The Gram matrix is
        # formed in float64 here and not rounded from something better, which
        # costs up to sqrt(P) more.
        slack = 20 * np.finfo(np.float64).eps * (size**2 + best_size**2)
        assert norm**2 <= best_norm**2 + slack
