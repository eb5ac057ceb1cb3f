"""What updates and memories are, step by step, on every family.

Of the methods that take the gradients themselves, and of one with two batches.

A method is one program, of three steps on ten tasks in float32, of which fewer
are there in half of the runs. Gradients of small integers, drawn by hypothesis,
go through the same: there sums are exact.
"""

import functools
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import EPS, cases, drawn, integers
from few_examples import few
from references import FAMILIES, REFERENCES

import optax_mtl
from benchmarks.reference.methods.excess_mtl import excess_weights
from benchmarks.reference.methods.moco import on_simplex

STEPS, TASKS, WIDTH = 3, 10, 24
#: What each is built with; arrays have a value for each run.
OPTIONS = {
  "graddrop": {},
  "trimmed_mean": {"trim": np.arange(2 * len(FAMILIES)) % 4},
  "median": {},
  "moco": {"gamma": 0.1, "beta": 0.5, "rho": 0.1},
  "db_mtl": {"decay": 0.6, "decay_power": 0.5},
  "excess_mtl": {"rate": 0.3},
  "modo": {"gamma": 0.1, "rho": 0.3},
}


class Runs(NamedTuple):
  """What a method did with N runs.

  Attributes:
    grads: Array [N, steps, T, P], float64 numbers that float32 holds.
    losses: Array [N, steps, T].
    updates: Array [N, steps, P], float64.
    states: After each step, leaves [N, steps, ...].
  """

  grads: np.ndarray
  losses: np.ndarray
  updates: np.ndarray
  states: object


@functools.cache
def program(name):
  def one(options, grads, losses, active):
    tx = optax_mtl.METHODS[name](TASKS, **options)

    def step(state, row):
      # What a method does not know it lets pass.
      extra = {"losses": row[1], "second_grads": row[2], "active": active}
      updates, state = tx.update(row[0], state, **extra)
      return state, (updates, state)

    rows = grads, losses, jnp.roll(grads, 1, axis=0)
    return jax.lax.scan(step, tx.init(jnp.zeros(WIDTH)), rows)[1]

  return jax.jit(jax.vmap(one))


def run(name, data):
  """Three steps: a matrix, the next one, and the first with rows exchanged."""
  first = data.grads
  count, num_tasks, num_params = first.shape
  grads = np.stack([first, np.roll(first, 1, axis=0), first[:, ::-1]], axis=1)
  losses = np.random.default_rng(0).uniform(0.5, 2, grads.shape[:3])
  losses = losses.astype(np.float32).astype(float)
  # Absent tasks are far larger, so that a trace of one shows.
  filled = np.full((count, STEPS, TASKS, WIDTH), 1e15, np.float32)
  filled[:, :, :num_tasks] = 0
  filled[:, :, :num_tasks, :num_params] = grads
  given = np.full((count, STEPS, TASKS), 1e9, np.float32)
  given[:, :, :num_tasks] = losses
  options = {
    k: np.broadcast_to(np.float32(v) if isinstance(v, float) else v, count)
    for k, v in OPTIONS[name].items()
  }
  active = np.tile(np.arange(TASKS) < num_tasks, (count, 1))
  updates, states = program(name)(options, filled, given, active)
  updates = np.asarray(updates, float)
  assert np.isfinite(updates).all()
  assert (updates[..., num_params:] == 0).all()
  nothing = ~grads.any(axis=(1, 2, 3))
  assert (updates[nothing] == 0).all()
  return Runs(
    grads, losses, updates[..., :num_params], jax.tree.map(np.asarray, states)
  )


def assert_close(actual, desired, size):
  """To 16 roundings of what is summed, at most ten numbers of it."""
  error = np.abs(actual - desired)
  assert (error <= 16 * EPS * size).all(), np.max(error / (size + 1e-300))


