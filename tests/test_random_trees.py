"""Sources and wrappers on random trees, dtypes, masks, scales and numbers.

Each example is drawn by hypothesis, and runs op by op: what is compiled is an
operation for a shape, and shapes are few. What must hold holds bit for bit, or
to roundings that are derived.
"""

import functools

import few_examples
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import optax_mtl
from optax_mtl.sources.stacked import as_task_gradients

# bfloat16 params beside float32 numbers.
pytestmark = pytest.mark.standard_promotion

SHAPES = [(), (3,), (2, 3)]
DTYPES = [jnp.float32, jnp.bfloat16]
#: Powers of two: a scale by itself rounds nothing.
EXPONENTS = [-50, -20, 0, 20, 50]
#: Methods that compute in few operations, one for each thing a rule can read.
METHODS = {
  "equal_weighting": optax_mtl.equal_weighting,
  "dwa": optax_mtl.dwa,
  "norm_balance": optax_mtl.norm_balance,
  "mgda": optax_mtl.mgda,
}
# Without shrinking: each example takes some tenths of a second, and is small.
few = hypothesis.settings(few_examples.few, max_examples=12)


def leaves():
  return st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES))


def trees():
  """Nested dicts, lists and tuples of (shape, dtype), of at least one leaf."""
  return st.recursive(
    leaves().map(lambda leaf: {"leaf": leaf}),
    lambda inner: (
      st.lists(inner, min_size=1, max_size=2)
      | st.tuples(inner)
      | st.dictionaries(st.sampled_from("ab"), inner, min_size=1)
    ),
    max_leaves=3,
  )


def is_leaf(node):
  return isinstance(node, tuple) and len(node) == 2 and node[0] in SHAPES


@st.composite
def problems(draw, exponents=EXPONENTS):
  """Params, stacked gradients and a mask; T from 1 to 4."""
  shapes = draw(trees())
  num_tasks = draw(st.integers(1, 4))
  rng = np.random.default_rng(draw(st.integers(0, 2**31)))
  scale = 2.0 ** draw(st.sampled_from(exponents))

  def array(lead, leaf, scale=1.0):
    shape, dtype = leaf
    return jnp.asarray(scale * rng.standard_normal((*lead, *shape)), dtype)

  over = functools.partial(jax.tree.map, is_leaf=is_leaf)
  params = over(lambda leaf: array((), leaf), shapes)
  grads = over(lambda leaf: array((num_tasks,), leaf, scale), shapes)
  active = np.array(draw(st.lists(st.booleans(), min_size=4, max_size=4)))
  return num_tasks, params, grads, jnp.asarray(active[:num_tasks])


def build(name, num_tasks):
  if name == "dwa":
    return optax_mtl.dwa(num_tasks, steps_per_epoch=2)
  return METHODS[name](num_tasks)


def losses(num_tasks):
  return jnp.linspace(0.5, 2.0, num_tasks, dtype=jnp.float32)


def run(tx, problem, grads=None, *, steps=1, **extra):
  """The last update and state."""
  num_tasks, params, given, _ = problem
  state = tx.init(params)
  extra = {"losses": losses(num_tasks)} | extra
  for _ in range(steps):
    updates, state = tx.update(
      given if grads is None else grads, state, params, **extra
    )
  return updates, state


