"""The average of a method's weights, task by task."""

import harness
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl


@pytest.mark.parametrize("name", ["mgda", "dwa"])
def test_average(name):
  """From each task's first weight on; while a task is absent it stands."""
  plain = harness.case_runs(name)["absent"]
  tx = optax_mtl.ema_weights(harness.build(name), 0.8)
  data = harness.cases()["absent"]
  run = harness.runner(tx)(data)
  average = np.zeros(harness.NUM_TASKS)
  known = np.zeros(harness.NUM_TASKS, bool)
  for step, (new, active) in enumerate(
    zip(plain.weights, data.active, strict=True)
  ):
    moved = np.where(known, 0.8 * average + 0.2 * new, new)
    average = np.where(active, moved, average)
    known |= active
    applied = np.where(active, average, 0)
    # Two programs of one solver.
    harness.assert_close(run.weights[step], applied, 3.0, 1e-4)
    harness.assert_close(run.states.memory.average[step], average, 3.0, 1e-4)
  grads = harness.flat(data.grads, 2)
  expected = np.einsum("st,stp->sp", run.weights, grads)
  harness.assert_close(run.updates, expected, 8.0, 1e-6)


def test_a_limit_on_the_norm_stays():
  tx = optax_mtl.ema_weights(harness.build("nash_mtl"))
  data = harness.data()
  run = harness.runner(tx)(data)
  grads = harness.flat(data.grads, 2)
  free = np.linalg.norm(np.einsum("st,stp->sp", run.weights, grads), axis=1)
  assert free.max() > 1.1, "no test of a limit"
  norms = np.linalg.norm(run.updates, axis=1)
  # A norm in float32, and a quotient by it.
  harness.assert_close(norms, np.minimum(free, 1), 1.0, 1e-5)


def test_cr_mogm():
  """From uniform weights on, with a decay that grows: computed by hand."""
  tx = optax_mtl.ema_weights(
    optax_mtl.mgda(2), lambda n: 1 - 1 / (n + 1), initial_weights=0.5
  )
  state = tx.init(jnp.zeros(2))
  average = np.array([0.5, 0.5])
  for number, length in enumerate([2.0, 1.0, 3.0]):
    grads = jnp.array([[1.0, 0.0], [0.0, length]])
    updates, state = tx.update(grads, state)
    solved = np.array([length**2, 1.0]) / (1 + length**2)
    decay = number / (number + 1)
    average = decay * average + (1 - decay) * solved
    # The solver's certificate.
    np.testing.assert_allclose(state.weights, average, rtol=1e-5)
    np.testing.assert_allclose(updates, average * [1, length], rtol=1e-5)
  tx = optax_mtl.ema_weights(
    optax_mtl.mgda(2), 0.9, initial_weights={"a": 1.0, "b": 0.0}
  )
  _, state = tx.update(
    jnp.eye(2), tx.init(jnp.zeros(2)), losses={"b": 1.0, "a": 1.0}
  )
  np.testing.assert_allclose(state.weights, [0.95, 0.05], rtol=1e-5)


def test_psmgd():
  """MGDA's weights times T, computed at every second step."""
  tx = optax_mtl.weighted_then(
    optax_mtl.fixed_weighting(2, [2.0, 2.0]),
    optax_mtl.refresh_every(optax_mtl.mgda(2), 2),
  )
  state = tx.init(jnp.zeros(2))
  for grads, want in (
    (jnp.array([[1.0, 0.0], [0.0, 2.0]]), [1.6, 0.4]),
    (jnp.array([[1.0, 0.0], [0.0, 1.0]]), [1.6, 0.4]),
    (jnp.array([[1.0, 0.0], [0.0, 1.0]]), [1.0, 1.0]),
  ):
    updates, state = tx.update(grads, state)
    np.testing.assert_allclose(state.weights, want, rtol=1e-5)
    np.testing.assert_allclose(updates, np.array(want) @ grads, rtol=1e-5)


def test_schedules_of_the_wrong_kind():
  method = optax_mtl.equal_weighting(2)
  grads = jnp.eye(2)
  tx = optax_mtl.ema_weights(method, lambda n: n)
  with pytest.raises(TypeError, match="schedule from the number of an update"):
    tx.update(grads, tx.init(jnp.zeros(2)))
  # A value out of range shows, at the first step where it counts.
  tx = optax_mtl.ema_weights(method, lambda n: jnp.ones(()))
  state = tx.init(jnp.zeros(2))
  _, state = tx.update(grads, state)
  updates, _ = tx.update(grads, state)
  assert np.isnan(updates).all()
