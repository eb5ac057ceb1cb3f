"""DualProj: the mean's projection on the dual cone."""

import numpy as np
from families import DELTA, EPS, assert_at_most, cases, sizes, solved
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
    "dual_proj",
    [
      ({}, CONFLICT, [0, 0.5]),
      ({}, ORTHOGONAL, [1 / 3, 2 / 3, 1]),
      # The mean hurts the second task: half of that task is added.
      ({}, [[4, 0], [-1, 1]], [1, 1]),
    ],
  )


def test_without_conflict_it_is_the_mean():
  found = run("dual_proj", np.abs(gradients(3)))
  np.testing.assert_array_equal(found.weights, np.full((64, 3), 1 / 3))


def test_a_preference_is_another_mean():
  grads = gradients(3)
  preference = np.random.default_rng(5).uniform(0, 2, (64, 3))
  found = run("dual_proj", grads, preference=preference)
  expected = [
    project_dual_cone(g, p) for g, p in zip(grads, preference, strict=True)
  ]
  assert_same(found.weights, np.stack(expected))


def test_the_preference_is_shared():
  assert_preference_is_shared("dual_proj")


@sizes
def test_it_hurts_no_task_and_adds_no_more_than_it_must(num_tasks):
  data, found = cases(num_tasks), solved("dual_proj", num_tasks)
  assert (found.weights >= np.float32(1 / num_tasks) * (1 - EPS)).all()
  products = data.products(found.weights)
  bound = DELTA * data.size(found.weights)
  # A condition number of 1e8 is beyond float32: the certificate says so.
  rows = data.without("ill_conditioned")
  assert found.converged[rows].all()
  assert_at_most(-products, bound, data.names, found.converged)
  # Optimality: what was added is orthogonal to the update.
  added = found.weights - 1 / num_tasks > 4 * EPS * found.weights
  assert_at_most(
    np.where(added, np.abs(products), 0), bound, data.names, found.converged
  )
