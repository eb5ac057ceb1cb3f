"""PCGrad: the paper's loop, in orders that are drawn as the paper asks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import AMONG, DELTA, SIZES, assert_at_most, cases, solved
from one_step import (
  CONFLICT,
  ORTHOGONAL,
  RTOL,
  assert_oracles,
  assert_same,
  gradients,
  run,
  run_batch,
)
from references import drawn_orders, surgery

import optax_mtl


def test_oracles():
  assert_oracles(
    "pcgrad",
    [
      ({}, CONFLICT, [0.5, 1.5]),
      ({}, ORTHOGONAL, [1, 2, 3]),
      # A task without gradient meets nobody.
      ({}, [[1, 0], [0, 0]], [1, 0]),
    ],
  )


def test_the_mean_is_over_the_active_tasks():
  mask = np.array([[True, True, True], [True, True, False]])
  grads = gradients(3)[:2]
  found = run("pcgrad", grads, active=mask, reduction="mean")
  summed = run("pcgrad", grads, active=mask)
  assert_same(found.updates, summed.updates / [[3], [2]])
  assert (summed.weights[1] >= [1, 1, 0]).all() and summed.weights[1, 2] == 0


def test_two_tasks_are_twice_upgrad():
  grads = gradients(2)
  twice = 2 * run("upgrad", grads).updates
  assert_same(run("pcgrad", grads).updates, twice)
  assert (np.einsum("np,np->n", grads[:, 0], grads[:, 1]) < 0).any()


def test_small_gradients_conflict_as_large_ones_do():
  """An absolute constant beside n² makes the mean of it at scale 1e-5."""
  grads = gradients(3)
  for scale in (1e-30, 1e-5, 1e30):
    found = run("pcgrad", scale * grads)
    assert_same(found.weights, run("pcgrad", grads).weights, 1e-12)


@pytest.mark.parametrize("num_tasks", [*SIZES, 40])
def test_it_is_the_papers_loop(num_tasks):
  """Continuous in every product, so that rounding one sign does no harm."""
  data, found = cases(num_tasks), solved("pcgrad", num_tasks)
  # The orders of all that there are, without those that are absent.
  orders = drawn_orders(1, AMONG.get(num_tasks, num_tasks))[0][:num_tasks]
  orders = [order[order < num_tasks] for order in orders]
  for name, grads, norms, w in zip(
    data.names, data.grads, data.norms, found.weights, strict=True
  ):
    # Each step turns the error of what is left of a gradient into one of its
    # coefficients, so that it is the loop's size that counts.
    parts = surgery(grads, orders)
    size = np.sum(np.abs(parts) @ norms)
    error = np.linalg.norm((w - parts.sum(axis=0)) @ grads)
    assert error <= DELTA * size, (name, error / size)
    assert (w >= 1).all()
  if num_tasks == 2:
    products = data.products(found.weights)
    assert_at_most(-products, DELTA * data.size(found.weights), data.names)


# Each projected gradient of these four takes two values, depending on its own
# order: 16 results, of which 4 occur if all share one order.
SIXTEEN = np.array([[3, 3, -2], [0, 1, 3], [-3, 2, 3], [3, -2, -3]], float)
DRAWS = 4096


def exact_distribution(grads):
  """Result (rounded) -> its probability, over all orders of each task."""
  num_tasks = len(grads)
  orders = list(itertools.permutations(range(num_tasks)))
  parts = [{} for _ in grads]
  for order in orders:
    rows = surgery(grads, np.array([order] * num_tasks)) @ grads
    for part, row in zip(parts, rows, strict=True):
      key = tuple(np.round(row, 9) + 0.0)
      part[key] = part.get(key, 0) + 1 / len(orders)
  result = {}
  for combination in itertools.product(*(part.items() for part in parts)):
    key = key_of(np.sum([row for row, _ in combination], axis=0))
    chance = np.prod([chance for _, chance in combination])
    result[key] = result.get(key, 0) + chance
  return result


def key_of(update):
  return tuple(np.round(np.asarray(update, np.float64), 3) + 0.0)


def assert_distributed(updates):
  expected = exact_distribution(SIXTEEN)
  assert len(expected) == 16 and abs(sum(expected.values()) - 1) < 1e-12
  counts = dict.fromkeys(expected, 0)
  for update in updates:
    counts[key_of(update)] += 1
  for key, chance in expected.items():
    # Five standard deviations: one run in 1e5 fails, and the seeds are fixed.
    deviation = np.sqrt(len(updates) * chance * (1 - chance))
    assert abs(counts[key] - len(updates) * chance) <= 5 * deviation, key
  return expected


@functools.cache
def over_seeds():
  grads = np.broadcast_to(SIXTEEN, (DRAWS, 4, 3))
  return run_batch("pcgrad", grads, traced={"seed": np.arange(DRAWS)})


def test_orders_over_seeds():
  """All 16 results occur as often as independent orders make them."""
  assert_distributed(over_seeds().updates)


def test_orders_over_steps():
  """The same over the steps of one run, and no step repeats the last one's."""
  tx = optax_mtl.pcgrad(4)
  grads = jnp.asarray(SIXTEEN, jnp.float32)

  @jax.jit
  def train():
    def step(state, _):
      updates, state = tx.update(grads, state)
      return state, updates

    return jax.lax.scan(step, tx.init(grads[0]), None, length=DRAWS)[1]

  updates = np.asarray(train())
  expected = assert_distributed(updates)
  again = np.mean(
    [key_of(a) == key_of(b) for a, b in itertools.pairwise(updates)]
  )
  chance = sum(p**2 for p in expected.values())
  assert abs(again - chance) <= 5 * np.sqrt(chance * (1 - chance) / DRAWS)


def test_the_same_orders_in_either_precision():
  """They are those of the references of the other tests, for every seed."""
  single = over_seeds().weights[:8]
  double = run("pcgrad", [SIXTEEN[[0, 1, 3]]] * 8, seed=np.arange(8)).weights
  for found, grads, rtol in (
    (single, SIXTEEN, 1e-5),
    (double, SIXTEEN[[0, 1, 3]], RTOL),
  ):
    different = set()
    for seed, weights in enumerate(found):
      orders = drawn_orders(1, len(grads), seed)[0]
      expected = surgery(grads, orders).sum(axis=0)
      np.testing.assert_allclose(weights, expected, rtol=rtol)
      different.add(tuple(expected.round(6)))
    assert len(different) > 1
