"""Dynamic weight average: its formula, its epochs, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
from one_step import close, train

import optax_mtl


def run(losses, temperature=2.0, steps_per_epoch=1, active=None):
  """The states of one run, [N, ...]."""
  losses = jnp.asarray(losses, jnp.float32)
  tx = optax_mtl.dwa(
    losses.shape[1], temperature, steps_per_epoch=steps_per_epoch
  )
  active = np.ones(losses.shape, bool) if active is None else active
  return train(tx, np.eye(losses.shape[1]), losses=losses, active=active)[1]


def test_weights_of_the_third_epoch():
  """Averages (1,2,3) after (2,2,2); ones until then, whatever comes."""
  losses = [
    [1.0, 3.0, 2.0],
    [3.0, 1.0, 2.0],
    [0.5, 2.5, 4.0],
    [1.5, 1.5, 2.0],
    [9.0, 9.0, 9.0],
  ]
  weights = np.asarray(run(losses, steps_per_epoch=2).weights)
  close(weights[:4], np.ones((4, 3)))
  close(weights[4], [0.76282564, 0.97948751, 1.25768685])


#: Three epochs of one step, for one compilation: losses, temperature, weights.
EDGES = {
  "hot": ([[2.0, 2.0], [1.0, 2.0], [1.0, 2.0]], 1e9, [1.0, 1.0]),
  # A softmax that overflows without its maximum subtracted.
  "cold": ([[1.0, 1.0], [1.0, 9.0], [1.0, 1.0]], 1e-3, [0.0, 2.0]),
  # A loss of zero has no ratio: 1.
  "zero": ([[0.0, 2.0], [1.0, 2.0], [1.0, 2.0]], 2.0, [1.0, 1.0]),
  "not finite": ([[1.0, 2.0], [np.inf, 2.0], [1.0, 2.0]], 2.0, [1.0, 1.0]),
  "plain": (
    [[1.0, 1.0], [3.0, 1.0], [1.0, 1.0]],
    2.0,
    2 * np.exp([1.5, 0.5]) / np.exp([1.5, 0.5]).sum(),
  ),
  # The same, each loss in units of its own.
  "scaled": (
    [[1e-6, 1e6], [3e-6, 1e6], [1e-6, 1e6]],
    2.0,
    2 * np.exp([1.5, 0.5]) / np.exp([1.5, 0.5]).sum(),
  ),
}


def test_edges():
  losses, temperatures, expected = zip(*EDGES.values(), strict=True)
  states = jax.vmap(run)(
    np.asarray(losses, np.float32), np.asarray(temperatures, np.float32)
  )
  for name, found, wanted in zip(EDGES, states.weights, expected, strict=True):
    np.testing.assert_allclose(found[-1], wanted, rtol=1e-5, err_msg=name)


def test_one_task_has_weight_one():
  close(run([[3.0], [1.0], [2.0]]).weights, np.ones((3, 1)))


def test_a_task_that_was_absent_for_an_epoch_keeps_its_averages():
  losses = [[2.0, 2.0], [1.0, 2.0], [5.0, 5.0], [7.0, 8.0]]
  active = np.ones((4, 2), bool)
  active[2, 0] = False
  states = run(losses, active=active)
  close(states.memory.last_epoch_loss[2], [1.0, 2.0])
  close(states.memory.last_epoch_loss[3], [1.0, 5.0])
  close(states.memory.previous_epoch_loss[3], [2.0, 2.0])
  # The weights of those that are there sum to their number.
  close(states.weights[2], [0.0, 1.0])
  close(states.weights[3].sum(), 2.0)


def test_epochs_count_steps_and_not_refreshes():
  """Under `refresh_every` the averages are over all steps of an epoch."""
  losses = np.random.default_rng(0).uniform(1, 2, (8, 2)).astype(np.float32)
  plain = run(losses, steps_per_epoch=2)
  tx = optax_mtl.refresh_every(optax_mtl.dwa(2, steps_per_epoch=2), 3)
  _, states = train(tx, np.eye(2), losses=losses)
  np.testing.assert_array_equal(states.weights[6], plain.weights[6])
  assert (np.asarray(states.weights[6]) != 1).all()
  np.testing.assert_array_equal(
    states.memory.inner.last_epoch_loss, plain.memory.last_epoch_loss
  )
