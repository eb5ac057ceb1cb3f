"""ConFIG: the same cosine to every gradient, and the length asked for."""

import numpy as np
import pytest
from families import DELTA, DEPENDENT, assert_at_most, cases, sizes, solved
from one_step import (
  ORTHOGONAL,
  assert_oracles,
  assert_parallel,
  assert_same,
  gradients,
  lengths,
  run,
)
from references import REFERENCES

REFERENCE = REFERENCES["conflict_free"]


def test_oracles():
  """Cosines 1/sqrt(3), lengths 1, 2, 3 and their means."""
  assert_oracles(
    "conflict_free",
    [
      ({}, ORTHOGONAL, [2, 2, 2]),
      ({"length": "min"}, ORTHOGONAL, [1, 1, 1]),
      ({"length": "max"}, ORTHOGONAL, [3, 3, 3]),
      ({"length": "harmonic"}, ORTHOGONAL, [18 / 11] * 3),
      ({"length": "arithmetic"}, ORTHOGONAL, [2, 2, 2]),
      ({"length": "geometric"}, ORTHOGONAL, [6 ** (1 / 3)] * 3),
      # A task without gradient leaves, and counts in no mean.
      ({"length": "min"}, [[3, 0, 0], [0, 0, 0], [0, 1, 0]], [1, 1, 0]),
      ({"length": "geometric"}, [[3, 0, 0], [0, 0, 0], [0, 3, 0]], [3, 3, 0]),
    ],
  )


def test_two_tasks_get_the_sum_of_their_unit_gradients():
  """Up to length."""
  grads = gradients(2)
  units = (grads / lengths(grads)).sum(axis=1)
  assert_parallel(run("conflict_free", grads).updates, units)


@pytest.mark.parametrize(
  "length",
  ["projection", "min", "max", "harmonic", "arithmetic", "geometric"],
)
def test_equal_cosines_and_the_length(length):
  grads = gradients(3)
  found = run("conflict_free", grads, length=length)
  norms = lengths(grads)
  products = np.einsum("ntp,np->nt", grads / norms, found.updates)
  cosines = products / lengths(found.updates)
  assert (np.ptp(cosines, axis=1) <= 1e-9).all() and (cosines > 0).all()
  expected = REFERENCE(3, grads, {}, length=length)
  assert_same(found.updates, np.einsum("nt,ntp->np", expected, grads), 1e-8)


@pytest.mark.parametrize("length", ["projection", "harmonic"])
def test_an_absent_task_takes_no_part(length):
  grads, mask = gradients(3), np.array([True, False, True])
  found = run("conflict_free", grads, active=mask, length=length)
  assert (found.weights[:, 1] == 0).all()
  expected = REFERENCE(2, grads[:, mask], {}, length=length)
  expected = np.einsum("nt,ntp->np", expected, grads[:, mask])
  assert_same(found.updates, expected, 1e-8)


@sizes
def test_cosines_are_equal(num_tasks):
  """Equal and not negative, and the length that the paper asks for."""
  data, found = cases(num_tasks), solved("conflict_free", num_tasks)
  assert (found.weights[~data.present] == 0).all()
  products = data.products(found.weights)
  size = data.spread() * data.size(found.weights)
  count = np.maximum(data.present.sum(axis=1), 1)
  middle = np.sum(products, axis=1) / count
  error = np.where(data.present, np.abs(products - middle[:, None]), 0)
  rows = data.without(*DEPENDENT)
  assert_at_most(error, DELTA * size, data.names, rows)
  assert_at_most(-products, DELTA * size, data.names, rows)
  # |d| is the sum of the gradients' projections on d / |d|.
  norm = np.linalg.norm(found.updates, axis=1)
  along = np.sum(data.norms * products, axis=1)
  error = np.abs(along - norm**2)
  bound = DELTA * size * data.norms.sum(axis=1) + 2 * DELTA * size * norm
  assert_at_most(error, bound, data.names, rows)
