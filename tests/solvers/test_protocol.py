"""What all solvers have in common: arguments, errors, and how a solve ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.common import matrices
from optax_mtl import solvers
from optax_mtl.solvers import Status, combined

_UPGRAD = {"vectors": np.eye(3, dtype=np.float32)}
_GAINS = {
  "vector": np.array([1.0, 0.0, 0.0], np.float32),
  "gains": np.full(3, 0.5, np.float32),
}
# Name -> solver of a [3, 3] matrix, with what else it needs.
SOLVERS = {
  "min_norm": (solvers.min_norm, {}),
  "capped": (solvers.min_norm, {"cap": 0.6}),
  "pairwise": (solvers.min_norm, {"variant": "pairwise"}),
  "min_norm_trace": (solvers.min_norm_trace, {"num_steps": 2}),
  "project_dual_cone": (solvers.project_dual_cone, _UPGRAD),
  "cagrad_weights": (solvers.cagrad_weights, {"c": 0.5}),
  "nearest_with_gains": (solvers.nearest_with_gains, _GAINS),
  "conic_direction": (solvers.conic_direction, {"c": 0.95}),
  "orthogonal_parts": (solvers.orthogonal_parts, {}),
  "nash_bargaining": (solvers.nash_bargaining, {}),
  "fairness": (solvers.fairness, {"alpha": 2.0}),
  "equal_projections": (solvers.equal_projections, {}),
  "conflict_free_direction": (solvers.conflict_free_direction, {}),
  "aligned_weights": (solvers.aligned_weights, {}),
}
DIRECT = (
  *("equal_projections", "conflict_free_direction", "aligned_weights"),
  "orthogonal_parts",
)
CERTIFIED = {k: v for k, v in SOLVERS.items() if k != "min_norm_trace"}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
  "error,match,gram,kwargs",
  [
    (ValueError, r"gram must have shape \[T, T\]", np.ones((2, 3)), {}),
    (ValueError, r"gram must have shape \[T, T\]", np.ones(3), {}),
    (ValueError, r"gram must have shape \[T, T\]", np.ones((0, 0)), {}),
    (ValueError, "use jax.vmap", np.ones((4, 3, 3)), {}),
    (TypeError, "gram must be real", np.eye(3) * 1j, {}),
    (TypeError, "gram must be real", np.eye(3, dtype=bool), {}),
    (TypeError, "active must be bool", np.eye(3), {"active": [1, 0, 1]}),
    (TypeError, "active must be bool", np.eye(3), {"active": np.ones(3)}),
    (
      ValueError,
      "active must hold one bool for each of the 3",
      np.eye(3),
      {"active": np.ones(2, bool)},
    ),
    (ValueError, r"tol must lie in \(0", np.eye(3), {"tol": 0.0}),
    (ValueError, r"tol must lie in \(0", np.eye(3), {"tol": -1e-6}),
    (ValueError, r"max_iter must lie in \[1", np.eye(3), {"max_iter": 0}),
  ],
)
def test_errors(name, error, match, gram, kwargs):
  solve, needed = SOLVERS[name]
  if name == "min_norm_trace" and not {"tol", "max_iter"}.isdisjoint(kwargs):
    return  # It takes so many steps as it is told to.
  if name in DIRECT and "max_iter" in kwargs:
    return  # They take no iterations.
  with pytest.raises(error, match=match):
    solve(gram, **needed, **kwargs)


@pytest.mark.parametrize("name", CERTIFIED)
def test_status(name):
  rng = np.random.default_rng(0)
  gram = matrices.gram32(rng.standard_normal((3, 8)))
  solve = jax.jit(lambda gram, active, tol: _call(name, gram, active, tol))
  everyone, tol = np.ones(3, bool), np.float32(1e-3)
  good, certificate = solve(gram, everyone, tol)
  assert certificate.status == Status.SOLVED and certificate.converged
  assert np.isfinite(good).all()
  assert certificate.residual.dtype == jnp.float32
  assert certificate.iterations.dtype == certificate.status.dtype == jnp.int32
  assert not any(x.weak_type for x in certificate)

  # A tolerance below all rounding: the limit is far away, and not the reason.
  # (A residual of exactly zero is within any tolerance.)
  _, certificate = solve(gram, everyone, np.float32(1e-30))
  if name == "pairwise":
    # Does not notice that it stands still.
    allowed = (Status.SOLVED, Status.OUT_OF_ITERATIONS)
  else:
    allowed = (Status.SOLVED, Status.AT_ROUNDING)
  assert certificate.status in allowed
  assert certificate.converged == (certificate.residual <= 1e-30)

  for bad in (np.nan, np.inf):
    broken = gram.copy()
    broken[0, 1] = bad
    answer, certificate = solve(broken, everyone, tol)
    assert certificate.status == Status.NOT_FINITE
    assert np.isnan(answer).all() and np.isnan(certificate.residual)
    # The same in the row of a task that is absent is nobody's business.
    absent = np.array([False, True, True])
    answer, certificate = solve(broken, absent, tol)
    assert certificate.status == Status.SOLVED
    assert np.isfinite(answer).all()
    np.testing.assert_array_equal(np.asarray(answer)[..., 0], 0)


def _call(name, gram, active, tol):
  solve, needed = CERTIFIED[name]
  return solve(gram, **needed, active=active, tol=tol)


@pytest.mark.parametrize("name", [n for n in CERTIFIED if n not in DIRECT])
def test_out_of_iterations(name):
  solve, needed = CERTIFIED[name]
  rng = np.random.default_rng(4)
  gram = matrices.gram32(matrices.conflicting(rng, 3, 4))
  _, certificate = solve(gram, **needed, max_iter=1, tol=1e-12)
  assert certificate.status == Status.OUT_OF_ITERATIONS
  assert certificate.iterations == 1


def test_rounding_is_not_the_limit():
  # The terms cancel to the last digit: what is left is above the tolerance,
  # and no iteration helps.
  grads = np.array([[1.0, 1e-3, 0.0], [-1.0, 1e-3, 0.0], [0.0, 1.0, 1.0]])
  for solve in (
    solvers.nash_bargaining,
    lambda gram: solvers.fairness(gram, 2.0),
  ):
    _, certificate = solve(matrices.gram32(grads))
    assert certificate.status in (Status.AT_ROUNDING, Status.STATIONARY)
    assert certificate.iterations < 50


def test_initial_certificate():
  certificate = solvers.initial_certificate()
  assert certificate.converged and certificate.status == Status.SOLVED
  assert certificate.residual == 0 and certificate.iterations == 0
  buffers = {x.unsafe_buffer_pointer() for x in certificate}
  assert len(buffers) == 3


def test_combined():
  rng = np.random.default_rng(0)
  for scale in (1e-15, 1.0, 1e15):
    grads = scale * rng.standard_normal((4, 9))
    grads[2] = 0
    weights = rng.standard_normal(4).astype(np.float32)
    gram = jnp.asarray(matrices.gram32(grads))
    update = weights.astype(np.float64) @ grads
    norms = np.linalg.norm(grads, axis=1)
    size = np.abs(weights) @ norms
    # Two roundings of an entry, and the sum's.
    eps = 8 * np.finfo(np.float32).eps
    norm = combined.combined_norm(gram, weights)
    assert abs(norm**2 / scale**2 - update @ update / scale**2) <= (
      eps * size**2 / scale**2
    )
    products = np.asarray(combined.combined_products(gram, weights))
    error = np.abs(products.astype(np.float64) - grads @ update)
    assert np.all(error <= eps * size * norms)
