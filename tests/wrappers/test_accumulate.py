"""A method on the mean of several batches, task by task."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

T = harness.NUM_TASKS


@pytest.mark.parametrize("name", ["dwa", "largest_entry"])
def test_accumulate_is_the_method_on_the_mean(name):
  data = jax.tree.map(lambda leaf: leaf[:6], harness.data())
  run = harness.runner(optax_mtl.accumulate(harness.build(name), T, 2))(data)
  means = jax.tree.map(
    lambda leaf: np.asarray(leaf).reshape(3, 2, *leaf.shape[1:]).mean(1),
    data._replace(active=np.ones((6, T))),
  )
  expected = harness.run(name, means._replace(active=np.ones((3, T), bool)))
  assert (run.updates[::2] == 0).all()
  # Two programs, on means that are summed in another order.
  harness.assert_close(run.updates[1::2], expected.updates, 4.0, 1e-4)
  np.testing.assert_array_equal(run.states.mini_step, [1, 0] * 3)


def test_each_tasks_batches_are_counted():
  """A task's mean is over the batches in which it was active."""
  active = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 1, 1]], bool)
  data = harness.data(num_steps=4)._replace(active=active)
  tx = optax_mtl.accumulate(harness.build("equal_weighting"), T, 2)
  run = harness.runner(tx)(data)
  grads = harness.flat(data.grads, 2)
  first = grads[0, 0] + grads[:2, 1].mean(0)
  second = grads[3, 0] + grads[2:, 1].mean(0) + grads[3, 2]
  harness.assert_close(run.updates[1], first, 4.0, 1e-6)
  harness.assert_close(run.updates[3], second, 4.0, 1e-6)
  np.testing.assert_array_equal(run.states.total_count[2], [0, 1, 0])
  # Absent from all batches: absent from the update.
  weights = optax.tree.get(run.states, "weights")
  np.testing.assert_array_equal(weights[1], [1, 1, 0])


def test_nan_of_an_absent_task_and_bfloat16():
  active = np.ones((4, T), bool)
  active[1, 2] = False
  data = harness.data(num_steps=4)._replace(active=active)
  data = harness.spoilt(data, ~active, np.nan)
  tx = optax_mtl.accumulate(harness.build("dwa"), T, 2)
  run = harness.runner(tx, "bfloat16")(data)
  assert np.isfinite(run.updates).all()
  for leaf in jax.tree.leaves(run.states.gradient_sum):
    assert leaf.dtype == jnp.float32, "sums of many bfloat16 need more bits"
  losses = data.extra["losses"][2:].sum(axis=0)
  # The last pair's losses, averaged, are what `dwa` counted last.
  memory = optax.tree.get(run.states, "inner_state").memory
  np.testing.assert_allclose(
    memory.epoch_loss_sum[3] - memory.epoch_loss_sum[1], losses / 2, rtol=1e-5
  )


def test_names_and_the_trunk_go_through():
  """What the gradients and losses are called, and which leaves are shared."""
  inner = optax_mtl.on_trunk(
    optax_mtl.fixed_weighting(2, {"t2": 2.0, "t10": 10.0}),
    {"trunk": True, "head": False},
  )
  params = {"trunk": jnp.zeros(2), "head": jnp.zeros(1)}
  grads = {"trunk": jnp.eye(2), "head": jnp.ones((2, 1))}
  losses = {"t2": jnp.asarray(2.0), "t10": jnp.asarray(10.0)}
  for tx in (
    optax_mtl.accumulate(inner, 2, 1),
    optax_mtl.on_trunk(
      optax_mtl.accumulate(
        optax_mtl.fixed_weighting(2, {"t2": 2.0, "t10": 10.0}), 2, 1
      ),
      {"trunk": True, "head": False},
    ),
  ):
    updates, _ = tx.update(grads, tx.init(params), params, losses=losses)
    np.testing.assert_array_equal(updates["trunk"], [10.0, 2.0])
    np.testing.assert_array_equal(updates["head"], [2.0])


def test_names_that_the_source_carries_go_through():
  """Where no extra arg has any."""

  def loss_fn(params):
    return {"t2": params[1], "t10": params[0]}

  params = jnp.zeros(2)
  _, grads = optax_mtl.value_and_task_grads(loss_fn, shared=True)(params)
  inner = optax_mtl.fixed_weighting(2, {"t2": 2.0, "t10": 10.0})
  tx = optax_mtl.accumulate(inner, 2, 1)
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_array_equal(updates, [10.0, 2.0])


def test_means_over_unequally_many_labels():
  """Weighted by the counts they are the mean over all labels."""
  rng = np.random.default_rng(0)
  labels = rng.standard_normal((10, 4)).astype(np.float32)
  # Task "a" has one label in the first batch and nine in the next; "b" has all
  # of its in the second, where "a" is marked as absent by no one.
  counts = {"a": [1, 9], "b": [0, 10]}
  parts = {k: np.split(labels, [number[0]]) for k, number in counts.items()}
  losses = {"a": [1.0, 2.0], "b": [np.nan, 4.0]}
  tx = optax_mtl.accumulate(optax_mtl.equal_weighting(2), 2, 2)

  @jax.jit
  def step(state, rows, losses, counts):
    return tx.update(rows, state, jnp.zeros(4), losses=losses, counts=counts)

  state = tx.init(jnp.zeros(4))
  for batch in range(2):
    with np.errstate(invalid="ignore"):
      # The mean of no labels is 0 / 0.
      rows = [
        part[batch].sum(0) / np.float32(len(part[batch]))
        for part in parts.values()
      ]
    updates, state = step(
      state,
      jnp.stack(rows),
      {k: jnp.asarray(v[batch]) for k, v in losses.items()},
      {k: jnp.asarray(v[batch]) for k, v in counts.items()},
    )
    if batch == 0:
      np.testing.assert_array_equal(state.total_count, [1, 0])
      np.testing.assert_array_equal(state.loss_sum, [1, 0])
  # A sum of ten numbers, in two orders.
  np.testing.assert_allclose(updates, 2 * labels.mean(0), rtol=2e-6, atol=1e-6)


def test_counts_are_checked():
  tx = optax_mtl.accumulate(optax_mtl.mgda(2), 2, 2)
  state = tx.init(jnp.zeros(2))
  for counts, message in (
    (jnp.ones(3), "counts must hold one value for each of the 2 tasks"),
    (jnp.array([-1.0, 2.0]), "counts= must not be negative"),
    ({"a": 1, "c": 2}, "a, c in counts=, but a, b in losses="),
  ):
    with pytest.raises(ValueError, match=message):
      tx.update(jnp.eye(2), state, losses={"a": 1.0, "b": 2.0}, counts=counts)


def test_counts_that_are_nan_or_negative():
  """NaN shows; a negative one, which `jit` does not know, counts as zero."""
  tx = optax_mtl.accumulate(optax_mtl.equal_weighting(2), 2, 2)

  @jax.jit
  def after(counts):
    state = tx.init(jnp.zeros(1))
    for rows, number in zip(([1.0, 0.0], [5.0, 0.0]), counts, strict=True):
      rows = jnp.array(rows)[:, None]
      updates, state = tx.update(rows, state, counts=number)
    return updates

  counts = jnp.array([[jnp.nan, 1.0], [3.0, 1.0]])
  assert jnp.isnan(after(counts)).all()
  assert after(counts.at[0, 0].set(-1.0)).tolist() == [5.0]
