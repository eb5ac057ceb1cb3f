"""Wrappers around every method, and Flax's train state."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import optax_mtl
from optax_mtl._dtypes import solver_dtype

every_method = pytest.mark.parametrize("name", harness.NAMES)
T = harness.NUM_TASKS


def run(tx, data, active=None, dtype="float32"):
  """Updates and states of a jitted scan over the data."""
  start = harness.params(dtype)

  def step(state, row):
    masked = {} if active is None else {"active": row.active}
    updates, state = tx.update(row.grads, state, start, **masked, **row.extra)
    return state, (updates, state)

  data = harness.to_dtype(data, dtype)
  if active is not None:
    data = data._replace(active=jnp.asarray(active))
  updates, states = jax.jit(lambda d: jax.lax.scan(step, tx.init(start), d)[1])(
    data
  )
  return harness.flat(updates, 1), states


def traced(tx, params=None):
  """Shapes of updates and states, by a scan, which wants them stable."""
  start = harness.params() if params is None else params

  def step(state, row):
    updates, state = tx.update(row.grads, state, start, **row.extra)
    return state, updates

  data = harness.to_dtype(harness.data(num_steps=4), "float32")
  return jax.eval_shape(lambda d: jax.lax.scan(step, tx.init(start), d), data)


@every_method
def test_every_wrapper_takes_every_method(name):
  method = harness.build(name)
  wrapped = [
    optax_mtl.refresh_every(method, 3),
    optax_mtl.accumulate(method, T, 2),
    optax_mtl.skip_nonfinite(method),
    optax_mtl.track_conflicts(method, T),
    optax_mtl.skip_nonfinite(optax.chain(method, optax.sgd(0.1))),
    optax_mtl.accumulate(optax.chain(method, optax.sgd(0.1)), T, 2),
    optax_mtl.track_conflicts(optax_mtl.refresh_every(method, 3), T),
    optax.chain(optax_mtl.per_task(optax.clip_by_global_norm(1.0), T), method),
  ]
  for tx in wrapped:
    state, updates = traced(tx)
    start = harness.params()
    assert jax.tree.map(lambda u: u.shape[1:], updates) == jax.tree.map(
      jnp.shape, start
    )
    found = optax.tree.get_all_with_path(state, "weights")
    assert all(leaf.shape == (T,) for _, leaf in found) and found


# refresh_every.
def test_refresh_every_keeps_weights_and_state():
  data = harness.data(num_steps=9)
  tx = optax_mtl.refresh_every(harness.build("mgda"), 3)
  updates, states = run(tx, data)
  plain, plain_states = run(harness.build("mgda"), data)
  weights = np.asarray(plain_states.weights)[[0, 0, 0, 3, 3, 3, 6, 6, 6]]
  np.testing.assert_allclose(
    states.inner_state.weights, weights, rtol=1e-4, atol=1e-5
  )
  grads = harness.flat(data.grads, 2)
  expected = np.einsum("st,stp->sp", weights, grads)
  harness.assert_close(updates, expected, 4.0, 1e-4)
  np.testing.assert_array_equal(
    states.refresh_step, [1, 2, 0, 1, 2, 0, 1, 2, 0]
  )
  harness.assert_close(updates[::3], plain[::3], 4.0, 1e-4)


def test_refresh_every_leaves_absent_tasks_out():
  """Absent now: weight 0 now; absent at the refresh: until the next."""
  active = np.ones((6, T), bool)
  active[1, 0] = active[3, 2] = False
  data = harness.data(num_steps=6)
  tx = optax_mtl.refresh_every(harness.build("mgda"), 3)
  updates, states = run(tx, data, active)
  weights = np.copy(states.inner_state.weights)
  np.testing.assert_array_equal(weights[:3], weights[:1].repeat(3, axis=0))
  assert (weights[3:, 2] == 0).all()
  weights[1, 0] = 0
  grads = harness.flat(data.grads, 2)
  expected = np.einsum("st,stp->sp", weights, grads)
  harness.assert_close(updates, expected, 4.0, 1e-5)


def test_refresh_every_skips_the_gram_matrix_with_the_implicit_source():
  """The backward passes of the Gram matrix stand in a branch."""
  kernel = jnp.eye(4)

  def loss_fn(p):
    return jnp.stack([jnp.sum((kernel @ p["x"]) ** (t + 1)) for t in range(T)])

  params = {"x": jnp.ones(4)}
  tx = optax_mtl.refresh_every(optax_mtl.mgda(T), 10)

  def step(params, state):
    _, grads = optax_mtl.value_and_task_grads(loss_fn, source="implicit")(
      params
    )
    return tx.update(grads, state, params)

  jaxpr = jax.make_jaxpr(step)(params, tx.init(params)).jaxpr
  names = [eqn.primitive.name for eqn in jaxpr.eqns]
  assert names.count("cond") == 1
  # lax.map over tasks is a scan, and none stands outside the branch.
  assert "scan" not in names and "while" not in names


# accumulate.
@pytest.mark.parametrize("name", ["equal_weighting", "mgda", "dwa", "gradnorm"])
def test_accumulate_is_the_method_on_the_mean(name):
  data = harness.data(num_steps=6)
  tx = optax_mtl.accumulate(harness.build(name), T, 2)
  updates, states = run(tx, data)
  halves = jax.tree.map(
    lambda leaf: np.asarray(leaf).reshape(3, 2, *leaf.shape[1:]).mean(1),
    data._replace(active=np.ones((6, T), np.float64)),
  )
  expected, _ = run(
    harness.build(name), halves._replace(active=np.ones((3, T)))
  )
  assert (updates[::2] == 0).all()
  harness.assert_close(updates[1::2], expected, 4.0, 1e-4)
  np.testing.assert_array_equal(states.mini_step, [1, 0] * 3)


def test_accumulate_counts_each_tasks_batches():
  """A task's mean is over the batches in which it was active."""
  active = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 1, 1]], bool)
  data = harness.data(num_steps=4)
  tx = optax_mtl.accumulate(harness.build("equal_weighting"), T, 2)
  updates, states = run(tx, data, active)
  grads = harness.flat(data.grads, 2)
  first = grads[0, 0] + grads[:2, 1].mean(0)
  second = grads[3, 0] + grads[2:, 1].mean(0) + grads[3, 2]
  harness.assert_close(updates[1], first, 4.0, 1e-6)
  harness.assert_close(updates[3], second, 4.0, 1e-6)
  np.testing.assert_array_equal(states.batch_count[2], [0, 1, 0])
  # Absent from all batches: absent from the update.
  weights = optax.tree.get(states, "weights")
  np.testing.assert_array_equal(weights[1], [1, 1, 0])


