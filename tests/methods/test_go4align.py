"""GO4Align: its risks, and its k-means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, step, walk

import optax_mtl
from benchmarks.reference.methods.go4align import group_means as by_trying
from optax_mtl.methods.losses.go4align import group_means


def test_k_means_is_exact():
  """Beside trying all groups; those that do not count are not looked at."""
  rng = np.random.default_rng(0)
  values = np.exp(2 * rng.standard_normal((40, 7))).astype(np.float32)
  counts = rng.uniform(size=(40, 7)) < 0.7
  counts[0] = False
  solve = jax.jit(jax.vmap(lambda x, there: group_means(x, there, 3)))
  found = np.asarray(solve(values, counts))
  for row, mean, there in zip(values, found, counts, strict=True):
    if there.any():
      close(mean[there], by_trying(np.float64(row[there]), 3))
  # At the ends of the range, where squares leave it.
  for scale in (1e-30, 1e30):
    close(solve(values * np.float32(scale), counts) / scale, found, 1e-5)


def weights(losses, num_groups, active=None, **options):
  tx = optax_mtl.go4align(len(losses), num_groups, **options)
  extra = {} if active is None else {"active": active}
  return step(tx, np.eye(len(losses)), losses=losses, **extra)[1].weights


def test_values():
  """`q = ΣL / (T L)` with equal risks, and the means of its groups."""
  losses = np.float32([1, 1.25, 5])
  q = 7.25 / (3 * losses.astype(float))
  close(weights(losses, 3, rate=0.0), q)
  close(weights(losses, 2, rate=0.0), [q[:2].mean()] * 2 + [q[2]])
  close(weights(losses, 1, rate=0.0), np.full(3, q.mean()))
  for scale in (1e-15, 1e15):
    close(weights(losses * np.float32(scale), 3, rate=0.0), q)
  active = np.array([True, False, True])
  want = [(q[0] + q[2]) / 2 * 6 * 3 / (7.25 * 2)] * 2
  close(weights(losses, 1, active, rate=0.0), np.insert(want, 1, 0))


def test_risks():
  """`p exp(-η L)` in each step, an absent task's aside."""
  losses = np.float32([[1, 2], [3, 1], [1, 1]])
  active = np.array([[True, True], [True, False], [True, True]])
  tx = optax_mtl.go4align(2, 2, rate=0.5)
  states = walk(tx, np.eye(2), losses=losses, active=active)[1]
  risk = np.exp([-0.5, -1.0])
  close(states.weights[0], risk / risk.sum() * 3 / losses[0])
  close(states.weights[1], [1, 0])
  close(states.memory.log_risks[1, 1], states.memory.log_risks[0, 1])
  # Losses in the thousands leave all the risk to one, and no NaN.
  close(weights(np.float32([1e15, 2e15]), 2), [3, 0])


def test_losses_that_cannot_divide():
  for other in (0.0, np.nan, np.inf):
    close(weights(np.float32([2, other, 2]), 2), [1, 0, 1])
  close(weights(np.zeros(3, np.float32), 1), [0, 0, 0])
  with pytest.raises(ValueError, match="must not be negative, since go4align"):
    weights(np.float32([2, -1]), 2)
  with pytest.raises(ValueError, match=r"num_groups must lie in \[1, 2\]"):
    optax_mtl.go4align(2, 3)
  found = jax.jit(lambda x: weights(x, 2))(jnp.array([2.0, -1.0]))
  close(found, [1, 0])
