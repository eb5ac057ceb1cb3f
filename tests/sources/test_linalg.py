"""Gram matrix, combination and finiteness against float64 NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import AS_USERS

from optax_mtl import linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl.linalg import alike, cpu, stacked

# Every threshold of the CPU path, from just below to just above.
_TINY = cpu._STACKED


def _shapes(num_tasks):
  block = cpu.block_columns(num_tasks, 0)
  direct = cpu.direct_columns(num_tasks)
  loop = direct // block + 3  # blocks of a leaf that takes the loop
  return {
    "scalar": (),
    "empty": (0,),
    "one": (1,),
    "bias": (7,),
    "kernel": (3, 3, 4, 5),
    "tiny-": (_TINY - 1,),
    "tiny": (_TINY,),
    "tiny+": (_TINY + 1,),
    "direct": (direct,),
    "direct+": (1, direct + 1),
    "blocks-": (loop * block - 1,),
    "blocks": (loop, block // 4, 4),
    "blocks+": (1, loop * block + _TINY + 1, 1),
  }


def _tree(num_tasks, shapes, seed=0):
  # Small integers: every product and every sum below 2**24 is exact in
  # float32, in any order, so that one column left out or read twice shows.
  rng = np.random.default_rng(seed)
  return {
    name: rng.integers(-3, 4, (num_tasks, *shape)).astype(np.float32)
    for name, shape in shapes.items()
  }


def _rows(tree, num_tasks):
  """All leaves as one float64 or complex128 matrix."""
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
  wide = np.complex128 if any(np.iscomplexobj(x) for x in leaves) else float
  rows = [x.astype(wide).reshape(num_tasks, -1) for x in leaves]
  return np.concatenate(rows, axis=1)


def _check_gram(tree, num_tasks):
  """Compares with NumPy, exactly; and the diagonal by itself."""
  got = linalg.gram(tree, num_tasks)
  squares = linalg.squared_norms(tree, num_tasks)
  assert squares.dtype == solver_dtype() and not squares.weak_type
  np.testing.assert_array_equal(squares, jnp.diagonal(got))
  rows = _rows(tree, num_tasks)
  want = (rows @ rows.conj().T).real
  assert np.abs(want).max() < 2**24
  assert got.dtype == solver_dtype() and not got.weak_type
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 4, 5, 17])
def test_gram_of_all_leaf_sizes(num_tasks):
  tree = _tree(num_tasks, _shapes(num_tasks))
  _check_gram(tree, num_tasks)


@pytest.mark.parametrize("name", list(_shapes(2)))
def test_gram_of_one_leaf(name):
  num_tasks = 2
  shapes = _shapes(num_tasks)
  _check_gram(_tree(num_tasks, {name: shapes[name]}, seed=1), num_tasks)
  # And next to leaves that take the tree over the threshold of the loop, so
  # that small leaves pass through the CPU path as well: one on each side of
  # its thresholds. All are in one tree above.
  if name in ("empty", "tiny", "tiny+", "direct", "direct+", "blocks-"):
    others = {"other": shapes["blocks"], "another": shapes["blocks+"]}
    tree = _tree(num_tasks, {name: shapes[name]} | others, seed=1)
    assert sum(x.size for x in tree.values()) > stacked._SMALL_TREE
    _check_gram(tree, num_tasks)


@pytest.mark.parametrize("num_tasks", [2, 6])
def test_gram_of_mixed_dtypes(num_tasks):
  tree = _tree(num_tasks, _shapes(num_tasks), seed=2)
  lowered = {
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "float32": jnp.float32,
  }
  tree = {
    f"{name} {key}": jnp.asarray(leaf).astype(dtype)
    for name, leaf in tree.items()
    for key, dtype in lowered.items()
  }
  rng = np.random.default_rng(3)
  for name, size in (("small", 9), ("large", 70_001)):
    pair = rng.integers(-3, 4, (2, num_tasks, size)).astype(np.float32)
    tree[f"complex {name}"] = jax.lax.complex(*map(jnp.asarray, pair))
  _check_gram(tree, num_tasks)


def test_low_precision_is_not_summed_in_low_precision():
  # 1 + 2**-8 in bfloat16 sums stops at 256; float32 holds all of these.
  tree = [jnp.ones((2, 300_001), jnp.bfloat16), jnp.ones((2, 513), jnp.float16)]
  np.testing.assert_array_equal(linalg.gram(tree, 2), np.full((2, 2), 300514))
  rows = [jnp.concatenate([jnp.full((1, 3), 256.0), jnp.ones((256, 3))])]
  rows = [row.astype(jnp.bfloat16) for row in rows]
  got = linalg.combine(rows, jnp.ones((257,)))[0]
  np.testing.assert_array_equal(np.asarray(got, np.float32), np.full(3, 512.0))


def test_long_sums_stay_accurate():
  # Equal terms are the worst case: every addition rounds the same way. The
  # error of a chain of n additions is at most n * eps / 2, and blocks bound n
  # by the number of blocks (123) plus the columns that one block's product may
  # add one after another. One running sum of all columns would allow 0.2.
  for num_tasks, size in ((2, 4_000_003), (6, 1_000_003)):
    terms = 123 + (1 << 13)
    leaf = jnp.full((num_tasks, size), 0.1, jnp.float32)
    got = np.asarray(linalg.gram([leaf], num_tasks), np.float64)
    want = size * float(np.float32(0.1)) ** 2
    eps = float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(got, want, rtol=terms * eps / 2)


@pytest.mark.parametrize("num_tasks", [3, 17])
def test_gram_is_symmetric_and_close_where_sums_round(num_tasks):
  rng = np.random.default_rng(7)
  leaf = rng.standard_normal((num_tasks, 100_003)).astype(np.float32)
  tree = [leaf, leaf[:, :500]]
  got = np.asarray(linalg.gram(tree, num_tasks))
  np.testing.assert_array_equal(got, got.T)
  rows = _rows(tree, num_tasks)
  norms = np.linalg.norm(rows, axis=1)
  # |error| <= n eps |x| |y| for chains of n additions, at random signs about
  # sqrt(n); n is at most the columns that are multiplied at once.
  terms = cpu.direct_columns(num_tasks)
  bound = 4 * np.sqrt(terms) * float(jnp.finfo(got.dtype).eps)
  error = np.abs(got - rows @ rows.T) / np.outer(norms, norms)
  assert error.max() < bound


def test_empty_trees():
  for tree in ({}, [], [jnp.zeros((3, 0))], [jnp.zeros((3, 4, 0, 2))]):
    got = linalg.gram(tree, 3)
    np.testing.assert_array_equal(got, np.zeros((3, 3)))
    assert got.dtype == solver_dtype() and not got.weak_type
    np.testing.assert_array_equal(linalg.finite(tree, 3), np.ones(3, bool))
  assert linalg.combine({}, jnp.ones((3,))) == {}
  assert linalg.combine([jnp.zeros((3, 0))], jnp.ones((3,)))[0].shape == (0,)


@pytest.mark.parametrize("num_tasks", [3, 6])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["scalar", "bias", "tiny+", "blocks+"])
def test_gram_and_finite_keep_a_bad_task_to_itself(num_tasks, bad, name):
  tree = _tree(num_tasks, _shapes(num_tasks), seed=4)
  tree[name].reshape(num_tasks, -1)[1, -1] = bad
  got = np.isfinite(linalg.gram(tree, num_tasks))
  good = np.arange(num_tasks) != 1
  np.testing.assert_array_equal(got, np.outer(good, good))
  np.testing.assert_array_equal(linalg.finite(tree, num_tasks), good)


def test_finite_knows_large_from_infinite():
  large = np.full((3, 5000), np.finfo(np.float32).max)
  bad = large.copy()
  bad[0, 17], bad[2, 0] = -np.inf, np.nan
  tree = {
    "a": large,
    "b": np.full((3, 8), jnp.finfo(jnp.bfloat16).max, jnp.bfloat16),
    "c": np.full((3, 2), np.complex64(complex(1e38, -1e38))),
    "d": np.ones((3, 2), np.int32),
  }
  jitted = jax.jit(linalg.finite, static_argnums=1)
  for function in (linalg.finite, jitted):
    np.testing.assert_array_equal(function(tree, 3), [True] * 3)
    got = function(tree | {"e": bad}, 3)
    np.testing.assert_array_equal(got, [False, True, False])
    imaginary = np.zeros((3, 2), np.complex64)
    imaginary[1, 1] = complex(0, np.inf)
    got = function(tree | {"e": imaginary}, 3)
    np.testing.assert_array_equal(got, [True, False, True])


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 17, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_combine(num_tasks, masked):
  shapes = {"scalar": (), "empty": (0,), "bias": (7,), "kernel": (3, 4, 5)}
  # With more columns than are always combined by a call.
  shapes["large"] = (4, 1031)
  tree = _tree(num_tasks, shapes, seed=5)
  tree["half"] = jnp.asarray(tree["kernel"]).astype(jnp.bfloat16)
  tree["complex"] = tree["bias"] + np.complex64(1j) * tree["bias"][:, ::-1]
  tree["list"] = [tree["bias"]]
  rng = np.random.default_rng(6)
  weights = rng.standard_normal(num_tasks).astype(np.float32)
  keep = np.arange(num_tasks) % 3 != 1 if masked else None
  got = jax.jit(linalg.combine)(tree, jnp.asarray(weights), keep)
  assert jax.tree.structure(got) == jax.tree.structure(tree)
  used = weights.astype(np.float64) * (1 if keep is None else keep)
  for leaf, out in zip(
    jax.tree.leaves(tree), jax.tree.leaves(got), strict=True
  ):
    assert out.dtype == leaf.dtype and not out.weak_type
    assert out.shape == leaf.shape[1:]
    rows = np.asarray(leaf)
    wide = np.complex128 if np.iscomplexobj(rows) else np.float64
    rows = rows.astype(wide)
    want = np.tensordot(used, rows, axes=1)
    # T products and T - 1 additions, each rounded once relative to the sum of
    # the terms' sizes, and the result once to its own dtype.
    sizes = np.tensordot(np.abs(used), np.abs(rows), axes=1)
    eps = num_tasks * float(jnp.finfo(jnp.float32).eps)
    own = float(jnp.finfo(leaf.dtype).eps) * np.abs(want)
    error = np.abs(np.asarray(out).astype(wide) - want)
    assert np.all(error <= 2 * eps * sizes + own)


@pytest.mark.parametrize("num_tasks", [2, 3, 20])
def test_combine_selects(num_tasks):
  leaf = np.ones((num_tasks, 5), np.float32)
  leaf[1] = np.nan
  keep = np.arange(num_tasks) != 1
  got = linalg.combine([leaf], jnp.ones((num_tasks,)), jnp.asarray(keep))
  np.testing.assert_array_equal(got[0], np.full(5, num_tasks - 1.0))
  nothing = jnp.zeros((num_tasks,), jnp.bool_)
  got = linalg.combine([leaf], jnp.ones((num_tasks,)), nothing)
  np.testing.assert_array_equal(got[0], np.zeros(5))
  # Without `keep` a nan is not hidden, not even by a weight of 0.
  got = linalg.combine([leaf], jnp.asarray(keep).astype(jnp.float32))
  assert np.isnan(got[0]).all()


@pytest.mark.parametrize("num_tasks", [2, 5])
def test_vmap_and_scan(num_tasks):
  direct = cpu.direct_columns(num_tasks)
  shapes = {"a": (direct + 3,), "b": (direct, 2), "c": (9,)}
  trees = [_tree(num_tasks, shapes, seed=s) for s in range(3)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *trees)

  def method(tree):
    gram = linalg.gram(tree, num_tasks)
    update = linalg.combine(tree, gram[0])
    return gram, update, linalg.finite(tree, num_tasks)

  single = jax.jit(method)
  want = jax.tree.map(lambda *x: jnp.stack(x), *[single(t) for t in trees])
  mapped = jax.jit(jax.vmap(method))(stacked)
  _, scanned = jax.lax.scan(lambda c, t: (c, method(t)), None, stacked)
  # The same sums in another order.
  rtol = 4 * np.sqrt(direct) * float(jnp.finfo(jnp.float32).eps)
  for got in (mapped, scanned):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      scale = np.abs(np.asarray(y, np.float64)).max()
      np.testing.assert_allclose(x, y, rtol=0, atol=rtol * scale)


def test_gram_is_differentiable():
  leaf = jnp.asarray(_tree(2, {"a": (70_000,)})["a"])
  weights = np.asarray([[1.0, 2.0], [2.0, -1.0]], solver_dtype())
  got = jax.grad(lambda x: jnp.sum(linalg.gram([x], 2) * weights))(leaf)
  # Each entry is a sum of two products.
  want = 2 * weights @ np.asarray(leaf)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_tasks", [2, 3, 8, 40])
def test_memory_stays_small(num_tasks):
  size = 8_000_000 // num_tasks
  side = 1 << 9
  shapes = [(size // 2,), (size // 2 // side, side), (64,), ()]
  leaves = [
    jax.ShapeDtypeStruct((num_tasks, *shape), jnp.float32) for shape in shapes
  ]

  def method(leaves):
    weights = linalg.gram(leaves, num_tasks)[0]
    ok = weights > 0
    return linalg.combine(leaves, weights), linalg.combine(leaves, weights, ok)

  def part(function):
    memory = jax.jit(function).lower(leaves).compile(AS_USERS).memory_analysis()
    return memory.temp_size_in_bytes / memory.argument_size_in_bytes

  # One block and its accumulators, in float64 under x64; the data are 32 MB.
  assert part(method) < 0.1 * solver_dtype().itemsize / 4
  # A byte for an entry of four.
  assert part(lambda leaves: linalg.finite(leaves, num_tasks)) < 0.26


def test_many_leaves_share_one_loop():
  shapes = [(256, 256), (256,), (256, 1024), (1024,)] * 12
  leaves = [jax.ShapeDtypeStruct((2, *s), jnp.float32) for s in shapes]
  text = (
    jax.jit(linalg.gram, static_argnums=1)
    .lower(leaves, 2)
    .compile(AS_USERS)
    .as_text()
  )
  assert text.count(" while(") == 1
  assert "conditional(" in text


def test_many_small_leaves_share_their_code():
  """XLA compiles some 10 ms for each dot or reduction, 200 leaves or not."""
  shapes = [(8, 8), (8,), (3, 4)]
  leaves = [jnp.ones((2, *shapes[i % 3])) for i in range(48)]

  def numbers(leaves):
    one = [leaf[0] for leaf in leaves]
    return linalg.squared_norms(leaves, 2), linalg.project(leaves, one, 2)

  compiled = jax.jit(numbers).lower(leaves).compile()
  text = compiled.as_text()
  found = re.findall(r" (?:dot|reduce)\(", text)
  # A dot for each shape in each of the two, and as many sums of its results,
  # each at most twice where XLA splits a sum.
  assert len(found) <= 2 * 3 * (1 + 2)
  squares = sum(leaf[0].size for leaf in leaves)
  assert compiled(leaves)[0].tolist() == [squares, squares]
  assert compiled(leaves)[1].tolist() == [squares, squares]


def test_leaves_of_widths_of_their_own_are_not_copied():
  """A stack of one compiles for fifty milliseconds, and a network has many."""
  leaves = [jnp.ones((3, 5 + n)) for n in range(20)]
  text = jax.jit(lambda x: cpu.gram(*x, num_tasks=3)).lower(leaves).as_text()
  assert text.count("dot_general") == len(leaves)
  assert not re.findall(r"concatenate|tensor<1x3x", text)


def test_stacks_hold_each_entry_once():
  sizes = [3, 3, 5, 3] + [5] * 40 + [300] * 2
  arrays = [jnp.full((n,), i, jnp.float32) for i, n in enumerate(sizes)]
  arrays.append(jnp.full((3,), -1, jnp.bfloat16))  # not of the others' kind
  groups = alike.alike(arrays, small=100)
  stacks = [alike.stack([arrays[at] for at in group]) for group in groups]
  # What is alone stays as it is: a stack of one compiles for longer.
  assert [s.shape for s in stacks] == [(3, 3), (41, 5), (300,), (300,), (3,)]
  held = sorted(x for s in stacks for x in np.asarray(s, np.float32).ravel())
  assert held == sorted(x for a in arrays for x in np.asarray(a, np.float32))
