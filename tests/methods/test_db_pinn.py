"""DB-PINN: the sheet's value, its statistics, and its edges."""

import jax
import numpy as np
import pytest
from one_step import close, together
from references import REFERENCES

import optax_mtl


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


#: Ratios of 2 and 4 to the residual's largest entry, 4.
GRADS = np.array([[4.0, 0.0], [2.0, -2.0], [1.0, 1.0]])


def run(losses, grads=None, active=None, **arguments):
  """The weights of each step."""
  losses = np.asarray(losses)
  grads = np.stack([GRADS] * len(losses)) if grads is None else grads
  active = np.ones(losses.shape, bool) if active is None else active
  tx = optax_mtl.db_pinn(losses.shape[1], **arguments)
  return together({"": tx}, grads, losses=losses, active=active)[""][1]


def test_first_call():
  """At first each loss is its own mean: both conditions get half of 2 + 4."""
  close(run([[1.0, 2.0, 0.3]]).weights, [[1.0, 3.0, 3.0]])


def test_each_gets_its_difficulty_of_the_whole():
  """A loss at twice its mean gets twice the share; then the mean of both."""
  states = run([[1.0, 1.0, 3.0], [1.0, 3.0, 1.5]], relative=False)
  # Means (2, 2.25): difficulties 3/2 and 2/3 of a total of 13/6.
  second = 6 * np.array([9 / 13, 4 / 13])
  close(states.weights[1], [1.0, *(3 + second) / 2])


@pytest.mark.parametrize("statistic", ["std", "kurt"])
def test_other_statistics(statistic):
  """As the loop of the reference has it; "mean" is in the contract's."""
  rng = np.random.default_rng(1)
  grads = [[[1.0], [30.0], [0.1]]] * rng.standard_normal((4, 3, 8))
  losses = np.exp(rng.standard_normal((4, 3)))
  expected = REFERENCES["db_pinn"](
    3, grads, {"losses": losses}, reference=2, statistic=statistic
  )
  states = run(losses, grads, reference=2, statistic=statistic)
  close(states.weights, expected, 1e-12)


def test_where_there_is_no_ratio():
  """A condition leaves the sums and keeps its weight; all without task 0."""
  losses = np.ones((6, 3))
  grads, active = np.stack([GRADS] * 6), np.ones((6, 3), bool)
  grads[1, 1] = 0
  active[2, 0] = False
  active[3, 1] = False
  grads[4, 0] = 0
  losses[5, 2] = -1.0
  weights = np.asarray(
    run(losses, grads, active, statistic="mean", relative=False).weights
  )
  close(weights[0], [1, 3, 3])
  # Condition 2 alone gets its 4.
  close(weights[1], [1, 3, 3.5])
  close(weights[2], [0, 3, 3.5])
  close(weights[3], [1, 0, (3 + 4 + 4) / 3])
  close(weights[4], [1, 3, 11 / 3])
  # A loss that turned negative gets nothing of 6: the mean with 0.
  close(weights[5], [1, (3 + 6) / 2, 11 / 4])


def test_losses_that_are_met():
  """Nothing to divide by: the conditions share alike."""
  close(run([[1.0, 0.0, 0.0]]).weights, [[1.0, 3.0, 3.0]])


def test_every_hundredth_step():
  """The running means are over the steps in which weights are computed."""
  losses = np.array([[1.0, 1.0, 3.0], [9.0, 9.0, 9.0], [1.0, 3.0, 1.5]])
  tx = optax_mtl.refresh_every(optax_mtl.db_pinn(3, relative=False), 2)
  grads = np.stack([GRADS] * 3)
  weights = together({"": tx}, grads, losses=losses)[""][1].weights
  expected = run(losses[::2], relative=False).weights
  close(weights, [expected[0], expected[0], expected[1]])


def test_arguments():
  with pytest.raises(ValueError, match="statistic must be one of 'mean'"):
    optax_mtl.db_pinn(2, statistic="max")
  with pytest.raises(ValueError, match="0 to 1; got 2"):
    optax_mtl.db_pinn(2, 2)