def test_accumulate_nan_of_an_absent_task_and_bfloat16():
  data = harness.data(num_steps=4)
  for leaf in jax.tree.leaves(data.grads):
    leaf[1, 2] = np.nan
  active = np.ones((4, T), bool)
  active[1, 2] = False
  tx = optax_mtl.accumulate(harness.build("equal_weighting"), T, 2)
  updates, states = run(tx, data, active, "bfloat16")
  assert np.isfinite(updates).all()
  for leaf in jax.tree.leaves(states.gradient_sum):
    assert leaf.dtype == jnp.float32, "sums of many bfloat16 need more bits"


# skip_nonfinite.
def test_skip_nonfinite():
  data = harness.data(num_steps=6)
  for leaf in jax.tree.leaves(data.grads):
    leaf[1:4, 1] = np.inf
  tx = optax_mtl.skip_nonfinite(harness.build("gradnorm"), max_consecutive=2)
  updates, states = run(tx, data)
  assert (updates[1:3] == 0).all()
  # The third in a row goes through, so that it shows.
  assert not np.isfinite(updates[3]).all()
  np.testing.assert_array_equal(states.skipped_in_a_row[:4], [0, 1, 2, 0])
  np.testing.assert_array_equal(states.skipped_total[:4], [0, 1, 2, 2])


def test_skip_nonfinite_keeps_the_state():
  """The run with a bad step is the run without that step."""
  data = harness.data(num_steps=6)
  without = jax.tree.map(lambda leaf: np.delete(leaf, 2, axis=0), data)
  spoilt = jax.tree.map(np.copy, data)
  for leaf in jax.tree.leaves(spoilt.grads):
    leaf[2, 0] = np.nan
  tx = optax_mtl.skip_nonfinite(harness.build("gradnorm"))
  got, states = run(tx, spoilt)
  want, _ = run(harness.build("gradnorm"), without)
  harness.assert_close(np.delete(got, 2, axis=0), want, 4.0, 1e-5)
  assert int(states.skipped_total[-1]) == 1


