"""Limits on the update's norm, at every scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl
from optax_mtl import _transformation as transformation

EPS = np.finfo(np.float32).eps


def limited(max_norm, *leaves):
  new = transformation._limit_norm(list(leaves), max_norm, None)
  return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in new])


@pytest.mark.parametrize("max_norm", [1e-10, 1.0, 1e6, 1e15])
@pytest.mark.parametrize("ratio", [0.0, 1e-12, 0.5, 1.5, 1e3, 1e20])
def test_norms_above_the_limit_are_the_limit(max_norm, ratio):
  rng = np.random.default_rng(0)
  leaves = [rng.standard_normal(s) for s in ((20, 30), (20, 30), (7,))]
  flat = np.concatenate([leaf.ravel() for leaf in leaves])
  scale = ratio * max_norm / np.linalg.norm(flat)
  given = [jnp.asarray(scale * leaf, jnp.float32) for leaf in leaves]
  found = limited(max_norm, *given)
  want = flat * min(scale, max_norm / np.linalg.norm(flat))
  # A rounding for each of the sum's terms at most, and a few more.
  assert np.linalg.norm(found - want) <= EPS * (flat.size / 2 + 8) * min(
    ratio * max_norm, max_norm
  )


def test_no_limit():
  given = jnp.array([3e38, -3e38])
  np.testing.assert_array_equal(limited(np.inf, given), given)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_has_no_norm_shows(bad):
  # 3e38 is finite, and the limit of 1 would be nothing beside it.
  found = limited(1.0, jnp.array([1.0, bad]), jnp.array([2.0]))
  assert np.isnan(found).all()


def test_heads_are_not_limited():
  tree = {"trunk": jnp.array([3.0, 4.0]), "head": jnp.array([100.0])}
  shared = {"trunk": True, "head": False}
  new = transformation._limit_norm(tree, 1.0, shared)
  np.testing.assert_allclose(new["trunk"], [0.6, 0.8], rtol=4 * EPS)
  assert new["head"] == 100


def test_the_limit_may_be_traced():
  tx = optax_mtl.nash_mtl(2)
  assert tx.rule.max_norm == 1
  run = jax.jit(
    lambda limit: transformation._limit_norm(jnp.ones(4), limit, None)
  )
  np.testing.assert_allclose(run(0.5), np.full(4, 0.25), rtol=4 * EPS)
