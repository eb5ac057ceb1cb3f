"""Improvable gap balancing: its early epoch, its values, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, walk

import optax_mtl


def run(losses, active=None, **options):
  """The states of one run, [N, ...]."""
  losses = np.asarray(losses, np.float32)
  tx = optax_mtl.igb(losses.shape[1], **options)
  active = np.ones(losses.shape, bool) if active is None else active
  return walk(tx, np.eye(losses.shape[1]), losses=losses, active=active)[1]


def gap_weights(losses, base):
  power = np.exp(np.divide(losses, base))
  return len(losses) * power / power.sum() / losses


#: The second epoch's averages are (3, 6), whatever comes before.
LOSSES = np.array([[9.0, 1.0], [7.0, 2], [2.0, 4], [4.0, 8], [1.5, 12.0]])


def test_early_epoch():
  """`1 / L` until the epoch is over; then the gaps, at any scale."""
  for scale in (1.0, np.array([1e-15, 1e15])):
    states = run(LOSSES * scale, steps_per_epoch=2)
    close(states.weights[:4] * scale, 1 / LOSSES[:4])
    want = gap_weights(LOSSES[4], [3.0, 6.0])
    close(states.weights[4] * scale, want, 2e-6)
    # As the weights of the logarithms they sum to T.
    close(np.sum(states.weights[4] * LOSSES[4] * scale), 2)


def test_a_task_that_comes_late_has_its_own_early_epoch():
  active = np.ones((5, 2), bool)
  active[:2, 1] = False
  losses = [[2.0, 7.0], [2.0, 7.0], [2.0, 4.0], [4.0, 6.0], [4.0, 3.0]]
  states = run(losses, active, base_epoch=0, steps_per_epoch=2)
  close(states.weights[1], [0.5, 0])
  # The first task's base is 2; the second's ratio is 1 until it has one of 5.
  close(states.weights[3], gap_weights([4.0, 6.0], [2.0, 6.0]))
  close(states.weights[4], gap_weights([4.0, 3.0], [2.0, 5.0]))


def test_losses_that_have_no_logarithm():
  losses = [[1.0, 2.0], [np.nan, 2.0], [0.0, 2.0], [3.0, 4.0]]
  states = run(losses, base_epoch=0, steps_per_epoch=1)
  # The other task's softmax is over itself.
  close(states.weights[1:3], [[0, 0.5], [0, 0.5]])
  close(states.weights[3], gap_weights([3.0, 4.0], [1.0, 2.0]))
  with pytest.raises(ValueError, match="must not be negative, since igb"):
    run([[1.0, -1.0]], steps_per_epoch=1)
  tx = optax_mtl.igb(2, steps_per_epoch=1)
  update = jax.jit(lambda x: tx.update(np.eye(2), tx.init(x), losses=x)[1])
  close(update(jnp.array([2.0, -1.0])).weights, [0.5, 0])


def test_arguments():
  with pytest.raises(ValueError, match="base_epoch must be a whole"):
    optax_mtl.igb(2, base_epoch=0.5, steps_per_epoch=1)
  with pytest.raises(ValueError, match="steps_per_epoch must lie"):
    optax_mtl.igb(2, steps_per_epoch=0)
