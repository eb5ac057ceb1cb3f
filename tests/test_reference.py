"""Every method against a NumPy implementation, over 50 random steps."""

import harness
import jax
import numpy as np
import pytest

import optax_mtl
from benchmarks.reference.methods import REFERENCES

#: One method, whose reference is found under either name.
_RENAMED = {"config", "conflict_free"}

covered = pytest.mark.parametrize(
  "name", sorted(set(REFERENCES) & set(harness.NAMES))
)


def test_every_method_has_a_reference():
  missing = sorted(set(harness.NAMES) - set(REFERENCES))
  assert not missing, (
    f"No reference for {', '.join(missing)}: write one, from the paper, in "
    f"benchmarks/reference/methods/{missing[0]}.py."
  )
  unknown = sorted(set(REFERENCES) - set(harness.NAMES) - _RENAMED)
  assert not unknown, f"References of methods that do not exist: {unknown}."


def compare(name, rtol):
  data = harness.data(seed=11)
  kwargs = optax_mtl.METHODS[name].info.example(harness.TASKS)
  grads = harness.flat(data.grads, 2)
  expected = REFERENCES[name](harness.NUM_TASKS, grads, data.extra, **kwargs)
  dtype = "float64" if jax.config.jax_enable_x64 else "float32"
  run = harness.run(name, data, dtype=dtype)
  updates = np.einsum("st,stp->sp", expected, grads)
  # The update is unique, the weights are where gradients are independent.
  size = np.linalg.norm(grads, axis=2).max(axis=1)[:, None]
  scale = np.maximum(np.abs(expected).sum(axis=1, keepdims=True), 1)
  harness.assert_close(run.updates, updates, scale * size, rtol, "updates")
  harness.assert_close(run.weights, expected, scale, 10 * rtol, "weights")


@covered
def test_reference_in_float64(name):
  """To the accuracy of solvers that stop at some eps, on benign problems."""
  with jax.enable_x64(True):
    compare(name, 1e-9)


@covered
def test_reference_in_float32(name):
  """The Gram matrix in float32: eps times its condition number, about 100."""
  with jax.enable_x64(False):
    compare(name, 2e-5)
