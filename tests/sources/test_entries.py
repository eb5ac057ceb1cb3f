"""Sums and maxima over the entries of many arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_mtl import linalg
from optax_mtl.linalg import entries


def _leaves(number, seed=0):
  """Leaves of three kinds, more of one than are joined at once."""
  rng = np.random.default_rng(seed)
  shapes = [(3, 4), (5,), ()]
  return [
    jnp.asarray(rng.standard_normal(shapes[n % 3]), jnp.float32)
    for n in range(number)
  ]


def _flat(leaves):
  return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in leaves])


@pytest.mark.parametrize("number", [1, 3, 24, 60])
def test_total_and_largest_of_all_entries(number):
  leaves, others = _leaves(number), _leaves(number, seed=1)
  flat, other = _flat(leaves), _flat(others)
  # So many roundings as there are additions, of the sum of the terms' sizes.
  bound = np.finfo(np.float32).eps * flat.size * np.sum(np.abs(flat * other))
  for run in (lambda f, *a: f(*a), lambda f, *a: jax.jit(f)(*a)):
    found = run(functools.partial(linalg.total, jnp.multiply), leaves, others)
    np.testing.assert_allclose(found, flat @ other, rtol=0, atol=bound)
    found = run(linalg.largest, leaves)
    assert found == np.max(np.abs(flat)).astype(np.float32)


@pytest.mark.parametrize(
  "shape", [(300, 301), (90_001,), (3, 30_011), (90_000, 1), (2, 3, 20_000)]
)
def test_large_arrays_are_cut_and_nothing_is_lost(shape):
  rng = np.random.default_rng(2)
  leaf = jnp.asarray(rng.standard_normal(shape), jnp.float32)
  flat = _flat([leaf])
  found = linalg.total(jnp.square, [leaf])
  bound = np.finfo(np.float32).eps * np.sqrt(flat.size) * np.sum(flat**2)
  np.testing.assert_allclose(found, np.sum(flat**2), rtol=0, atol=bound)
  assert linalg.largest([leaf]) == np.max(np.abs(flat)).astype(np.float32)
  # Each entry is looked at: the last ones are what the pieces leave over.
  for at in (0, flat.size // 2, flat.size - 1):
    bad = jnp.ravel(leaf).at[at].set(jnp.inf).reshape(shape)
    assert not linalg.tree_finite([bad])
    rows = jnp.stack([leaf, bad])
    assert linalg.finite([rows], 2).tolist() == [True, False]
    squares = linalg.squared_norms([rows], 2)
    assert np.isfinite(squares[0])
    assert np.isinf(squares[1])


def test_nothing_is_summed_to_zero():
  for empty in ([], [jnp.zeros((0, 3))]):
    assert linalg.total(jnp.square, empty) == 0
    assert linalg.largest(empty) == 0


def test_one_nan_among_many_leaves_is_seen():
  leaves = _leaves(40)
  assert linalg.tree_finite(leaves)
  for at in (0, 17, 39):
    bad = [x if n != at else x * jnp.nan for n, x in enumerate(leaves)]
    assert not linalg.tree_finite(bad)
    assert jnp.isnan(linalg.largest(bad))
    rows = [jnp.stack([x, y, x]) for x, y in zip(leaves, bad, strict=True)]
    assert linalg.finite(rows, 3).tolist() == [True, False, True]


@pytest.mark.parametrize("shape", [(), (5,), (300, 301)])
def test_rows_have_totals_and_lengths_at_any_scale(shape):
  """A large leaf is cut; squares of 1e-30 and of 1e30 are out of range."""
  rng = np.random.default_rng(3)
  rows = rng.standard_normal((4, *shape))
  scales = np.array([1e-30, 1.0, 1e30, 0.0])
  leaves = [rows, rng.standard_normal((4, 3)), rng.standard_normal((4, 3))]
  leaves = [x * scales.reshape(4, *[1] * (x.ndim - 1)) for x in leaves]
  flat = np.concatenate([x.reshape(4, -1) for x in leaves], axis=1)
  given = [jnp.asarray(x, jnp.float32) for x in leaves]
  # Roundings of the entries, and of sums that are joined in lanes.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  close(linalg.lengths(given, 4), np.linalg.norm(flat, axis=1))
  close(linalg.row_totals(jnp.abs, 4, given), np.abs(flat).sum(axis=1))
  bad = [given[0].at[1].set(jnp.nan), *given[1:]]
  found = np.isnan(linalg.lengths(bad, 4))
  assert found.tolist() == [False, True, False, False]


def test_numbers_go_to_the_function():
  found = linalg.total(
    jnp.multiply, [jnp.ones(3), jnp.ones(2)], numbers=[jnp.float32(2.0)]
  )
  assert found == 10


def test_complex_entries_have_a_size():
  leaves = [jnp.array([3 + 4j, 1j]), jnp.array([0j, 1 + 0j])]
  assert linalg.largest(leaves) == 5
  assert not linalg.tree_finite([jnp.array([1 + 1j * jnp.inf])])


def test_joined_arrays_are_of_one_kind():
  leaves = _leaves(30)
  program = jax.make_jaxpr(
    lambda leaves: entries.joined(
      jnp.square, jnp.add, jnp.sum, jnp.float32(0), [leaves]
    )
  )(leaves)
  # Ten leaves of each of three kinds, eight at a time.
  assert str(program).count("name=_together") == 6
