"""IMTL-G: equal projections on the unit gradients."""

import numpy as np
from families import DELTA, DEPENDENT, assert_at_most, cases, sizes, solved
from one_step import (
  CONFLICT,
  ORTHOGONAL,
  assert_oracles,
  assert_parallel,
  assert_same,
  gradients,
  lengths,
  run,
)


def test_oracles():
  root = np.sqrt(2)
  assert_oracles(
    "imtl_g",
    [
      ({}, ORTHOGONAL, [6 / 11, 6 / 11, 6 / 11]),
      ({}, CONFLICT, [(root - 1) / (root + 1), 1 / (root + 1)]),
      # A task without gradient leaves.
      ({}, [[3, 0], [0, 0]], [3, 0]),
      ({}, [[3, 0], [0, 0], [0, 1]], [0.75, 0.75]),
    ],
  )


def test_two_tasks_get_the_sum_of_their_unit_gradients():
  """Up to length."""
  grads = gradients(2)
  units = (grads / lengths(grads)).sum(axis=1)
  assert_parallel(run("imtl_g", grads).updates, units)


def test_it_is_its_closed_form():
  """M⁺ √diag(M), scaled to the sum 1."""
  grads = gradients(3)
  expected = np.stack(
    [np.linalg.pinv(g @ g.T) @ np.linalg.norm(g, axis=1) for g in grads]
  )
  expected /= expected.sum(axis=1, keepdims=True)
  # Where the weights' sum nearly vanishes they are large, and so is its error.
  found = run("imtl_g", grads)
  assert_same(found.weights, expected, 1e-8)
  np.testing.assert_allclose(
    found.weights.sum(axis=1), 1, rtol=0, atol=1e-12 * np.abs(expected).max()
  )
  projections = np.einsum("ntp,np->nt", grads / lengths(grads), found.updates)
  spread = np.ptp(projections, axis=1)
  assert (spread <= 1e-9 * lengths(found.updates)[:, 0]).all()


def test_an_absent_task_takes_no_part():
  grads, mask = gradients(3), np.array([True, False, True])
  found = run("imtl_g", grads, active=mask)
  assert (found.weights[:, 1] == 0).all()
  assert_same(found.updates, run("imtl_g", grads[:, mask]).updates)


@sizes
def test_projections_are_equal(num_tasks):
  data, found = cases(num_tasks), solved("imtl_g", num_tasks)
  some = data.present.any(axis=1)
  total = np.abs(found.weights).sum(axis=1)
  error = np.abs(found.weights.sum(axis=1) - some)
  assert_at_most(error, DELTA * total, data.names)
  assert (found.weights[~data.present] == 0).all()
  products = data.products(found.weights)
  count = np.maximum(data.present.sum(axis=1), 1)
  middle = np.sum(products, axis=1) / count
  error = np.where(data.present, np.abs(products - middle[:, None]), 0)
  rows = data.without(*DEPENDENT)
  bound = DELTA * data.spread() * data.size(found.weights)
  assert_at_most(error, bound, data.names, rows)
