"""The average of a method's weights, task by task."""

import harness
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
