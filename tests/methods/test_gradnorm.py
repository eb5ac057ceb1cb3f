"""GradNorm: its first step, its fixed points, and what it remembers."""

import jax
import numpy as np
import optax
import pytest
from one_step import close, repeat, step, train

import optax_mtl

NORMS = np.array([1.0, 4.0, 0.5])


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def test_first_step_for_every_alpha():
  """Rates are 1 at first, so the target is the mean norm for every α."""
  losses = np.array([1.0, 5.0, 9.0], np.float32)

  def first(alpha):
    tx = optax_mtl.gradnorm(3, alpha, optimizer=optax.sgd(0.1))
    return step(tx, np.diag(NORMS), losses=losses)

  alphas = np.array([0.0, 0.12, 1.5], np.float32)
  updates, state = jax.jit(jax.vmap(first))(alphas)
  mean = NORMS.mean()
  moved = 1 - 0.1 * np.sign(NORMS - mean) * NORMS / mean
  for row in range(3):
    close(updates[row], NORMS)
    close(state.memory.task_weights[row], 3 * moved / moved.sum())
    close(state.weights[row], np.ones(3))
    close(state.memory.initial_losses[row], losses)


def test_fixed_points(x64):
  """α=0: w ∝ 1/n; α=1: w ∝ r/n, with given initial losses."""
  losses, initial = np.array([1.0, 0.5, 2.0]), np.array([2.0, 2.0, 2.0])

  def settled(alpha):
    tx = optax_mtl.gradnorm(
      3,
      alpha,
      initial_losses=initial,
      optimizer=optax.sgd(optax.cosine_decay_schedule(0.02, 6000)),
    )
    return repeat(tx, np.diag(NORMS), 6000, losses=losses)

  alphas = np.array([0.0, 1.0])
  states = jax.vmap(settled)(alphas)
  for alpha, found in zip(alphas, states.memory.task_weights, strict=True):
    expected = (losses / initial) ** alpha / NORMS
    # The gradient is a sign: steps end at the size of the last ones.
    close(found, 3 * expected / expected.sum(), 2e-3)


def test_one_task_has_weight_one():
  state = repeat(optax_mtl.gradnorm(1), [[2.0]], 20, losses=[3.0])
  close(state.memory.task_weights, [1.0])


def test_a_task_without_a_gradient_is_not_compared_with():
  """The others go where they go without it, and share the rest of T."""
  state = repeat(optax_mtl.gradnorm(2), [[0.0], [2.0]], 20, losses=[1.0, 1.0])
  close(state.memory.task_weights, [1.0, 1.0])
  losses, rows = np.array([1.0, 2.0, 3.0]), np.diag([1.0, 0.0, 3.0])
  three = repeat(optax_mtl.gradnorm(3), rows, 20, losses=losses)
  two = repeat(
    optax_mtl.gradnorm(2), np.diag([1.0, 3.0]), 20, losses=losses[::2]
  )
  one, other = np.asarray(two.memory.task_weights)
  assert one - other > 0.1
  close(three.memory.task_weights, [one, 1.0, other])


def test_weights_stay_positive_and_sum_to_the_tasks():
  """Steps that would carry a weight below zero end at the floor."""
  tx = optax_mtl.gradnorm(2, optimizer=optax.sgd(5.0))
  state = repeat(tx, np.diag([1.0, 9.0]), 3, losses=[1.0, 1.0])
  weights = np.asarray(state.memory.task_weights)
  assert (weights > 0).all()
  close(weights.sum(), 2.0)


def test_running_mean_and_the_weights_from_before():
  """`mean_weights` is the mean of the learnt weights, for "static" training.

  And the network steps with the weights from before their step.
  """
  losses = [[1.0, 2.0], [2.0, 1.0], [0.5, 1.0], [1.0, 0.1]]
  _, states = train(optax_mtl.gradnorm(2), np.diag([1.0, 3.0]), losses=losses)
  learnt = np.asarray(states.memory.task_weights)
  close(states.memory.mean_weights[-1], learnt.mean(axis=0))
  close(states.weights[0], [1.0, 1.0])
  close(states.weights[1:], learnt[:-1])
  assert (np.abs(np.diff(learnt, axis=0)) > 1e-3).any(axis=1).all()


def test_an_absent_task_learns_nothing():
  """And those that are there keep their share of the sum T."""
  losses = np.ones((4, 3))
  active = np.ones((4, 3), bool)
  active[2:, 1] = False
  _, states = train(
    optax_mtl.gradnorm(3), np.diag(NORMS), losses=losses, active=active
  )
  memory = jax.tree.map(np.asarray, states.memory)
  for leaf in jax.tree.leaves(
    (memory.task_weights, memory.mean_weights, memory.task_weight_optimizer)
  ):
    if leaf.ndim > 1:
      np.testing.assert_array_equal(leaf[3][1], leaf[1][1])
  assert (memory.task_weights[3] != memory.task_weights[1])[[0, 2]].all()
  close(memory.task_weights.sum(axis=1), np.full(4, 3.0))
  assert memory.mean_count[3].tolist() == [4, 2, 4]


def test_norms_of_one_layer():
  """`norm_params` picks the last shared layer; the update is over all."""
  grads = {"a": np.array([[9.0], [1.0]]), "b": np.array([[1.0], [3.0]])}
  grads = jax.tree.map(lambda g: jax.numpy.asarray(g, "float32"), grads)
  params = jax.tree.map(lambda g: g[0], grads)
  losses, sgd = np.ones(2, np.float32), optax.sgd(0.1)
  tx = optax_mtl.gradnorm(2, norm_params={"a": False, "b": True}, optimizer=sgd)
  updates, state = tx.update(grads, tx.init(params), params, losses=losses)
  close(updates["a"], [10.0])
  _, expected = step(
    optax_mtl.gradnorm(2, optimizer=sgd), np.diag([1.0, 3.0]), losses=losses
  )
  close(state.memory.task_weights, expected.memory.task_weights)
