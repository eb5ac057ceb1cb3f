"""Multi-Krum: the gradients with the nearest neighbours."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import DELTA, assert_at_most, cases, drawn, integers, solved_on
from few_examples import few
from one_step import gradients, run, step
from references import REFERENCES

import optax_mtl


def weights_of(grads, f, m, active=None):
  """Compiled as a whole: cheaper than each operation for each size."""
  tx = optax_mtl.krum(len(grads), f, m)
  active = np.ones(len(grads), bool) if active is None else np.asarray(active)
  weights = jax.jit(lambda g, a: step(tx, g, active=a)[1].weights)
  return np.asarray(weights(jnp.asarray(grads), active)).tolist()


# On a line; for each task the distances to the others.
LINE = np.array([[0.0], [1.0], [3.0], [7.0], [20.0]])


def test_oracles():
  # f=1, two neighbours: squares 1+9, 1+4, 4+9, 16+36, 169+289.
  assert weights_of(LINE, 1, 1) == [0, 1, 0, 0, 0]
  assert weights_of(LINE, 1, 2) == [0.5, 0.5, 0, 0, 0]
  assert weights_of(LINE, 1, 4) == [0.25, 0.25, 0.25, 0.25, 0]


def test_squares_and_not_distances():
  """Of neighbours at (2.9, 2.9) and (0.1, 5), the first by squares alone."""
  first = np.array([[0.0, 0], [2.9, 0], [-2.9, 0]])
  second = np.array([[100.0, 0], [100.1, 0], [105.0, 0]])
  grads = np.concatenate([first, second])
  scores = np.linalg.norm(grads[:, None] - grads[None], axis=2)
  nearest = np.sort(scores, axis=1)[:, 1:3]
  assert np.argmin(nearest.sum(axis=1)) == 4
  # f=2 of six: two neighbours.
  assert weights_of(grads, 2, 1) == [1, 0, 0, 0, 0, 0]


def test_ties_go_to_the_first_rows():
  grads = np.eye(4)
  assert weights_of(grads, 1, 1) == [1, 0, 0, 0]
  assert weights_of(grads[::-1], 1, 3) == [1 / np.float32(3)] * 3 + [0]
  # One neighbour: the two nearest have each other's distance.
  assert weights_of([[9.0], [1.0], [2.0]], 0, 1) == [0, 1, 0]


def test_absent_tasks_are_no_neighbours():
  everyone = np.ones(5, bool)
  for absent, want in ((1, [0.5, 0, 0.5, 0, 0]), (0, [0, 0.5, 0.5, 0, 0])):
    active = everyone.copy()
    active[absent] = False
    assert weights_of(LINE, 1, 2, active) == want
  # Fewer than f + 3, and then fewer than m.
  assert weights_of(LINE, 1, 2, [False, False, True, True, True]) == [
    *(0, 0, 0.5, 0.5, 0)
  ]
  assert weights_of(LINE, 1, 2, [False] * 4 + [True]) == [0, 0, 0, 0, 1]


def test_the_reference_on_many():
  tx = optax_mtl.krum(7, 2, 3)
  rng = np.random.default_rng(0)
  grads = rng.standard_normal((200, 7, 5)).astype(np.float32)
  grads[:, 5:] *= 10
  solve = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g[0]))[1].weights))
  found = solve(jnp.asarray(grads))
  want = REFERENCES["krum"](
    7, grads.astype(float), {}, num_byzantine=2, num_selected=3
  )
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_liars_do_not_count():
  """What it is for: two of seven send something a hundred times as long."""
  grads = gradients(3)[0]
  good = np.tile(grads[:1], (5, 1)) + 0.1 * gradients(3)[1][:1]
  liars = -100 * good[:2]
  weights = weights_of(np.concatenate([liars, good]), 2, 5)
  assert weights[:2] == [0, 0] and sum(weights) == pytest.approx(1)


def test_mean():
  """All selected is the mean of the active ones."""
  found = run("krum", gradients(3), num_byzantine=0, num_selected=3)
  np.testing.assert_allclose(found.weights, 1 / 3, rtol=1e-15)


def test_arguments():
  for f, m, match in (
    (2, 1, r"num_byzantine must lie in \[0, 1\]"),
    (1, 5, r"num_selected must lie in \[1, 4\]"),
    (1, 0, r"num_selected must lie in \[1, 4\]"),
  ):
    with pytest.raises(ValueError, match=match):
      optax_mtl.krum(4, f, m)
  with pytest.raises(TypeError, match="num_byzantine must be a Python int"):
    optax_mtl.krum(4, jnp.array(1))


def assert_nearest(data, f, m):
  """Those selected have the least scores, each weighs 1/m, the others 0."""
  found = solved_on(data, "krum", num_byzantine=f, num_selected=m)
  num_tasks = data.grads.shape[1]
  m = min(m, num_tasks)
  chosen = found.weights > 0
  assert (chosen.sum(axis=1) == m).all()
  np.testing.assert_allclose(found.weights[chosen], 1 / m, rtol=1e-7)
  apart = data.grads[:, :, None] - data.grads[:, None]
  squares = np.sum(apart**2, axis=3)
  squares[:, np.arange(num_tasks), np.arange(num_tasks)] = np.inf
  # A square is a sum of three products of the Gram matrix.
  doubt = DELTA * (data.norms[:, :, None] ** 2 + data.norms[:, None] ** 2)
  neighbours = min(max(num_tasks - f - 2, 1), num_tasks - 1)

  def scores(squares):
    return np.sort(squares, axis=2)[:, :, :neighbours].sum(axis=2)

  most = np.where(chosen, scores(squares - doubt), -np.inf).max(axis=1)
  least = np.where(chosen, np.inf, scores(squares + doubt)).min(axis=1)
  assert_at_most(most, least, data.names)
  return found


@pytest.mark.parametrize("num_tasks", [1, 3, 10])
def test_the_nearest_are_selected(num_tasks):
  assert_nearest(cases(num_tasks), 1, 2)


@few
@hypothesis.given(integers)
def test_small_integers(grads):
  """In which scores are exact: of equal ones the first rows win."""
  data = drawn(grads)
  found = assert_nearest(data, 1, 2)
  options = {"num_byzantine": 1, "num_selected": 2}
  wanted = REFERENCES["krum"](5, data.grads, {}, **options)
  np.testing.assert_array_equal(found.weights, wanted)