def check_graddrop(runs):
  """No entry has parts of both signs, and none is scaled."""
  up = np.maximum(runs.grads, 0).sum(axis=2)
  down = np.minimum(runs.grads, 0).sum(axis=2)
  rises = abs(runs.updates - up) <= abs(runs.updates - down)
  nearer = np.where(rises, up, down)
  assert_close(runs.updates, nearer, abs(nearer))


def check_trimmed(runs, trims):
  """The mean of the entries in the middle, between the outermost of these."""
  ordered = np.sort(runs.grads, axis=2)
  num_tasks = ordered.shape[2]
  trims = np.minimum(trims, (num_tasks - 1) // 2)
  for trim, rows, updates in zip(trims, ordered, runs.updates, strict=True):
    kept = rows[:, trim : num_tasks - trim]
    size = np.abs(kept).max(axis=1)
    assert_close(updates, kept.mean(axis=1), size)
    # Equal ones are what they are, but for the rounding of their mean.
    assert (updates >= kept[:, 0] - EPS * num_tasks * size).all()
    assert (updates <= kept[:, -1] + EPS * num_tasks * size).all()


def check_trimmed_mean(runs):
  check_trimmed(runs, OPTIONS["trimmed_mean"]["trim"])


def check_median(runs):
  """NumPy's: a half of a sum of two is rounded once."""
  middle = np.median(runs.grads, axis=2)
  assert (abs(runs.updates - middle) <= EPS * abs(middle)).all()
  check_trimmed(runs, np.full(len(runs.grads), TASKS))


def check_moco(runs):
  """Each step from the state before: the averages, and the shares from these.

  From state to state, as shares on gradients of 1e6 are another problem at
  each rounding of what they start from. A projection grows no error.
  """
  num_tasks = runs.grads.shape[2]
  averages, shares = np.zeros_like(runs.grads[:, 0]), None
  for k in range(STEPS):
    beta = 0.5 / np.sqrt(k + 1)
    wanted = averages + beta * (runs.grads[:, k] - averages)
    width = runs.grads.shape[3]
    size = abs(averages) + abs(runs.grads[:, k])
    averages = runs.states.tracked_gradients[:, k, :num_tasks, :width]
    averages = averages.astype(float)
    assert_close(averages, wanted, size)
    before = np.full((len(averages), num_tasks), 1 / num_tasks)
    if shares is not None:
      before = shares / shares.sum(axis=1, keepdims=True)
    shares = runs.states.moco_shares[:, k, :num_tasks].astype(float)
    gram = averages @ averages.transpose(0, 2, 1) + 0.1 * np.eye(num_tasks)
    rate = 0.1 / np.sqrt(k + 1)
    moved = before - rate * np.einsum("nij,nj->ni", gram, before)
    moved = np.stack([on_simplex(row) for row in moved])
    lengths = np.linalg.norm(averages, axis=2)
    reach = np.linalg.norm(lengths, axis=1) * np.sum(lengths * before, axis=1)
    # They hold the part of all tasks that there is of these.
    found = shares * TASKS / num_tasks
    error = np.linalg.norm(found - moved, axis=1)
    assert (error <= 64 * EPS * (1 + rate * reach)).all()
    expected = np.einsum("nt,ntp->np", found, averages)
    terms = np.einsum("nt,ntp->np", found, abs(averages))
    assert_close(runs.updates[:, k], expected, terms)


def each_reference(name, runs, **options):
  """The reference's updates of each run, [N, steps, P]."""
  return np.stack(
    [
      REFERENCES[name](
        runs.grads.shape[2], grads, {"losses": losses}, **options
      )
      for grads, losses in zip(runs.grads, runs.losses, strict=True)
    ]
  )


def check_db_mtl(runs):
  """The paper's recursion; every task that moves as long as the longest."""
  expected = each_reference("db_mtl", runs, **OPTIONS["db_mtl"])
  largest = np.linalg.norm(runs.grads / runs.losses[..., None], axis=3).max(
    axis=(1, 2)
  )
  num_tasks = runs.grads.shape[2]
  # A buffer that all but cancels is rounding, made as long as the others.
  buffers = runs.states.gradient_buffer[:, :, :num_tasks].astype(float)
  lengths = np.linalg.norm(buffers, axis=3)
  safe = np.where(lengths > 0, lengths, np.inf)
  worst = (largest[:, None, None] / safe).max(axis=(1, 2))
  size = worst * lengths.max(axis=(1, 2)) * num_tasks
  assert_close(runs.updates, expected, size[:, None, None])


def check_excess_mtl(runs):
  """The paper's recursion; who has had no gradient waits."""
  num_tasks = runs.grads.shape[2]
  found = runs.states.excess_weights[:, :, :num_tasks].astype(float)
  for grads, weights, updates in zip(
    runs.grads, found, runs.updates, strict=True
  ):
    wanted = excess_weights(grads, 0.3)
    # Exponentials of up to three times the largest growth, in parts of a sum.
    first = np.sum(abs(grads), axis=2)
    grown = first.max(axis=0) / np.where(first > 0, first, np.inf).min(axis=0)
    power = 1 + 0.3 * np.where(first.any(axis=0), grown, 0).max() * STEPS
    assert_close(weights, wanted, power)
    terms = np.einsum("st,stp->sp", weights, abs(grads))
    expected = np.einsum("st,stp->sp", weights, grads)
    assert_close(updates, expected, terms)


def check_modo(runs):
  """Each step from the shares before, which it pulls to be equal."""
  num_tasks = runs.grads.shape[2]
  before = np.full((len(runs.grads), num_tasks), 1 / num_tasks)
  for k in range(STEPS):
    first, second = runs.grads[:, k], runs.grads[:, k - 1]
    slope = np.einsum("nip,njp,nj->ni", first, second, before) + 0.3 * before
    moved = np.stack([on_simplex(row) for row in before - 0.1 * slope])
    found = runs.states.memory.modo_shares[:, k, :num_tasks].astype(float)
    found = found * TASKS / num_tasks
    reach = np.linalg.norm(np.linalg.norm(first, axis=2), axis=1)
    reach = reach * np.sum(np.linalg.norm(second, axis=2) * before, axis=1)
    error = np.linalg.norm(found - moved, axis=1)
    assert (error <= 64 * EPS * (1 + 0.1 * reach)).all()
    terms = np.einsum("nt,ntp->np", found, abs(first))
    expected = np.einsum("nt,ntp->np", found, first)
    assert_close(runs.updates[:, k], expected, terms)
    before = found


CHECKS = {
  "graddrop": check_graddrop,
  "trimmed_mean": check_trimmed_mean,
  "median": check_median,
  "moco": check_moco,
  "db_mtl": check_db_mtl,
  "excess_mtl": check_excess_mtl,
  "modo": check_modo,
}
every_method = pytest.mark.parametrize("name", CHECKS)


@every_method
def test_every_family(name):
  for num_tasks in (1, 2, 3, 10):
    CHECKS[name](run(name, cases(num_tasks)))


@every_method
@few
@hypothesis.given(integers)
def test_small_integers(name, grads):
  CHECKS[name](run(name, drawn(grads)))


def test_integers_are_summed_exactly():
  """So that `graddrop` keeps a sum to the last bit, and a median is NumPy's."""
  grads = np.random.default_rng(1).integers(-2, 3, (24, 5, 4))
  runs = run("graddrop", drawn(grads))
  up = np.maximum(runs.grads, 0).sum(axis=2)
  down = np.minimum(runs.grads, 0).sum(axis=2)
  assert ((runs.updates == up) | (runs.updates == down)).all()
  both = (up != 0) & (down != 0)
  assert 0 < (runs.updates == up)[both].mean() < 1
  runs = run("median", drawn(grads))
  np.testing.assert_array_equal(runs.updates, np.median(runs.grads, axis=2))
