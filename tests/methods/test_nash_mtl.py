"""Nash-MTL: equal gains, whatever the losses' scales."""

import numpy as np
from families import DELTA, STATIONARY, assert_at_most, cases, sizes, solved
from one_step import (
  CONFLICT,
  ORTHOGONAL,
  RTOL,
  assert_oracles,
  assert_parallel,
  assert_same,
  gradients,
  lengths,
  run,
)

import optax_mtl

BISECTOR = np.array([np.sin(np.pi / 8), np.cos(np.pi / 8)])


def test_oracles():
  """The bisector of two gradients, of length 1, or sqrt(2) unlimited."""
  assert_oracles(
    "nash_mtl",
    [
      ({}, CONFLICT, BISECTOR),
      ({"max_norm": np.inf}, CONFLICT, np.sqrt(2) * BISECTOR),
      ({"max_norm": 1e3}, ORTHOGONAL, [1, 1, 1]),
    ],
  )


def test_two_tasks_get_the_sum_of_their_unit_gradients():
  """Of any length √T = √2: that of a bisector is what makes it unequal."""
  grads = gradients(2)
  units = (grads / lengths(grads)).sum(axis=1)
  assert_parallel(run("nash_mtl", grads).updates, units)


def test_the_norm_is_the_root_of_the_number_of_tasks():
  """So the default limit of 1 always acts, and leaves the weights alone."""
  for num_tasks in (2, 3):
    grads = gradients(num_tasks)
    free = run("nash_mtl", grads, max_norm=np.inf)
    np.testing.assert_allclose(
      lengths(free.updates), np.sqrt(num_tasks), rtol=RTOL
    )
    limited = run("nash_mtl", grads)
    np.testing.assert_allclose(lengths(limited.updates), 1, rtol=RTOL)
    assert_parallel(limited.updates, free.updates)
    np.testing.assert_array_equal(limited.weights, free.weights)


def test_no_limit_is_none():
  assert optax_mtl.nash_mtl(3, max_norm=None).rule.max_norm is None
  assert optax_mtl.nash_mtl(3).rule.max_norm == 1


def test_it_does_not_see_the_scale_of_a_loss():
  grads = gradients(2)
  scales = np.exp(np.random.default_rng(3).normal(0, 3, (64, 2, 1)))
  assert_same(
    run("nash_mtl", grads * scales).updates, run("nash_mtl", grads).updates
  )


@sizes
def test_gains_are_equal(num_tasks):
  """alpha_i (M alpha)_i = 1 for tasks with a gradient, and |d| = sqrt(T)."""
  data, found = cases(num_tasks), solved("nash_mtl", num_tasks)
  scaled = found.weights * data.norms
  gains = scaled * data.products(found.weights)
  solvable = data.without(*STATIONARY)
  assert (found.weights[~data.present] == 0).all()
  assert (found.weights[data.present] > 0).all()
  error = np.where(data.present, np.abs(gains - 1), 0)
  bound = DELTA * scaled * (1 + data.size(found.weights)[:, None])
  bound = bound + DELTA
  assert_at_most(error, bound, data.names, solvable)
  # The bound says something on most matrices.
  benign = data.without("ill_conditioned", "conflicting", *STATIONARY)
  assert bound[benign].max() < 0.1
  assert found.converged[benign].all()
  count = data.present.sum(axis=1)
  norm = np.linalg.norm(found.updates, axis=1)
  assert_at_most(
    np.abs(norm - np.sqrt(count)), bound.sum(axis=1), data.names, solvable
  )
  if num_tasks > 1:
    assert not found.converged[data.names == "stationary"].any()


@sizes
def test_it_keeps_to_the_limit(num_tasks):
  """To a rounding: it is measured on the update itself."""
  data = cases(num_tasks)
  found = solved("nash_mtl", num_tasks, max_norm=1.0)
  norm = np.linalg.norm(found.updates, axis=1)
  assert_at_most(norm, 1 + DELTA, data.names)
