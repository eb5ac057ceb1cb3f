"""M-ConFIG: one backward pass, whose turn it is, and Adam for one task."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import close, walk

import optax_mtl
from benchmarks.reference.methods import REFERENCES


@pytest.mark.standard_promotion
def test_one_task_is_adam():
  """Its momentum is the update, so that the pseudo gradient is the gradient."""
  data = harness.tasks_of(harness.data(), (0,))
  mine = harness.run(
    "m_config", data, tasks=(0,), b1=0.5, b2=0.9, eps=1e-3
  ).updates
  adam = optax.scale_by_adam(b1=0.5, b2=0.9, eps=1e-3)
  grads = jax.tree.map(lambda g: jnp.asarray(g[:, 0], jnp.float32), data.grads)

  def step(state, row):
    updates, state = adam.update(row, state)
    return state, updates

  _, updates = jax.lax.scan(step, adam.init(harness.params()), grads)
  # Momenta of like size are subtracted and divided by `1 - β1`.
  harness.assert_close(mine, harness.flat(updates, 1), 1.0, 1e-4)


def test_turns():
  """In a circle, from one task that is there to the next; others stand still.

  Rows with one entry each show whose momentum has moved.
  """
  active = np.ones((8, 3), bool)
  active[2, 2] = active[3, 0] = active[7, 0] = False
  active[5] = False
  updates, states = walk(
    optax_mtl.m_config(3), np.diag([1.0, 2.0, 3.0]), active=active
  )
  #         0  1  2 is absent: 0  1 for 0  2  none  0  1
  turns = [0, 1, 0, 1, 2, None, 0, 1]
  counts = np.zeros((8, 3), int)
  for step, turn in enumerate(turns):
    counts[step:] += np.eye(3, dtype=int)[turn] if turn is not None else 0
  np.testing.assert_array_equal(states.momentum_steps, counts)
  close(states.next_task, [1, 2, 1, 2, 0, 0, 1, 2])
  momenta = np.diagonal(states.task_momenta, axis1=1, axis2=2)
  close(momenta, [1, 2, 3] * (1 - 0.9**counts), rtol=1e-5)
  # Nothing until all that are there had a turn: at 2 they had, at 3 not.
  moved = np.any(np.asarray(updates) != 0, axis=1)
  np.testing.assert_array_equal(
    moved, [False, False, True, False, True, False, True, True]
  )
  close(states.pseudo_step, [0, 0, 1, 1, 2, 2, 3, 4])
  # An absent task takes no part in the update, also if it has a momentum.
  assert updates[2][2] == 0 and (updates[2][:2] > 0).all()
  assert updates[7][0] == 0 and (updates[7][1:] > 0).all()


def test_the_trunk_alone():
  """Momenta and updates of the trunk; heads get their own gradients."""
  data = jax.tree.map(lambda leaf: leaf[:5], harness.data())
  tx = optax_mtl.on_trunk(optax_mtl.m_config(3), harness.SHARED)
  rows, params = harness.to_dtype(data, "float32"), harness.params()
  state, updates = tx.init(params), []
  for step in range(5):
    grads = harness.row_of(rows, step).grads
    new, state = tx.update(grads, state, params)
    updates.append(new)
  raw = jax.tree.map(lambda *leaves: np.stack(leaves), *updates)
  trunk = harness.flat(data.grads["trunk"], 2)
  expected = REFERENCES["m_config"](3, trunk, {})
  got = harness.flat(raw["trunk"], 1)
  harness.assert_close(got, expected, np.abs(expected).max(), 1e-4)
  heads = harness.flat(data.grads["head"], 2).sum(axis=1)
  harness.assert_close(harness.flat(raw["head"], 1), heads, 8.0, 1e-6)
  assert not np.any(state.task_momenta["head"])
