"""What methods claim about themselves, on random members of hard families.

The claims are those of `MethodInfo.claims`, the matrices those of `matrices`.
"""

import functools

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optax_mtl
from benchmarks.common.matrices import FAMILIES
from optax_mtl._dtypes import solver_dtype

NUM_TASKS, NUM_PARAMS = 5, 12
TASKS = tuple(range(NUM_TASKS))

#: Rows of one size: others times 1e±15 leave float32's range.
SCALABLE = ["iid", "conflicting", "aligned", "duplicate_rows", "rank_deficient"]

family_names = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 2**31 - 1)
quick = settings(
  max_examples=40,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(HealthCheck),
)


def claiming(claim):
  names = [n for n in harness.NAMES if claim in harness.claims(n)]
  assert names, f"no method claims {claim}"
  return pytest.mark.parametrize("name", names)


@functools.cache
def compiled(name):
  example = optax_mtl.METHODS[name].info.example(TASKS)
  tx = optax_mtl.METHODS[name](NUM_TASKS, **example)

  @jax.jit
  def one(grads, extra):
    updates, state = tx.update(grads, tx.init(grads[0]), **extra)
    return updates, state.weights

  return one


def drawn(family, seed):
  """Gradients as float32 sees them, and extra args."""
  rng = np.random.default_rng(seed)
  grads = FAMILIES[family](rng, NUM_TASKS, NUM_PARAMS).astype(np.float32)
  extra = {
    "losses": rng.uniform(0.1, 3.0, NUM_TASKS),
    "kpis": rng.uniform(0.05, 0.95, NUM_TASKS),
    "preference": rng.uniform(0.1, 1.0, NUM_TASKS),
  }
  return grads, extra


def update(name, grads, extra):
  """Update and weights, float64."""
  extra = {k: jnp.asarray(v, solver_dtype()) for k, v in extra.items()}
  updates, weights = compiled(name)(jnp.asarray(grads, jnp.float32), extra)
  return np.asarray(updates, np.float64), np.asarray(weights, np.float64)


def sizes(grads, weights):
  """Each row's length, and the length of what the update is summed from."""
  lengths = np.linalg.norm(np.asarray(grads, np.float64), axis=1)
  return lengths, np.abs(weights) @ lengths


@pytest.mark.parametrize("name", harness.NAMES)
@quick
@given(family_names, seeds)
def test_finite_on_every_family(name, family, seed):
  grads, extra = drawn(family, seed)
  updates, weights = update(name, grads, extra)
  assert np.isfinite(updates).all() and np.isfinite(weights).all()


@claiming("descends")
@quick
@given(family_names, seeds)
def test_descends(name, family, seed):
  """G d >= 0, up to the rounding of the Gram matrix: eps n_i n_j an entry.

  So a product g_i·d is known to T eps n_i Σ|w_j| n_j in float32, and a solver
  that stops at a few eps may be off by some times that.
  """
  grads, extra = drawn(family, seed)
  updates, weights = update(name, grads, extra)
  lengths, size = sizes(grads, weights)
  products = grads.astype(np.float64) @ updates
  eps = np.finfo(np.float32).eps
  assert (products >= -16 * NUM_TASKS * eps * lengths * size).all()


@claiming("simplex")
@quick
@given(family_names, seeds)
def test_simplex(name, family, seed):
  _, weights = update(name, *drawn(family, seed))
  assert (weights >= 0).all()
  # A sum of T numbers, each divided by their sum.
  assert abs(weights.sum() - 1) <= 2 * NUM_TASKS * np.finfo(np.float32).eps


@claiming("positive_weights")
@quick
@given(family_names, seeds)
def test_positive_weights(name, family, seed):
  _, weights = update(name, *drawn(family, seed))
  assert (weights >= 0).all()


@claiming("scale_equivariant")
@quick
@given(st.sampled_from(SCALABLE), seeds, st.floats(-15, 15))
def test_scale_equivariant(name, family, seed, exponent):
  """From 1e-15 to 1e15, where the scale itself rounds the gradients.

  Relative to what the update is summed from. Where gradients all but cancel the
  update moves by the square root of a rounding of its square.
  """
  grads, extra = drawn(family, seed)
  base, weights = update(name, grads, extra)
  scale = 10.0**exponent
  scaled, _ = update(name, (grads * scale).astype(np.float32), extra)
  _, size = sizes(grads, weights)
  bound = 16 * np.sqrt(np.finfo(np.float32).eps) * size
  assert np.linalg.norm(scaled / scale - base) <= bound


@claiming("permutation_equivariant")
@quick
@given(family_names, seeds, st.permutations(TASKS))
def test_permutation_equivariant(name, family, seed, order):
  """The update does not change; among dependent rows the weights may."""
  grads, extra = drawn(family, seed)
  base, weights = update(name, grads, extra)
  order = list(order)
  permuted, other = update(
    name, grads[order], {k: v[order] for k, v in extra.items()}
  )
  size = max(sizes(grads, weights)[1], sizes(grads[order], other)[1])
  bound = 16 * np.sqrt(np.finfo(np.float32).eps) * size
  assert np.linalg.norm(permuted - base) <= bound
