"""Tests by value of the argument `preference`, the same for three methods."""

import numpy as np
from one_step import assert_same, close, gradients, run, step

import optax_mtl


def assert_preference_is_shared(name):
  """The active tasks share what the absent ones leave, in proportion.

  So 1/T each is the default, whoever is there; a mask is the method of those
  that are there; and a preference sums to the same with and without them.
  """
  method = optax_mtl.METHODS[name]
  grads = gradients(3)[:8]
  mask = np.array([True, False, True])
  given = np.array([0.2, 0.4, 0.6])
  # 1.2 in all, of which the absent task leaves 0.4: 1/4 and 3/4 of it.
  found = run(name, grads, active=mask, preference=given)
  alone = run(name, grads[:, mask], preference=np.array([0.3, 0.9]))
  assert (found.weights[:, 1] == 0).all()
  assert_same(found.updates, alone.updates)
  equal = run(name, grads, active=mask)  # is given 1/3 each
  half = run(name, grads[:, mask])
  assert_same(equal.updates, half.updates)
  # The default itself, which `run` does not use.
  masked, _ = step(method(3), grads[0], active=mask)
  explicit, _ = step(method(3, [1 / 3] * 3), grads[0], active=mask)
  close(masked, equal.updates[0], 1e-4)
  close(explicit, masked, 1e-5)
  # Those that count nothing share nothing.
  nothing = run(name, grads, active=mask, preference=np.array([0.0, 1.0, 0.0]))
  assert np.isfinite(nothing.updates).all()
  np.testing.assert_array_equal(nothing.updates, 0)