def assert_same(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


methods = st.sampled_from(sorted(METHODS))


@few
@hypothesis.given(problems(), methods)
def test_an_update_is_like_the_params_and_finite(problem, name):
  num_tasks, params, _, active = problem
  updates, state = run(build(name, num_tasks), problem, active=active)
  assert jax.tree.structure(updates) == jax.tree.structure(params)
  for u, p in zip(
    jax.tree.leaves(updates), jax.tree.leaves(params), strict=True
  ):
    assert u.shape == p.shape and u.dtype == p.dtype
    assert np.isfinite(np.asarray(u, np.float32)).all()
  weights = np.asarray(state.weights)
  assert (
    np.isfinite(weights).all() and (weights[~np.asarray(active)] == 0).all()
  )


@few
@hypothesis.given(problems(), methods, st.sampled_from([np.nan, np.inf]))
def test_dropping_is_masking(problem, name, bad):
  """What is not finite is not seen: of a task that is absent, or dropped."""
  num_tasks, _, grads, active = problem
  spoilt = jax.tree.map(
    lambda g: jnp.where(
      active.reshape(-1, *[1] * (g.ndim - 1)), g, jnp.asarray(bad, g.dtype)
    ),
    grads,
  )
  wanted = run(build(name, num_tasks), problem, active=active)
  assert_same(
    run(build(name, num_tasks), problem, spoilt, active=active), wanted
  )
  dropping = optax_mtl.drop_nonfinite(build(name, num_tasks))
  assert_same(run(dropping, problem, spoilt), wanted)


#: Wrappers that have nothing to do, of a method, T and a mask of all leaves.
IDLE = {
  "drop_nonfinite": lambda tx, n, mask: optax_mtl.drop_nonfinite(tx),
  "skip_nonfinite": lambda tx, n, mask: optax_mtl.skip_nonfinite(tx),
  "refresh_every": lambda tx, n, mask: optax_mtl.refresh_every(tx, 1),
  "ema_weights": lambda tx, n, mask: optax_mtl.ema_weights(tx, 0.0),
  "on_trunk": lambda tx, n, mask: optax_mtl.on_trunk(tx, mask),
  "accumulate": lambda tx, n, mask: optax_mtl.accumulate(tx, n, 1),
  "rename_args": lambda tx, n, mask: optax_mtl.rename_args(tx, losses="other"),
  "chain": lambda tx, n, mask: optax.chain(tx, optax.identity()),
}


@few
@hypothesis.given(
  problems(), methods, st.lists(st.sampled_from(sorted(IDLE)), max_size=3)
)
def test_wrappers_that_have_nothing_to_do_change_nothing(problem, name, idle):
  num_tasks, params, _, active = problem
  tx = method = build(name, num_tasks)
  wanted, state = run(method, problem, active=active)
  everything = jax.tree.map(lambda _: True, params)
  # A chain is no method, so that what changes a rule cannot go around it.
  for each in sorted(set(idle), key=lambda w: ("chain" == w, idle.index(w))):
    tx = IDLE[each](tx, num_tasks, everything)
  found, wrapped = run(tx, problem, active=active, other=losses(num_tasks))
  assert_same(found, wanted)
  assert_same(optax.tree.get(wrapped, "weights"), state.weights)


@few
@hypothesis.given(problems(), methods)
def test_two_equal_batches_are_one(problem, name):
  """Their sum is twice either, and half of it is that, without a rounding."""
  num_tasks, _, _, active = problem
  method = build(name, num_tasks)
  tx = optax_mtl.accumulate(method, num_tasks, 2)
  found, state = run(tx, problem, steps=2, active=active)
  wanted, plain = run(method, problem, active=active)
  # A task that is in no batch has no loss either.
  if bool(active.all()) or name != "dwa":
    assert_same(found, wanted)
    assert_same(state.inner_state.weights, plain.weights)
  assert int(state.update_step) == 1


@few
@hypothesis.given(problems(exponents=[0]), st.sampled_from(EXPONENTS))
def test_a_power_of_two_scales_the_update_and_nothing_else(problem, exponent):
  """No sum or root of what is scaled by a power of four is rounded anew."""
  num_tasks, _, grads, active = problem
  scaled = jax.tree.map(
    lambda g: g * jnp.asarray(2.0**exponent, g.dtype), grads
  )
  for name in ("equal_weighting", "mgda"):
    wanted, state = run(build(name, num_tasks), problem, active=active)
    found, other = run(build(name, num_tasks), problem, scaled, active=active)
    assert_same(other.weights, state.weights)
    assert_same(
      found,
      jax.tree.map(lambda u: u * jnp.asarray(2.0**exponent, u.dtype), wanted),
    )


@hypothesis.settings(few, max_examples=6)
@hypothesis.given(problems(exponents=[0]), st.booleans())
def test_sources_agree_with_the_gradient_of_each_loss(problem, by_name):
  """All of them, on any tree, with tasks that are absent."""
  num_tasks, params, _, active = problem
  params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
  rates = jnp.linspace(0.5, 2.0, num_tasks)

  def losses_of(params, rates):
    leaves = jax.tree.leaves(params)
    return jnp.stack(
      [sum(jnp.sum(jnp.sin(r * leaf)) for leaf in leaves) for r in rates]
    )

  def named(params, rates):
    return {f"task {i}": x for i, x in enumerate(losses_of(params, rates))}

  each = [
    jax.grad(lambda p, i=i: losses_of(p, rates)[i])(params)
    for i in range(num_tasks)
  ]
  wanted = jax.tree.map(lambda *rows: jnp.stack(rows), *each)
  flat = np.concatenate(
    [
      np.asarray(x, float).reshape(num_tasks, -1)
      for x in jax.tree.leaves(wanted)
    ],
    axis=1,
  )
  weights = jnp.where(active, rates, 0.0)
  # A product of two rows, and a sum over few tasks.
  eps = 16 * np.finfo(np.float32).eps
  lengths = np.linalg.norm(flat, axis=1)
  for kind in ("stacked", "implicit"):
    source = optax_mtl.value_and_task_grads(
      named if by_name else losses_of, source=kind
    )
    values, grads = source(params, rates)
    if by_name:
      values = jnp.stack([values[name] for name in sorted(values)])
    np.testing.assert_allclose(
      values, losses_of(params, rates), rtol=eps, atol=eps * flat.shape[1]
    )
    grads = as_task_gradients(grads, num_tasks, params)
    error = np.abs(np.asarray(grads.gram(), float) - flat @ flat.T)
    assert (error <= eps * np.outer(lengths, lengths)).all()
    update = grads.combine(weights, keep=active)
    assert jax.tree.structure(update) == jax.tree.structure(params)
    found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(update)])
    size = float(np.asarray(weights) @ lengths)
    assert np.abs(found - np.asarray(weights) @ flat).max() <= eps * size
    np.testing.assert_array_equal(
      np.asarray(grads.finite()), np.ones(num_tasks, bool)
    )
