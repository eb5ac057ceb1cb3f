"""Tests by value of the argument `preference`, the same for three methods."""

import numpy as np
from one_step import assert_same, gradients, run


def assert_preference_is_shared(name):
  """The active tasks share what the absent ones leave, in proportion.

  So 1/T each is no different from the default, whoever is there; and a mask is
  the method of those that are there.
  """
  grads = gradients(3)[:8]
  mask = np.array([True, False, True])
  # 1.2 in all, of which the absent task leaves 0.4: 1/4 and 3/4 of it.
  found = run(name, grads, active=mask, preference=np.array([0.2, 0.4, 0.6]))
  alone = run(name, grads[:, mask], preference=np.array([0.3, 0.9]))
  assert (found.weights[:, 1] == 0).all()
  assert_same(found.updates, alone.updates)
  equal = run(name, grads, active=mask, preference=np.full(3, 1 / 3))
  half = run(name, grads[:, mask], preference=np.full(2, 1 / 2))
  assert_same(equal.updates, half.updates)
  # Those that count nothing share nothing.
  nothing = run(name, grads, active=mask, preference=np.array([0.0, 1.0, 0.0]))
  np.testing.assert_array_equal(nothing.updates, 0)