def test_skip_nonfinite_sees_losses_that_spoil_the_state():
  data = harness.data(num_steps=3)
  data.extra["losses"][1, 0] = np.nan
  tx = optax_mtl.skip_nonfinite(harness.build("uncertainty_weighting"))
  updates, states = run(tx, data)
  assert int(states.skipped_total[-1]) == 1
  assert np.isfinite(optax.tree.get(states, "log_vars")).all()
  assert (updates[1] == 0).all()


# track_conflicts.
def test_track_conflicts():
  data = harness.data(num_steps=4)
  active = np.ones((4, T), bool)
  active[3, 0] = False
  tx = optax_mtl.track_conflicts(harness.build("equal_weighting"), T)
  updates, states = run(tx, data, active)
  grads = harness.flat(data.grads, 2)
  unit = grads / np.linalg.norm(grads, axis=2, keepdims=True)
  cosines = unit @ unit.transpose(0, 2, 1)
  np.testing.assert_allclose(states.cosines[:3], cosines[:3], atol=1e-5)
  upper = cosines[:3][:, *np.triu_indices(T, 1)]
  np.testing.assert_allclose(
    states.conflict_rate[:3], (upper < 0).mean(axis=1), rtol=1e-6
  )
  plain = harness.flat(data.grads, 2)[:3].sum(axis=1)
  harness.assert_close(updates[:3], plain, 4.0, 1e-6)
  assert np.isfinite(np.asarray(states.conflict_rate)).all()


# per_task.
@pytest.mark.standard_promotion
@pytest.mark.parametrize(
  "inner", [lambda: optax.scale_by_adam(), lambda: optax.trace(0.9)]
)
def test_per_task_is_a_loop_over_tasks(inner):
  data = harness.data(num_steps=3)
  tx = optax_mtl.per_task(inner(), T)
  start = harness.params()
  rows = harness.to_dtype(data, "float32").grads

  def step(transform):
    def one(state, grads):
      updates, state = transform.update(grads, state, start)
      return state, updates

    return one

  state = tx.init(start)
  assert all(leaf.shape[0] == T for leaf in jax.tree.leaves(state))
  _, together = jax.lax.scan(step(tx), state, rows)
  for t in range(T):
    single = inner()
    mine = jax.tree.map(lambda leaf, t=t: leaf[:, t], rows)
    _, alone = jax.lax.scan(step(single), single.init(start), mine)
    got = jax.tree.map(lambda leaf, t=t: leaf[:, t], together)
    # The same operations, batched.
    harness.assert_close(
      harness.flat(got, 1), harness.flat(alone, 1), 4.0, 1e-6
    )


# Flax.
@every_method
@pytest.mark.standard_promotion
def test_flax_train_state(name):
  """Extra args reach the method, fields are replaced, the rest is Flax's."""
  from optax_mtl.integrations.flax import TrainState

  class WithStatistics(TrainState):
    batch_stats: dict

  data = harness.to_dtype(harness.data(num_steps=2), "float32")
  row = jax.tree.map(lambda leaf: leaf[0], data)
  tx = optax.chain(harness.build(name), optax.sgd(1.0))
  state = WithStatistics.create(
    apply_fn=None,
    params=harness.params(),
    tx=tx,
    batch_stats={"mean": jnp.zeros(2)},
  )
  new = jax.eval_shape(
    lambda s, r: s.apply_gradients(
      grads=r.grads,
      active=r.active,
      batch_stats={"mean": jnp.ones(2)},
      **r.extra,
    ),
    state,
    row,
  )
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert [leaf.shape for leaf in jax.tree.leaves(new)] == [
    jnp.shape(leaf) for leaf in jax.tree.leaves(state)
  ]


def test_flax_train_state_by_value():
  from optax_mtl.integrations.flax import TrainState

  state = TrainState.create(
    apply_fn=None, params=jnp.zeros(2), tx=optax_mtl.mgda(2)
  )
  new = state.apply_gradients(
    grads=jnp.array([[1.0, 0.0], [0.0, 2.0]]), active=jnp.array([True, False])
  )
  np.testing.assert_allclose(new.params, [1.0, 0.0])
  assert new.step == 1
  restored = serialization.from_bytes(state, serialization.to_bytes(new))
  np.testing.assert_array_equal(restored.params, new.params)
  assert new.opt_state.weights.dtype == solver_dtype()
