"""Smooth Tchebycheff: its softmax, its limits, and LibMTL's variant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, step, walk

import optax_mtl

LOSSES = np.float32([3.0, 1.0, 2.0])


def weights(losses=LOSSES, preference=None, extra=(), **options):
  tx = optax_mtl.stch(len(losses), preference, **options)
  more = {"losses": losses, **dict(extra)}
  return step(tx, np.eye(len(losses)), **more)[1].weights


def test_is_the_gradient_of_the_soft_maximum():
  wanted, ideal, mu = jnp.array([1.0, 2.0, 0.5]), jnp.array([0.5, 0, 1]), 0.7

  def soft_maximum(losses):
    return mu * jax.nn.logsumexp(wanted * (losses - ideal) / mu)

  want = jax.grad(soft_maximum)(jnp.asarray(LOSSES))
  close(weights(preference=wanted, mu=mu, ideal=ideal), want)
  # As an extra arg it comes before the argument.
  extra = {"preference": wanted}
  other = [7.0, 7.0, 7.0]
  found = weights(preference=other, mu=mu, ideal=ideal, extra=extra)
  close(found, want)
  named = {"c": 0.5, "a": 1.0, "b": 2.0}
  losses = dict(zip("abc", map(jnp.asarray, LOSSES), strict=True))
  tx = optax_mtl.stch(3, named, mu=mu, ideal={"a": 0.5, "b": 0.0, "c": 1.0})
  close(step(tx, np.eye(3), losses=losses)[1].weights, want)


def test_limits():
  """A small `μ` is the maximum, a large one equal weights; at any scale."""
  for scale in (1e-15, 1.0, 1e15):
    losses = LOSSES * np.float32(scale)
    close(weights(losses, mu=1e-3 * scale, ideal=0.0), [1, 0, 0])
    close(weights(losses, mu=1e6 * scale, ideal=0.0), np.full(3, 1 / 3), 1e-5)


def test_the_least_so_far():
  """Noted in each step; a loss that is not finite is none."""
  losses = np.float32([[2, 3], [1, np.nan], [4, 4]])
  states = walk(optax_mtl.stch(2), np.eye(2), losses=losses)[1]
  close(states.weights[0], [0.5, 0.5])
  close(states.weights[1], [1, 0])
  close(states.memory.lowest_losses[-1], [1, 3])
  power = np.exp([3.0, 1.0])
  close(states.weights[2], power / power.sum())


def test_log():
  """`1 / L` in the warm-up, and `T softmax(log(L / L_b) / μ) / L` after it."""
  losses = np.float32([[9, 9], [1, 4], [3, 8], [8, 3]])
  options = {"variant": "log", "steps_per_epoch": 2, "mu": 0.5}
  for warmup, base in ((0, [5, 6.5]), (1, None)):
    tx = optax_mtl.stch(2, warmup_epochs=warmup, **options)
    found = walk(tx, np.eye(2), losses=losses)[1].weights
    close(found[:2], 1 / losses[:2])
    if base is None:
      close(found, 1 / losses)
    else:
      power = (losses[3] / np.float64(base)) ** 2
      close(found[3], 2 * power / power.sum() / losses[3])
  with pytest.raises(ValueError, match="must not be negative, since stch"):
    weights(-LOSSES, **options)
  close(weights(np.float32([0, 2, 4]), **options), [0, 0.5, 0.25])


def test_arguments():
  for options, words in (
    ({"variant": "log"}, "steps_per_epoch= belongs to variant='log'"),
    ({"steps_per_epoch": 2}, "steps_per_epoch= belongs to variant='log'"),
    (
      {"variant": "log", "steps_per_epoch": 2, "ideal": 0.0},
      "ideal= belongs to variant='original'",
    ),
    ({"mu": 0.0}, "mu must lie"),
    ({"preference": [-1.0, 1.0, 1.0]}, "preference must hold"),
  ):
    with pytest.raises(ValueError, match=words):
      weights(**options)
  negative = {"preference": np.float32([-1.0, 1.0, 1.0])}
  with pytest.raises(ValueError, match="preference= must not be negative"):
    weights(extra=negative)
