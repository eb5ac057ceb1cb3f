"""UPGrad: the mean of the gradients' projections on the dual cone."""

import numpy as np
from families import (
  DELTA,
  EPS,
  STATIONARY,
  assert_at_most,
  cases,
  sizes,
  solved,
)
from one_step import (
  CONFLICT,
  ORTHOGONAL,
  assert_oracles,
  assert_same,
  gradients,
  run,
)
from references import project_dual_cone
from shares import assert_preference_is_shared


def test_oracles():
  assert_oracles(
    "upgrad",
    [
      ({}, CONFLICT, [0.25, 0.75]),
      ({}, ORTHOGONAL, [1 / 3, 2 / 3, 1]),
      # Opposite: whatever is left of each is nothing.
      ({}, [[1, 0], [-3, 0]], [0, 0]),
    ],
  )


def test_without_conflict_it_is_the_mean():
  found = run("upgrad", np.abs(gradients(3)))
  np.testing.assert_array_equal(found.weights, np.full((64, 3), 1 / 3))


def test_it_is_linear_in_the_preference():
  grads = gradients(3)
  preference = np.random.default_rng(5).uniform(0, 2, (64, 3))
  found = run("upgrad", grads, preference=preference)
  expected = [
    p @ np.stack([project_dual_cone(g, e) for e in np.eye(3)])
    for g, p in zip(grads, preference, strict=True)
  ]
  assert_same(found.weights, np.stack(expected))


def test_the_preference_is_shared():
  assert_preference_is_shared("upgrad")


def test_nothing_is_added_to_the_gram_matrix():
  """A ridge of 1e-4 shows at every scale, an absolute one at small ones."""
  grads = gradients(3)
  for scale in (1e-30, 1e-5, 1e30):
    found = run("upgrad", scale * grads)
    assert_same(found.weights, run("upgrad", grads).weights, 1e-12)


@sizes
def test_it_hurts_no_task(num_tasks):
  data, found = cases(num_tasks), solved("upgrad", num_tasks)
  assert (found.weights >= np.float32(1 / num_tasks) * (1 - EPS)).all()
  products = data.products(found.weights)
  bound = DELTA * data.size(found.weights)
  # A condition number of 1e8 is beyond float32: the certificate says so.
  rows = data.without("ill_conditioned")
  assert found.converged[rows].all()
  assert_at_most(-products, bound, data.names, found.converged)


@sizes
def test_it_is_the_mean_of_the_exact_projections(num_tasks):
  """Against non-negative least squares, where `M` is benign for float32."""
  data, found = cases(num_tasks), solved("upgrad", num_tasks)
  rows = data.without("ill_conditioned", "conflicting", *STATIONARY)
  for i in np.flatnonzero(rows):
    grads = data.grads[i]
    exact = np.mean(
      [project_dual_cone(grads, e) for e in np.eye(num_tasks)], axis=0
    )
    error = found.updates[i] - exact @ grads
    # The error of |d|^2 is DELTA size^2, and of d its root at the worst, where
    # the active set is in doubt; elsewhere it is linear in DELTA.
    assert np.linalg.norm(error) <= 1e-4 * np.abs(exact) @ data.norms[i], (
      data.names[i]
    )
