"""PCD: the primary task, and a share of its own progress for each other."""

import jax
import numpy as np
import pytest
from families import DELTA, EPS, assert_at_most, cases, solved
from one_step import (
  assert_oracles,
  gradients,
  lengths,
  repeat,
  run,
  step,
  together,
)
from references import REFERENCES

import optax_mtl
from optax_mtl.solvers import Status


def test_oracles():
  """From a fresh state, so on unit gradients."""
  root = np.sqrt(0.5)
  assert_oracles(
    "pcd",
    [
      # The paper's closed form for two: without conflict the primary alone.
      ({"tau": 0.5}, [[3, 0], [4, 3]], [3, 0]),
      # Orthogonal: τ of the other is added, and the length is the primary's.
      ({"tau": 1.0}, [[3, 0], [0, 9]], [3 * root, 3 * root]),
      # An angle of 135°: all of the conflict and τ = 0.
      ({"tau": 0.0}, [[1, 0], [-1, 1]], [root, root]),
      ({"tau": root}, [[1, 0], [-1, 1]], [0, 1]),
      # The primary's gradient is zero: the paper's halt.
      ({}, [[0, 0], [1, 2]], [0, 0]),
      # A secondary without gradient asks for nothing.
      ({}, [[1, 2], [0, 0]], [1, 2]),
      # Opposite ones: with τ = 0 zero is the nearest.
      ({"tau": 0.0}, [[1, 0], [-2, 0]], [0, 0]),
      ({"tau": 0.5}, [[1, 0], [-2, 0]], [-1, 0]),
      # Two opposite secondaries cannot both gain: the primary alone.
      ({}, [[0, 1, 0], [1, 1, 0], [-1, -1, 0]], [0, 1, 0]),
      ({"tau": 0.0}, [[1, 1, 0], [1, 0, 0], [-1, 0, 0]], [0, np.sqrt(2), 0]),
      # Another primary.
      ({"primary": 1, "tau": 1.0}, [[3, 0], [0, 9]], [9 * root, 9 * root]),
    ],
  )


@pytest.mark.parametrize("tau", [0.02, 0.5])
def test_against_all_supports(tau):
  grads = gradients(3)
  found = run("pcd", grads, tau=tau)
  expected = REFERENCES["pcd"](3, grads, {}, tau=tau, decay=0.0)
  np.testing.assert_allclose(found.weights, expected, rtol=1e-8, atol=1e-10)
  np.testing.assert_allclose(
    lengths(found.updates), lengths(grads[:, 0]), rtol=1e-12
  )


def test_a_secondarys_scale_does_not_matter():
  """The paper's theorem, and what replaces all the loss weights."""
  grads = gradients(3)
  scaled = grads * [[[1.0], [1e-9], [1e9]]]
  np.testing.assert_allclose(
    run("pcd", scaled).updates, run("pcd", grads).updates, rtol=1e-7, atol=1e-9
  )


def test_status():
  grads = np.array([[[0, 1, 0], [1, 1, 0], [-1, -1, 0]], np.eye(3)], float)
  found = run("pcd", grads)
  statuses = np.asarray(found.memory.certificate.status)
  assert statuses.tolist() == [Status.STATIONARY, Status.SOLVED]


def test_the_average_of_the_squares():
  """Bias-corrected, as Adam's: (.9 · 1 + .1 · ...), and absent tasks wait."""
  grads = np.stack([np.diag(row) for row in ([1.0, 1], [1, 3], [5, 9])])
  active = np.array([[True, True], [True, True], [True, False]])
  tx = optax_mtl.pcd(2, tau=1.0, decay=0.9)
  with jax.enable_x64(True):
    updates, states = together({"": tx}, grads, active=active)[""]
  averages = np.asarray(states.memory.square_average)
  average = (0.09 * 1 + 0.1 * 9) / 0.19
  np.testing.assert_allclose(averages[1], [1, average], rtol=1e-12)
  # τ‖g̃‖² of its own; of unit length.
  share = 3 / np.sqrt(average)
  expected = np.array([1, share]) / np.hypot(1, share)
  np.testing.assert_allclose(updates[1], expected, rtol=1e-12)
  assert averages[2, 1] == averages[1, 1] and averages[2, 0] > 2


def test_without_the_primary_the_others_are_summed():
  found = run("pcd", gradients(3), active=np.array([False, True, True]))
  np.testing.assert_array_equal(found.weights, [[0, 1, 1]] * 64)


def test_names_and_shares_by_name():
  grads = [[0.0, 9.0], [3.0, 0.0]]
  losses = {"aux": np.ones(()), "main": np.ones(())}
  tx = optax_mtl.pcd(2, tau={"aux": 1.0, "main": 0.3}, primary="main")
  updates, _ = jax.jit(lambda losses: step(tx, grads, losses=losses))(losses)
  np.testing.assert_allclose(updates, [3 * 0.5**0.5] * 2, rtol=1e-6)
  with pytest.raises(ValueError, match="primary='b', but the tasks are aux"):
    step(optax_mtl.pcd(2, primary="b"), grads, losses=losses)


def test_errors():
  with pytest.raises(ValueError, match="tau is the share .* got .*-0.1"):
    optax_mtl.pcd(2, tau=-0.1)
  with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
    optax_mtl.pcd(2, decay=1.0)
  with pytest.raises(ValueError, match="primary must be the index of one"):
    optax_mtl.pcd(2, primary=2)


def test_a_steady_gradient_is_a_unit_one():
  """Of constant gradients the average is the square, from the first on."""
  state = repeat(optax_mtl.pcd(2), [[3.0, 0.0], [0.0, 1e-3]], 30)
  np.testing.assert_allclose(
    state.memory.square_average, [9, 1e-6], rtol=30 * EPS
  )


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_every_secondary_gets_its_share(num_tasks):
  """The paper's guarantee, on every family, unless the status says otherwise.

  From a fresh state `‖g̃_j‖ = 1`: the products of the normalized direction with
  the units are τ at least, and its length is that of the primary.
  """
  data, found = cases(num_tasks), solved("pcd", num_tasks)
  norms = np.where(data.present, data.norms, 1)
  # The coefficients of `d̃` on the unit gradients, of which the primary's is 1.
  moved = data.present[:, 0] & found.weights.any(axis=1)
  own = np.where(moved, found.weights[:, 0] * norms[:, 0], 1)
  coefficients = found.weights / own[:, None]
  products = data.products(coefficients)[:, 1:]
  size = data.size(coefficients)
  there = data.present[:, 1:]
  rows = moved & found.converged
  assert rows[data.without("zero_rows", "all_zero", "stationary")].mean() > 0.8
  short = np.where(there, 0.02 - products, -1)
  assert_at_most(short, DELTA * size, data.names, rows)
  # Where nothing is added the primary stays as it is, and where the others'
  # constraints are dropped.
  dropped = found.status == Status.STATIONARY
  assert (found.weights[dropped, 1:] == 0).all()
  # Nothing more is added than it must: an added one's product is τ.
  added = coefficients[:, 1:] * norms[:, 1:] > 4 * EPS * size[:, None]
  assert_at_most(
    np.where(added, products - 0.02, 0), DELTA * size, data.names, rows
  )
