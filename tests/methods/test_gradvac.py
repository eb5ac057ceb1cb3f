"""GradVac: the paper's loop, and PCGrad where nothing is usual yet."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import (
  AMONG,
  DELTA,
  SIZES,
  assert_at_most,
  cases,
  drawn,
  integers,
  solved,
  solved_on,
)
from few_examples import few
from one_step import (
  CONFLICT,
  assert_oracles,
  assert_same,
  gradients,
  repeat,
  run,
  step,
)
from references import drawn_orders, vaccine

import optax_mtl

# The share of (-1, 1) that turns (1, 0), which is 135° away, to 60°: by the law
# of sines sin 75° / (√2 sin 60°).
SHARE = np.sin(np.pi * 5 / 12) / np.sin(np.pi / 3) / np.sqrt(2)


def test_oracles():
  turned = np.array([1 - SHARE, SHARE]) + np.array([-1 + 2 * SHARE, 1])
  assert_oracles(
    "gradvac",
    [
      ({}, CONFLICT, [0.5, 1.5]),
      ({"initial_cosine": 0.5}, CONFLICT, turned),
      # A task without gradient meets nobody.
      ({"initial_cosine": 0.5}, [[1, 0], [0, 0]], [1, 0]),
      # Where opposite gradients leave nothing there is nothing to turn.
      ({}, [[1, 0], [-1, 0], [0, 2]], [0, 2]),
    ],
  )


def test_the_first_step_is_pcgrad():
  grads = gradients(3)
  found, plain = run("gradvac", grads), run("pcgrad", grads)
  assert_same(found.weights, plain.weights, 1e-12)
  assert (plain.weights > 1).any()


def test_two_tasks_reach_the_usual_cosine():
  """It is what the formula is made for."""
  grads = gradients(2)
  for target in (-0.3, 0.4, 0.8):
    targets = np.array([[0, target], [target, 0]])
    for g in grads[:16]:
      parts, _ = vaccine(g, np.array([[1, 0], [0, 1]]), targets, 0.0)
      left, other = parts[0] @ g, g[1]
      norms = np.linalg.norm(left) * np.linalg.norm(other)
      before = g[0] @ g[1] / np.linalg.norm(g[0]) / np.linalg.norm(g[1])
      assert abs(left @ other / norms - max(before, target)) < 1e-9
    weights = run("gradvac", grads, initial_cosine=target, beta=0.0).weights
    first = [
      vaccine(g, np.array([[1, 0], [0, 1]]), targets, 0.0)[0].sum(axis=0)
      for g in grads
    ]
    assert_same(weights, np.stack(first))


def test_cosines_move_whether_or_not_they_were_below():
  _, state = step(optax_mtl.gradvac(2, beta=0.5), [[1.0, 0.0], [3.0, 4.0]])
  np.testing.assert_allclose(
    state.memory.cosine_targets, [[0, 0.3], [0.3, 0]], rtol=1e-6
  )
  _, state = step(optax_mtl.gradvac(2, beta=0.5), [[1.0, 0.0], [-3.0, 4.0]])
  np.testing.assert_allclose(
    state.memory.cosine_targets, [[0, -0.3], [-0.3, 0]], rtol=1e-6
  )


def test_parallel_gradients_stay_as_they_are():
  """Their usual cosine is 1, where the formula divides by zero."""
  grads = np.array([[1.0, 0.3], [2.0, 0.6]])
  state = repeat(optax_mtl.gradvac(2, beta=0.9), grads, 30)
  np.testing.assert_array_equal(state.weights, [1, 1])
  # And a gradient that leaves them is turned back by a finite share.
  apart = jnp.array([[1.0, 0.3], [2.0, 0.9]])
  updates, _ = optax_mtl.gradvac(2).update(apart, state)
  assert np.isfinite(updates).all() and (updates > 0).all()


@pytest.mark.parametrize("num_tasks", [*SIZES, 40])
def test_it_is_the_papers_loop(num_tasks):
  """From a usual cosine of 1/4: continuous in every product, as PCGrad is."""
  data = cases(num_tasks)
  found = solved("gradvac", num_tasks, initial_cosine=0.25)
  orders = drawn_orders(1, AMONG.get(num_tasks, num_tasks))[0][:num_tasks]
  orders = [order[order < num_tasks] for order in orders]
  targets = 0.25 * (1 - np.eye(num_tasks))
  # What opposite rows leave is rounding, whose direction is no one's.
  for i in np.flatnonzero(data.without("stationary")):
    parts, _ = vaccine(data.grads[i], orders, targets, 0.0)
    size = np.sum(np.abs(parts) @ data.norms[i])
    wanted = parts.sum(axis=0) @ data.grads[i]
    error = np.linalg.norm(found.weights[i] @ data.grads[i] - wanted)
    # A cosine's rounding is its sine's over the sine, so the root at worst.
    assert error <= np.sqrt(DELTA) * size, (data.names[i], error / size)
    assert (found.weights[i] >= 1).all()


def assert_the_cosine_is_reached(data, target):
  """Of two tasks each is turned to the target, or was as near before.

  The weights of two are one and what the other took of each.
  """
  found = solved_on(data, "gradvac", initial_cosine=target)
  taken = found.weights[:, ::-1] - 1
  turned = data.grads + taken[..., None] * data.grads[:, ::-1]
  length = np.linalg.norm(turned, axis=2)
  along = np.sum(turned * data.units[:, ::-1], axis=2)
  size = data.norms + np.abs(taken) * data.norms[:, ::-1]
  before = np.sum(data.units[:, 0] * data.units[:, 1], axis=1)[:, None]
  both = data.present.all(axis=1)
  # A cosine's rounding is its sine's over the sine, so the root at worst. What
  # is left of opposite ones is zero, and has no cosine.
  bound = np.sqrt(DELTA) * size
  aim = np.maximum(before, target)
  assert_at_most(abs(along - aim * length), bound, data.names, both)
  # Nothing is taken where there is no need, or nobody to turn to.
  idle = (before > target + DELTA) | ~both[:, None]
  assert (taken[np.broadcast_to(idle, taken.shape)] == 0).all()
  return taken


@pytest.mark.parametrize("target", [-0.5, 0.0, 0.7])
def test_the_cosine_is_reached(target):
  taken = assert_the_cosine_is_reached(cases(2), target)
  assert (taken > 0.1).any()


@few
@hypothesis.given(integers)
def test_small_integers(grads):
  assert_the_cosine_is_reached(drawn(grads, 2), 0.3)


def test_arguments():
  with pytest.raises(ValueError, match="beta must lie in"):
    optax_mtl.gradvac(2, beta=1.5)
  with pytest.raises(ValueError, match="initial_cosine must lie in"):
    optax_mtl.gradvac(2, initial_cosine=-2.0)


def test_a_bound_on_the_cosine_bounds_the_update():
  """Tasks that were parallel for long, and then differ.

  To turn a gradient to the cosine `ρ` with another takes at most
  `1 + 1 / √(1-ρ²)` of that one's lengths, and multiplies its own by no more.
  """
  rng = np.random.default_rng(0)
  same = jnp.asarray(np.repeat(rng.normal(size=(1, 20)), 4, 0), jnp.float32)
  other = jnp.asarray(rng.normal(size=(4, 20)), jnp.float32)
  longest = float(jnp.max(jnp.linalg.norm(other, axis=1)))
  lengths = {}
  for most in (1.0, 0.9):
    tx = optax_mtl.gradvac(4, beta=0.5, max_cosine=most)
    state = tx.init(jnp.zeros(20))
    update = jax.jit(tx.update)
    for grads in [same] * 30 + [other]:
      updates, state = update(grads, state)
    lengths[most] = float(jnp.linalg.norm(updates)) / longest
  assert lengths[1.0] > 1e4
  assert lengths[0.9] < 4 * (2 + 1 / np.sqrt(1 - 0.9**2)) ** 3


def test_a_target_for_each_layer():
  """By `optax.partition`, as the docstring says: two methods, one a layer."""
  layers = {"a": np.array(CONFLICT), "b": np.array([[1.0, 0], [1, 1]])}
  params = {k: np.zeros(2) for k in layers}
  tx = optax.partition(
    {k: optax_mtl.gradvac(2, beta=0.5) for k in layers}, {k: k for k in layers}
  )
  state = tx.init(params)
  updates, state = tx.update(layers, state, params)
  # Only in one of them is there a conflict.
  np.testing.assert_allclose(updates["a"], [0.5, 1.5], rtol=1e-6)
  np.testing.assert_allclose(updates["b"], [2, 1], rtol=1e-6)
  targets = {
    k: optax_mtl.method_state(state.inner_states[k]).memory.cosine_targets[0, 1]
    for k in layers
  }
  # Half of what the cosines are, 135 and 45 degrees.
  root = np.sqrt(0.125)
  assert_same(np.array([targets["a"], targets["b"]]), [-root, root], 1e-6)
