"""What `track` records, for each kind of rule, and what that costs."""

import functools

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sources.small_networks import normal

import optax_mtl

T = harness.NUM_TASKS
WINDOW = 4
every_kind = pytest.mark.parametrize("name", harness.every_kind)


def compare(found, want):
  """Figures [steps] with the reference's.

  float32 sums of 13 products, divided by another such sum; the rates are sums
  of T of them.
  """
  assert found.keys() == want.keys()
  for key, values in want.items():
    np.testing.assert_allclose(
      found[key], values, rtol=2e-5, atol=2e-5, err_msg=key
    )


@functools.cache
def tracked_run(name):
  """A program for the two tests of each kind of rule."""
  return harness.runner(optax_mtl.track(harness.build(name), WINDOW))


@every_kind
def test_figures(name):
  """With tasks that come and go, one of them with a gradient of zero.

  The direction is that of the run's own updates: a limit on their norm is in
  it, and so are methods without weights.
  """
  data = harness.cases()["absent"]

  def without(leaf):
    leaf = np.copy(leaf)
    leaf[5:8, 0] = 0.0
    return leaf

  data = data._replace(grads=jax.tree.map(without, data.grads))
  run = tracked_run(name)(data)
  assert np.isfinite(run.updates).all()
  want = harness.figures(
    harness.flat(data.grads, 2),
    data.active,
    run.updates,
    run.weights,
    "abc",
    WINDOW,
  )
  # A state after each step: the figures have its leading axis.
  found = optax_mtl.diagnostics(run.states, "a b c".split())
  assert found["conflict_rate"].shape == (harness.NUM_STEPS,)
  compare(found, want)


@every_kind
def test_updates_are_as_without(name):
  """The method reads the matrix that was recorded."""
  run = harness.case_runs(name)["absent"]
  tracked = tracked_run(name)(harness.cases()["absent"])
  # Two programs; lengths are the roots of the matrix's diagonal.
  size = np.abs(run.updates).max()
  harness.assert_close(tracked.updates, run.updates, size, 1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_task_that_is_not_finite(value):
  """It does not count, and nothing in the state says NaN.

  Else `skip_nonfinite` would leave out a step that `drop_nonfinite` has mended.
  """
  data = harness.data(num_steps=4)
  where = np.zeros((4, T), bool)
  where[2, 1] = True
  data = data._replace(grads=harness.spoilt(data, where, value).grads)
  method = optax_mtl.drop_nonfinite(harness.build("equal_weighting"))
  run = harness.runner(
    optax_mtl.skip_nonfinite(optax_mtl.track(method, WINDOW))
  )(data)
  assert int(run.states.skipped_total[-1]) == 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.states))
  grads = np.where(where[..., None], 0, harness.flat(data.grads, 2))
  want = harness.figures(
    grads, ~where, run.updates, (~where).astype(float), "012", WINDOW
  )
  compare(optax_mtl.diagnostics(run.states), want)
  # And without what drops it, the figures of the others stay.
  tx = optax_mtl.track(harness.build("equal_weighting"), WINDOW)
  alone = optax_mtl.diagnostics(harness.runner(tx)(data).states)
  for key in ("norm/0", "norm/1", "cosine/0/1", "conflict_rate", "present/1"):
    np.testing.assert_allclose(alone[key], want[key], rtol=2e-5, atol=2e-5)


def test_over_the_trunk():
  """Wherever `on_trunk` stands; one task's gradient differs in the head."""
  data = harness.data(num_steps=3)
  trunk = harness.flat(data.grads["trunk"], 2)
  method = harness.build("equal_weighting")
  for tx in (
    optax_mtl.on_trunk(optax_mtl.track(method), harness.SHARED),
    optax_mtl.track(optax_mtl.on_trunk(method, harness.SHARED)),
  ):
    run = harness.runner(tx)(data)
    updates = harness.flat(run.raw["trunk"], 1)
    ones = np.ones((3, T))
    want = harness.figures(trunk, data.active, updates, ones, "012", 100)
    compare(optax_mtl.diagnostics(run.states), want)


def test_inside_and_around_refresh_every():
  """Inside, a row for each refresh; around, one for each step."""
  data = harness.data(num_steps=8)
  grads = harness.flat(data.grads, 2)
  method = harness.build("mgda")
  inside = harness.runner(
    optax_mtl.refresh_every(optax_mtl.track(method, 2), 3)
  )(data)
  around = harness.runner(
    optax_mtl.track(optax_mtl.refresh_every(method, 3), 2)
  )(data)
  harness.assert_close(inside.updates, around.updates, 5.0, 1e-5)
  every = (around, slice(None)), (inside, slice(None, None, 3))
  for run, steps in every:
    weights = run.weights[steps]
    want = harness.figures(
      grads[steps],
      data.active[steps],
      np.einsum("st,stp->sp", weights, grads[steps]),
      weights,
      "012",
      2,
    )
    states = jax.tree.map(lambda leaf, steps=steps: leaf[steps], run.states)
    compare(optax_mtl.diagnostics(states), want)
  # Between refreshes nothing is recorded.
  last = optax_mtl.diagnostics(inside.states)["norm/0"]
  np.testing.assert_array_equal(last[0:3], np.repeat(last[0], 3))
  assert last[3] != last[2]


