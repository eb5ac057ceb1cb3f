"""A step that is not finite is as if it had not been."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import optax_mtl


def test_a_few_in_a_row():
  data = harness.data(num_steps=6)
  for leaf in jax.tree.leaves(data.grads):
    leaf[1:4, 1] = np.inf
  tx = optax_mtl.skip_nonfinite(harness.build("gradnorm"), max_consecutive=2)
  run = harness.runner(tx)(data)
  assert (run.updates[1:3] == 0).all()
  # The third in a row goes through, so that it shows.
  assert not np.isfinite(run.updates[3]).all()
  np.testing.assert_array_equal(run.states.skipped_in_a_row[:4], [0, 1, 2, 0])
  np.testing.assert_array_equal(run.states.skipped_total[:4], [0, 1, 2, 2])


@pytest.mark.parametrize("name", ["dwa", "graddrop"])
def test_the_state_is_kept(name):
  """The run with a bad step is the run without that step."""
  data = harness.data()
  without = jax.tree.map(
    # One step more at the end, so that one program does for both.
    lambda leaf: np.concatenate([leaf[:2], leaf[3:], leaf[-1:]]),
    data,
  )
  spoilt = jax.tree.map(np.copy, data)
  for leaf in jax.tree.leaves(spoilt.grads):
    leaf[2, 0] = np.nan
  run = harness.runner(optax_mtl.skip_nonfinite(harness.build(name)))
  got, want = run(spoilt), run(without)
  assert (got.updates[2] == 0).all()
  np.testing.assert_array_equal(
    np.delete(got.updates, 2, axis=0), want.updates[:-1]
  )
  assert int(got.states.skipped_total[-1]) == 1


def test_losses_that_spoil_the_state():
  data = harness.data(num_steps=3)
  data.extra["losses"][1, 0] = np.nan
  tx = optax_mtl.skip_nonfinite(harness.build("uncertainty_weighting"))
  run = harness.runner(tx)(data)
  assert int(run.states.skipped_total[-1]) == 1
  assert np.isfinite(optax.tree.get(run.states, "log_vars")).all()
  assert (run.updates[1] == 0).all()


@pytest.mark.standard_promotion
def test_a_state_that_is_not_finite_by_design():
  """`reduce_on_plateau` keeps inf until it knows a first average.

  That is no reason to skip: with it after a method the params move in every
  step. An inf that comes where there was none is one, as in the next test.
  """
  tx = optax_mtl.skip_nonfinite(
    optax.chain(
      optax_mtl.equal_weighting(2),
      optax.sgd(0.1),
      contrib.reduce_on_plateau(accumulation_size=200),
    )
  )
  params = jnp.ones(2)

  def step(state, _):
    updates, state = tx.update(jnp.eye(2), state, params, value=jnp.ones(()))
    return state, updates

  state, updates = jax.jit(
    lambda: jax.lax.scan(step, tx.init(params), length=450)
  )()
  assert not np.isfinite(optax.tree.get(tx.init(params), "best_value"))
  assert (np.asarray(updates) != 0).all()
  assert int(state.skipped_total) == 0
  assert np.isfinite(optax.tree.get(state, "best_value"))


def test_an_inf_beside_one_that_was_there():
  """Entry by entry: a leaf that holds an inf may not get a second."""

  def update(updates, state, params=None):
    return jnp.sum(updates, axis=0), state + updates[0]

  inner = optax.GradientTransformation(
    lambda params: jnp.array([jnp.inf, 0.0]), update
  )
  tx = optax_mtl.skip_nonfinite(inner)
  state = tx.init(jnp.zeros(2))
  updates, state = tx.update(jnp.ones((2, 2)), state)
  np.testing.assert_array_equal(updates, [2.0, 2.0])
  # The update is finite, and the state would hold a second inf.
  large = jnp.array([[1.0, 3e38], [0.0, -3e38]])
  _, state = tx.update(large, state)
  updates, state = tx.update(large, state)
  np.testing.assert_array_equal(updates, [0.0, 0.0])
  np.testing.assert_array_equal(state.inner_state[1], np.float32(3e38) + 1)
  assert int(state.skipped_total) == 1
