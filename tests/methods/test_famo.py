"""FAMO: its first steps, its minimum, and whose losses teach what."""

import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, step, walk

import optax_mtl

GRADS = np.eye(2)


def softmax(logits):
  power = np.exp(logits - np.max(logits))
  return power / power.sum()


def weights(losses, previous=None, active=None, **options):
  """The weights of a run, [N, 2]."""
  extra = {"losses": np.asarray(losses)}
  if previous is not None:
    extra["previous_losses"] = np.asarray(previous)
  if active is not None:
    extra["active"] = np.asarray(active)
  return walk(optax_mtl.famo(2, **options), GRADS, **extra)[1].weights


def test_two_steps():
  """Adam's first step is its rate, against the sign of the gradient."""
  # What the first update's `previous_losses` say is about nothing.
  found = weights([[1.0, 4.0], [1.0, 1.0]], [[9.0, 9.0], [0.5, 4.0]], decay=0)
  close(found[0], [0.8, 0.2])
  # Task 0 fell more, so that its logit falls.
  close(found[1], softmax([-0.025, 0.025]), rtol=1e-5)


def test_the_next_losses_stand_in():
  found = weights([[4.0, 4.0], [1.0, 2.0]])
  same = weights([[4.0, 4.0], [1.0, 2.0]], [[9.0, 9.0], [1.0, 2.0]])
  close(found, same)
  other = weights([[4.0, 4.0], [1.0, 2.0]], [[9.0, 9.0], [2.0, 1.0]])
  assert other[1, 0] > found[1, 0]


def test_what_cannot_be_compared_teaches_nothing():
  """After the step, of a task that was not in it; a loss that is no number."""
  losses = np.tile([1.0, 4.0], (3, 1))
  after = [[1.0, 1.0], [1.0, 1.0], [0.1, 4.0]]
  active = np.array([[True, True], [False, False], [True, True]])
  # Nobody took part in the second update.
  close(weights(losses, after, active, decay=0)[2], [0.8, 0.2])
  # The next losses compare with the last that there were.
  losses[2, 0] = 0.1
  learnt = softmax(np.array([-0.025, 0.025]) - np.log([0.1, 4.0]))
  close(weights(losses, None, active, decay=0)[2], learnt, rtol=1e-5)
  spoilt = np.array([[1.0, 4.0], [np.inf, 4.0], [1.0, 4.0]])
  close(weights(spoilt, decay=0)[2], [0.8, 0.2])


def test_the_minimum():
  """A number or one a task; a loss below it is taken for at it."""
  losses = jnp.array([3.0, 6.0])
  for minimum, want in (
    (2.0, [0.8, 0.2]),
    ([2.0, 5.0], [0.5, 0.5]),
    ([2.0, 7.0], [1e-6, 1.0]),
  ):
    tx = optax_mtl.famo(2, min_losses=minimum, eps=1e-6)
    _, state = step(tx, GRADS, losses=losses)
    close(state.weights, want, rtol=1e-5)
  named = {"a": jnp.array(3.0), "b": jnp.array(6.0)}
  tx = optax_mtl.famo(2, min_losses={"a": 2.0, "b": 5.0})
  close(step(tx, GRADS, losses=named)[1].weights, [0.5, 0.5])
  with pytest.raises(ValueError, match="min_losses= for the tasks a, c"):
    step(
      optax_mtl.famo(2, min_losses={"a": 0.0, "c": 0.0}), GRADS, losses=named
    )


def test_the_norm_is_limited_where_it_is_asked_for():
  updates, state = step(
    optax_mtl.famo(2, max_norm=0.5), 10 * GRADS, losses=jnp.array([1.0, 1.0])
  )
  close(np.linalg.norm(updates), 0.5)
  close(state.weights, [0.5, 0.5])
