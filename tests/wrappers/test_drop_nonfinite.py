"""Dropping is the mask that leaves the spoilt tasks out, bit for bit."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl


@pytest.mark.parametrize("name", harness.every_kind)
def test_dropping_is_masking(name):
  """Tasks that are NaN, one entry of one leaf that is inf, or a loss of NaN.

  One program for all: the masked runs are dropped from too, where there is
  nothing to drop.
  """
  run = harness.runner(optax_mtl.drop_nonfinite(harness.build(name)))
  base, absent = harness.data(), harness.cases()["absent"]
  spoilt = harness.spoilt(absent, ~absent.active, np.nan)
  # What a task needs not, as a NaN in its preference, drops nothing.
  extra = absent.extra | {"losses": spoilt.extra["losses"]}
  everywhere = base._replace(grads=spoilt.grads, second=spoilt.second)
  pairs = [(everywhere._replace(extra=extra), absent)]

  one_entry = jax.tree.map(np.copy, base.grads)
  one_entry["trunk"]["kernel"][4, 1, 0, 0] = np.inf
  loss = np.copy(base.extra["losses"])
  loss[4, 1] = np.nan
  masked = base._replace(active=harness.inactive(1, slice(4, 5)))
  pairs.append((base._replace(grads=one_entry), masked))
  pairs.append((base._replace(extra=base.extra | {"losses": loss}), masked))
  for dropped, same in pairs:
    got, want = run(dropped), run(same)
    chex.assert_trees_all_equal(got, want)
    chex.assert_tree_all_finite(got.updates)
  # Without dropping it is another program, which may round differently.
  plain = harness.case_runs(name)["absent"]
  harness.assert_close(run(absent).updates, plain.updates, 4.0, 1e-4)


def test_a_kpi_of_nan_is_a_missing_one():
  """No reason to drop a task: its average stands, its gradient counts."""
  tx = optax_mtl.drop_nonfinite(optax_mtl.dtp(2))
  state = tx.init(jnp.zeros(2))
  _, state = tx.update(jnp.eye(2), state, kpis=jnp.array([0.5, 0.5]))
  before = state.weights
  _, state = tx.update(jnp.eye(2), state, kpis=jnp.array([jnp.nan, 0.5]))
  np.testing.assert_allclose(state.weights, before)


def test_together_with_a_mask():
  """Absent and finite, present and not: both are left out."""
  tx = optax.chain(
    optax_mtl.drop_nonfinite(optax_mtl.equal_weighting(3)), optax.scale(1.0)
  )
  grads = jnp.array([[1.0, 1.0], [jnp.nan, 1.0], [4.0, 4.0]])
  updates, state = tx.update(
    grads, tx.init(jnp.zeros(2)), active=jnp.array([True, True, False])
  )
  np.testing.assert_array_equal(updates, [1.0, 1.0])
  np.testing.assert_array_equal(state[0].weights, [1.0, 0.0, 0.0])


def test_a_gradient_of_the_second_batch():
  """A NaN there drops the task as well."""
  tx = optax_mtl.drop_nonfinite(optax_mtl.modo(2))
  grads = jnp.eye(2)
  second = jnp.array([[1.0, 0.0], [jnp.nan, 1.0]])
  updates, state = tx.update(grads, tx.init(jnp.zeros(2)), second_grads=second)
  np.testing.assert_allclose(updates, [1.0, 0.0])
  np.testing.assert_allclose(state.weights, [1.0, 0.0])