def deep_losses(params, x):
  """Twelve products forward, so that a few on [T, T] do not matter."""
  return heads(params, deep_trunk(params, x))


def deep_trunk(params, x):
  for kernel in params["trunk"]:
    x = jnp.tanh(x @ kernel)
  return x


def heads(params, z, *_):
  return [jnp.mean((z @ params["heads"][t]) ** 2) for t in range(T)]


TERMS = {
  str(t): functools.partial(
    lambda params, x, t: heads(params, deep_trunk(params, x))[t], t=t
  )
  for t in range(T)
}
SOURCES = {
  "stacked": optax_mtl.value_and_task_grads(deep_losses),
  "stacked, trunk": optax_mtl.value_and_task_grads(
    deep_losses, shared={"trunk": True, "heads": False}
  ),
  "implicit": optax_mtl.value_and_task_grads(deep_losses, source="implicit"),
  "representation": optax_mtl.value_and_representation_grads(deep_trunk, heads),
  "terms": optax_mtl.value_and_task_batch_grads(TERMS),
  "terms, implicit": optax_mtl.value_and_task_batch_grads(
    TERMS, source="implicit"
  ),
}


def step_products(source, tx, read=False):
  params = {
    "trunk": [normal(i, 6, 6) for i in range(12)],
    "heads": [normal(20 + t, 6, 1) for t in range(T)],
  }
  x = normal(99, 5, 6)
  batch = {name: (x,) for name in TERMS} if "terms" in source else x

  def run(params, batch):
    losses, grads = SOURCES[source](params, batch)
    updates, state = tx.update(grads, tx.init(params), params, losses=losses)
    figures = optax_mtl.diagnostics(state) if read else None
    return losses, updates, state, figures

  return harness.products(run, params, batch)


@pytest.mark.parametrize("source", SOURCES)
def test_no_second_gram_product(source):
  """Products are counted in the program as it is handed to the compiler.

  One more, of the matrix [T, T] with the weights; also where the method reads
  the lengths alone, or in a branch, and where the figures are read.
  """
  mgda = harness.build("mgda")
  assert step_products(source, optax_mtl.track(mgda), read=True) == (
    step_products(source, mgda) + 1
  )
  refreshed = step_products(source, optax_mtl.refresh_every(mgda, 10))
  for tx in (
    optax_mtl.refresh_every(optax_mtl.track(mgda), 10),
    optax_mtl.track(optax_mtl.refresh_every(mgda, 10)),
  ):
    assert step_products(source, tx) == refreshed + 1
  # Of methods that read no matrix, it is one for all: more for the source's
  # own way to it, but for one that reads the lengths no lengths as well.
  tracked = {
    name: step_products(source, optax_mtl.track(harness.build(name)))
    for name in ("equal_weighting", "gradnorm")
  }
  assert tracked["gradnorm"] == tracked["equal_weighting"]


def test_flops():
  """The compiled program's, beside one that computes the matrix alone."""
  params = {"w": jnp.ones((64, 64))}
  grads = jax.eval_shape(lambda: {"w": jnp.ones((8, 64, 64))})

  def flops(tx):
    lowered = jax.jit(tx.update).lower(
      grads, jax.eval_shape(tx.init, params), params
    )
    return lowered.compile().cost_analysis()["flops"]

  method = optax_mtl.conflict_free(8)
  plain, tracked = flops(method), flops(optax_mtl.track(method, 10))
  # A Gram product is 2 · 8 · 8 · 4096 operations. The window is written, and
  # the matrix multiplied with the weights.
  assert tracked - plain < 0.05 * 2 * 8 * 8 * 64**2
  assert plain > 2 * 8 * 8 * 64**2


def test_in_the_place_of_its_method():
  """Whatever takes a method takes a tracked one, and the memory is found."""
  method = optax_mtl.track(harness.build("mgda"), 2)
  assert isinstance(method, optax_mtl.Method)
  params = harness.params()
  for tx in (
    optax.chain(method, optax.sgd(0.1)),
    optax_mtl.weighted_then(
      optax_mtl.track(harness.build("dwa"), 2),
      method.with_rule(harness.build("mgda").rule),
    ),
    optax_mtl.accumulate(optax_mtl.ema_weights(method), T, 2),
    optax_mtl.from_extra_arg(
      optax_mtl.track(optax_mtl.from_extra_arg(harness.build("mgda")), 2)
    ),
  ):
    figures = optax_mtl.diagnostics(tx.init(params))
    assert np.isnan(list(figures.values())).all()


def test_arguments():
  method = harness.build("mgda")
  with pytest.raises(TypeError, match=r"track wraps a method .* optax.chain\("):
    optax_mtl.track(optax.chain(method, optax.sgd(0.1)))
  with pytest.raises(TypeError, match="window must be a Python int, got float"):
    optax_mtl.track(method, 10.0)
  with pytest.raises(ValueError, match="window must lie in"):
    optax_mtl.track(method, 0)


def test_a_state_of_another_window():
  """Its rows would be written where `window` says, and read where they are."""
  tx = optax_mtl.track(optax_mtl.equal_weighting(2), 9)
  other = optax_mtl.track(optax_mtl.equal_weighting(2), 2)
  with pytest.raises(ValueError, match="window=9, but its state has 2 rows"):
    tx.update(jnp.eye(2), other.init(jnp.zeros(2)), jnp.zeros(2))
