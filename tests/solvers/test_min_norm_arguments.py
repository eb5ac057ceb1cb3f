"""The min-norm solver's arguments: dtypes, traced ones, errors; its trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.common import matrices
from optax_mtl import solvers
from optax_mtl.solvers.min_norm import VARIANTS


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_tasks", [1, 2, 3])
def test_dtypes(x64, variant, num_tasks):
  with jax.enable_x64(x64):
    solve = functools.partial(solvers.min_norm, variant=variant)
    for dtype in (jnp.bfloat16, jnp.float32, jnp.int32):
      gram = jnp.eye(num_tasks, dtype=dtype)
      weights, certificate = jax.eval_shape(
        solve, gram, active=jnp.ones(num_tasks, bool), init=jnp.ones(num_tasks)
      )
      expected = np.float64 if x64 else np.float32
      assert weights.dtype == certificate.residual.dtype == expected
      assert certificate.iterations.dtype == np.int32
      assert certificate.status.dtype == np.int32
      assert not any(x.weak_type for x in (weights, *certificate))
      gaps = jax.eval_shape(
        functools.partial(solvers.min_norm_trace, variant=variant, num_steps=4),
        gram,
      )
      assert gaps.shape == (4,) and gaps.dtype == expected


def test_hyperparameters_may_be_traced():
  gram = matrices.gram32(matrices.iid(np.random.default_rng(0), 4, 9))
  solve = jax.jit(
    lambda tol, cap: solvers.min_norm(
      gram, variant="pairwise", tol=tol, max_iter=cap
    )
  )
  assert solve(1e-3, 100)[1].iterations > 1
  assert solve(1e-3, 1)[1].iterations == 1


@pytest.mark.parametrize(
  "error,match,gram,kwargs",
  [
    (
      ValueError,
      "variant must be one of 'wolfe'",
      np.eye(2),
      {"variant": "fw"},
    ),
    (ValueError, "init must hold one", np.eye(2), {"init": np.ones(3)}),
  ],
)
def test_errors(error, match, gram, kwargs):
  with pytest.raises(error, match=match):
    solvers.min_norm(gram, **kwargs)


def test_trace_errors():
  with pytest.raises(ValueError, match="num_steps must lie in"):
    solvers.min_norm_trace(np.eye(3), num_steps=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_trace(variant):
  gram = matrices.gram32(matrices.iid(np.random.default_rng(3), 5, 10))
  trace = functools.partial(
    solvers.min_norm_trace, variant=variant, num_steps=300
  )
  gaps = np.asarray(trace(gram))
  assert gaps.shape == (300,) and np.isfinite(gaps).all()
  assert gaps[-1] <= (2e-3 if variant == "vanilla" else 1e-5)
  # The gaps are those that min_norm reports when it is stopped there.
  for steps in (1, 2):
    _, certificate = solvers.min_norm(
      gram, variant=variant, max_iter=steps, tol=1e-30
    )
    # Other programs: rounding, of which 8 epsilons are the default tolerance.
    np.testing.assert_allclose(
      gaps[steps - 1],
      certificate.residual,
      rtol=1e-4,
      atol=8 * np.finfo(np.float32).eps,
    )
  assert np.isnan(trace(gram * np.nan)).all()
  assert (trace(0 * gram) == 0).all()


def test_trace_shows_the_order_of_the_variants():
  gram = matrices.gram32(matrices.iid(np.random.default_rng(4), 5, 8))
  steps = {
    variant: np.sum(
      solvers.min_norm_trace(gram, variant=variant, num_steps=300) > 1e-4
    )
    for variant in VARIANTS
  }
  assert steps["wolfe"] < min(steps["pairwise"], steps["away"])
  assert max(steps["pairwise"], steps["away"]) < steps["vanilla"]
