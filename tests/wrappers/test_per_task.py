"""One transformation for each task, which stands while its task is absent."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

T = harness.NUM_TASKS
# optax mixes dtypes.
pytestmark = pytest.mark.standard_promotion


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


def test_an_absent_task_keeps_its_state():
  """And a row of zeros comes of it, whatever its gradient holds."""
  tx = optax_mtl.per_task(optax.trace(0.9), 2)
  params = jnp.zeros(2)
  state = tx.init(params)
  _, state = tx.update(jnp.ones((2, 2)), state, params)
  grads = jnp.array([[1.0, 1.0], [jnp.nan, jnp.inf]])
  active = jnp.array([True, False])
  rows, state = tx.update(grads, state, params, active=active)
  np.testing.assert_allclose(rows, [[1.9, 1.9], [0.0, 0.0]], rtol=1e-6)
  # Neither NaN nor faded: as if the step had not been.
  np.testing.assert_array_equal(state.trace[1], [1.0, 1.0])


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_adam_before_a_method_with_an_absent_task(value):
  """Adam's count of an absent task stands too.

  Task 1 is absent in the first step, whatever it holds, and then both have the
  same gradients: equal weights. Its first step is Adam's first, so that the
  bias is corrected for one step and not for two.
  """
  tx = optax.chain(
    optax_mtl.per_task(optax.scale_by_adam(), 2), optax_mtl.mgda(2)
  )
  params = jnp.zeros(2)
  state = tx.init(params)
  spoilt = jnp.array([[1.0, 0.0], [value, value]])
  active = jnp.array([True, False])
  updates, state = tx.update(spoilt, state, params, active=active)
  np.testing.assert_allclose(updates, [1.0, 0.0], rtol=1e-5)
  np.testing.assert_array_equal(state[0].count, [1, 0])
  updates, state = tx.update(jnp.eye(2), state, params)
  np.testing.assert_array_equal(state[0].count, [2, 1])
  np.testing.assert_allclose(state[1].weights, [0.5, 0.5], rtol=1e-5)
  chex.assert_tree_all_finite((updates, state))


#: Recipe -> what stands before the sum, Adam's decays, and what divides it.
RECIPES = {
  "MultiAdam": ((0.99, 0.99), "mean", T),
  "AdaTask": ((0.9, 0.999), "sum", 1),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(recipe):
  """Moments of each task's own, by a loop in NumPy, and their mean or sum."""
  (b1, b2), reduction, divisor = RECIPES[recipe]
  tx = optax.chain(
    optax_mtl.per_task(optax.scale_by_adam(b1, b2), T),
    optax_mtl.equal_weighting(T, reduction=reduction),
  )
  data = harness.data(num_steps=5)
  run = harness.runner(tx)(data)
  grads = harness.flat(data.grads, 2)
  mean, square = np.zeros(grads.shape[1:]), np.zeros(grads.shape[1:])
  for t, g in enumerate(grads):
    mean = b1 * mean + (1 - b1) * g
    square = b2 * square + (1 - b2) * g**2
    step = mean / (1 - b1 ** (t + 1))
    step /= np.sqrt(square / (1 - b2 ** (t + 1))) + 1e-8
    want = step.sum(axis=0) / divisor
    # Quotients of order 1, whose parts are known to a few roundings.
    harness.assert_close(run.updates[t], want, T, 1e-5)


def test_the_gradients_themselves_are_needed():
  """A known trunk hides the heads; the wrapper says what to do."""
  tree = {"head": jnp.eye(2), "trunk": jnp.eye(2)}
  gradients = optax_mtl.sources.as_task_gradients(tree, 2)
  tx = optax_mtl.per_task(optax.identity(), 2)
  state = tx.init(jax.tree.map(lambda leaf: leaf[0], tree))
  rows, _ = tx.update(gradients, state)
  chex.assert_trees_all_equal(rows, tree)
  gradients = gradients.on_trunk({"head": False, "trunk": True})
  with pytest.raises(TypeError, match="source='stacked' without shared="):
    tx.update(gradients, state)
