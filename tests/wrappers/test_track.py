"""What is recorded of how the task gradients conflict."""

import harness
import numpy as np
import pytest

import optax_mtl

T = harness.NUM_TASKS


@pytest.mark.parametrize("name", ["equal_weighting", "graddrop"])
def test_track_conflicts(name):
  active = np.ones((4, T), bool)
  active[3, 0] = False
  data = harness.data(num_steps=4)._replace(active=active)
  tx = optax_mtl.track_conflicts(harness.build(name), T)
  run = harness.runner(tx)(data)
  grads = harness.flat(data.grads, 2)
  unit = grads / np.linalg.norm(grads, axis=2, keepdims=True)
  cosines = unit @ unit.transpose(0, 2, 1)
  states = run.states
  np.testing.assert_allclose(states.cosines[:3], cosines[:3], atol=1e-5)
  upper = cosines[:3][:, *np.triu_indices(T, 1)]
  np.testing.assert_allclose(
    states.conflict_rate[:3], (upper < 0).mean(axis=1), rtol=1e-6
  )
  # Without task 0, one pair is left.
  assert (states.cosines[3, 0] == 0).all()
  assert states.conflict_rate[3] == (cosines[3, 1, 2] < 0)
  # The method's own update, untouched.
  plain = harness.run(name, data)
  np.testing.assert_array_equal(run.updates, plain.updates)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_task_that_is_not_finite_conflicts_with_none(value):
  """Its cosines are 0, so that `skip_nonfinite` outside does not see them.

  Else a step would be left out that `drop_nonfinite` inside has mended.
  """
  data = harness.data(num_steps=4)
  where = np.zeros((4, T), bool)
  where[2, 1] = True
  data = data._replace(grads=harness.spoilt(data, where, value).grads)
  inner = optax_mtl.drop_nonfinite(harness.build("equal_weighting"))
  run = harness.runner(
    optax_mtl.skip_nonfinite(optax_mtl.track_conflicts(inner, T))
  )(data)
  assert int(run.states.skipped_total[-1]) == 0
  states = run.states.inner_state
  assert np.isfinite(states.cosines).all()
  assert (states.cosines[2, 1] == 0).all() and (
    states.cosines[2, :, 1] == 0
  ).all()
  grads = harness.flat(data.grads, 2)[2, [0, 2]]
  harness.assert_close(run.updates[2], grads.sum(axis=0), 8.0, 1e-6)
  assert states.conflict_rate[2] == (grads[0] @ grads[1] < 0)
