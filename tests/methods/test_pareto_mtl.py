"""Pareto MTL: both phases, the way back into the sub-region, and the toy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from one_step import close, step, train

import optax_mtl
from optax_mtl._dtypes import solver_dtype

AXES = np.array([[1.0, 0.0], [0.0, 1.0]])
#: Losses in the sub-region of (1, 0), and in the other one.
NEAR, FAR = [3.0, 1.0], [1.0, 3.0]
#: G = (u_2 - u_1)·L / |L| there.
VIOLATION = 2 / np.sqrt(10)


def phases(losses, **options):
  """The states of updates with these losses, wanted near (1, 0)."""
  tx = optax_mtl.pareto_mtl(2, AXES, feasibility_steps=2, **options)
  # Without jit: each operation is compiled once for all of these tests.
  states = [None]
  for row in losses:
    extra = {"losses": row, "preference": AXES[0]}
    states.append(step(tx, np.eye(2), states[-1], **extra)[1])
  return jax.tree.map(lambda *rows: np.stack(rows), *states[1:])


def test_first_phase_lowers_violated_constraints_alone():
  tx = optax_mtl.pareto_mtl(2, AXES, feasibility_steps=10)
  # Wanted near (1, 0), found near (0, 1): G = (u_2 - u_1)·L > 0. A direction
  # of any length.
  extra = {"losses": FAR, "preference": 3 * AXES[0]}
  updates, state = step(tx, np.array([[1.0, 0.0], [0.0, 2.0]]), **extra)
  close(state.weights, [-1.0, 1.0])
  close(updates, [-1.0, 2.0])
  memory = state.memory
  assert not bool(memory.optimizing) and int(memory.phase_step) == 1
  close(memory.violation, VIOLATION)
  assert bool(memory.certificate.converged)


def test_second_phase_descends_losses_and_violated_constraints():
  """From the start in the region; else when the budget is spent."""
  near = phases([NEAR])
  assert near.memory.optimizing.tolist() == [True]
  close(near.weights[0], [0.5, 0.5])
  close(near.memory.violation, [-VIOLATION])
  states = phases([FAR] * 4)
  assert states.memory.optimizing.tolist() == [False, False, True, True]
  assert states.memory.phase_step.tolist() == [1, 2, 2, 2]
  # Violated constraints join the losses in the hull.
  rows = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
  hull = np.asarray(states.weights[-1])
  assert (rows @ hull >= hull @ hull - 1e-6).all()
  assert (hull @ hull < 0.5 - 1e-3).all()


#: Near, far and so on, and what of them is in the second phase with 2 updates
#: for the first one.
PATTERN = [NEAR, FAR, FAR, FAR, NEAR, FAR, NEAR, FAR, FAR, FAR]


def test_the_first_phase_comes_again_with_the_whole_budget():
  """Where an optimizer carried the point out, and the state shows it."""
  memory = phases(PATTERN).memory
  assert memory.optimizing.astype(int).tolist() == [
    1,
    0,
    0,
    1,
    1,
    0,
    1,
    0,
    0,
    1,
  ]
  assert memory.phase_step.tolist() == [0, 1, 2, 2, 0, 1, 0, 1, 2, 2]
  signs = [1 if losses is FAR else -1 for losses in PATTERN]
  close(memory.violation, VIOLATION * np.array(signs))


def test_the_paper_enters_it_once():
  """In the region once is enough, whatever comes."""
  memory = phases(PATTERN, reenter=False).memory
  assert memory.optimizing.all() and not memory.phase_step.any()
  memory = phases([FAR, *PATTERN], reenter=False).memory
  assert memory.optimizing.tolist() == [False] + [True] * 10
  assert memory.phase_step.tolist() == [1] * 11


def test_the_budget_counts_every_step_under_refresh_every():
  """The weights stand still in between, and the phase goes on."""
  plain = phases(PATTERN)
  tx = optax_mtl.refresh_every(
    optax_mtl.pareto_mtl(2, AXES, feasibility_steps=2), 4
  )
  preference = np.tile(AXES[0], (len(PATTERN), 1))
  _, states = train(tx, np.eye(2), losses=PATTERN, preference=preference)
  inner = states.memory.inner
  np.testing.assert_array_equal(inner.optimizing, plain.memory.optimizing)
  np.testing.assert_array_equal(inner.phase_step, plain.memory.phase_step)
  np.testing.assert_array_equal(inner.violation, plain.memory.violation)
  # The eighth step's weights are the second refresh's, of the fifth step.
  np.testing.assert_array_equal(states.weights[7], plain.weights[4])
  assert (states.weights[8] == plain.weights[8]).all()


def test_one_preference_is_mgda():
  """Nothing can be violated, by a direction that comes twice either."""
  tx = optax_mtl.pareto_mtl(2, 2 * AXES[[0, 0]])
  extra = {"losses": FAR, "preference": AXES[0]}
  _, state = step(tx, np.diag([1.0, 2.0]), **extra)
  close(state.weights, [0.8, 0.2])
  assert bool(state.memory.optimizing)
  close(state.memory.violation, -1.0)


def test_an_absent_task_spans_no_axis():
  """Directions are compared on the axes of the tasks that are there."""
  directions = np.array([[0.6, 0.8, 0.0], [0.8, 0.0, 0.6], [0.0, 0.6, 0.8]])
  tx = optax_mtl.pareto_mtl(3, directions)
  updates, state = jax.jit(
    lambda mask: step(
      tx,
      np.eye(3),
      losses=[1.0, 9.0, 3.0],
      preference=directions[1],
      active=mask,
    )
  )(np.array([True, False, True]))
  # On axes 1 and 3 they are (1, 0), (.8, .6) and (0, 1), and the loss vector
  # (1, 3) is nearest to the last one.
  unit = np.array([1.0, 3.0]) / np.sqrt(10)
  close(state.memory.violation, (AXES[1] - [0.8, 0.6]) @ unit, 1e-5)
  assert not bool(state.memory.optimizing)
  close(state.weights, [-0.8, 0.0, 0.4])
  close(updates, [-0.8, 0.0, 0.4])


def test_options():
  extra = {"losses": FAR, "preference": AXES[0]}
  unit = optax_mtl.pareto_mtl(2, AXES, normalize_constraints=True)
  _, state = step(unit, np.eye(2), **extra)
  close(state.weights, np.array([-1.0, 1.0]) / np.sqrt(2))
  rescaled = optax_mtl.pareto_mtl(2, AXES, feasibility_steps=0, rescale=True)
  _, state = step(rescaled, np.diag([1.0, 2.0]), **extra)
  close(np.abs(state.weights).sum(), 2.0)
  # A constraint that is nearly violated binds with a larger ε.
  near = {"losses": [1.1, 1.0], "preference": AXES[0]}
  grads = np.diag([1.0, 0.1])
  _, free = step(optax_mtl.pareto_mtl(2, AXES), grads, **near)
  _, bound = step(optax_mtl.pareto_mtl(2, AXES, epsilon=0.5), grads, **near)
  close(free.weights, np.array([0.01, 1.0]) / 1.01, 1e-5)
  # The third row is (-1, .1): it and the first cancel but for an upright rest.
  rows = np.array([[1.0, 0.0], [0.0, 0.1], [-1.0, 0.1]])
  hull = np.asarray(bound.weights) @ grads
  assert (rows @ hull >= hull @ hull - 1e-6).all()
  assert hull @ hull < np.sum((np.asarray(free.weights) @ grads) ** 2) / 2


DIM = 20


def toy(x):
  shift = 1 / np.sqrt(DIM)
  first, second = jnp.sum((x - shift) ** 2), jnp.sum((x + shift) ** 2)
  return -jnp.expm1(-jnp.stack([first, second]))


@functools.partial(jax.jit, static_argnames="count")
def fronts(starts, count):
  """Losses [S, K, 2] after 100 steps of size 1, and after 400 of Adam."""
  directions = jnp.asarray(
    optax_mtl.pareto.uniform_directions(count), solver_dtype()
  )
  grads_of = optax_mtl.value_and_task_grads(toy)
  adam = optax.adam(0.01)

  def one(start, preference, with_adam):
    steps = jnp.where(with_adam, 400, 100)
    tx = optax_mtl.pareto_mtl(2, directions, feasibility_steps=steps // 5)

    def step(_, carry):
      x, state, adam_state = carry
      losses, grads = grads_of(x)
      found, state = tx.update(
        grads, state, x, losses=losses, preference=preference
      )
      change, adam_state = adam.update(found, adam_state)
      return x + jnp.where(with_adam, change, -found), state, adam_state

    carry = (start, tx.init(start), adam.init(start))
    return toy(jax.lax.fori_loop(0, steps, step, carry)[0])

  over_points = jax.vmap(one, (0, 0, None))
  over_seeds = jax.vmap(over_points, (0, None, None))
  both = jnp.array([False, True])
  return jax.vmap(over_seeds, (None, None, 0))(starts, directions, both)


def test_the_front_with_plain_steps_and_with_adam():
  """The paper's toy, ten preferences at once: volume and sub-regions.

  The authors' code reaches .2931 ± .0028 in 100 plain steps, with 9.5 of 10
  points in their own sub-region; ten points on exactly the rays have .2948199.
  With Adam and the paper's rule, 1.8 points are in their own.
  """
  count, seeds = 10, 8
  directions = optax_mtl.pareto.uniform_directions(count)
  rng = np.random.default_rng(0)
  starts = rng.uniform(-0.5, 0.5, (seeds, count, DIM))
  with jax.numpy_dtype_promotion("standard"):
    losses = fronts(jnp.asarray(starts, solver_dtype()), count)
  volume = jax.vmap(
    jax.vmap(lambda p: optax_mtl.pareto.hypervolume_2d(p, jnp.ones(2)))
  )(losses)
  own = np.argmax(np.asarray(losses) @ directions.T, axis=-1)
  own = (own == np.arange(count)).sum(axis=-1)
  # Over 40 seeds: .2885 ± .0049 and 9.4 ± .6 with plain steps, .2937 ± .0025
  # and 10.0 ± .2 with Adam; three standard errors of 8 seeds.
  assert np.mean(volume[0]) > 0.2885 - 3 * 0.0049 / np.sqrt(seeds)
  assert np.mean(own[0]) > 9.4 - 3 * 0.6 / np.sqrt(seeds)
  assert np.mean(volume[1]) > 0.2937 - 3 * 0.0025 / np.sqrt(seeds)
  assert (own[1] >= 9).all()
  # No set of ten points of the front has more, in float32 losses.
  assert np.max(volume) < 0.2997842 + 1e-6
