"""Methods that are written outside of the package, by value.

The contract of weight rules and of update rules is tested on them as on the
package's own; here is what each door is there for.
"""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import own_methods

import optax_mtl


def test_they_use_the_public_part_alone():
  source = own_methods.__spec__.loader.get_source(own_methods.__name__)
  assert "optax_mtl._" not in source and "from optax_mtl" not in source


def test_they_are_registered_like_the_packages_own():
  for name, function in harness.OWN.items():
    assert function.info.name == function.__name__ == name
    assert function.info.room == ""
    assert isinstance(harness.build(name, (0, 1)), optax_mtl.Method)


# An optional extra arg.
def test_even_fall_without_the_losses_after_the_step():
  """The losses of the next batch stand in for them."""
  tx = harness.build("even_fall", (0, 1), rate=1.0)
  grads = jnp.eye(2)

  def weights(**after):
    state = tx.init(jnp.zeros(2))
    for losses in ([4.0, 4.0], [1.0, 2.0]):
      losses = jnp.array(losses)
      extra = {k: jnp.array(v) for k, v in after.items()}
      _, state = tx.update(grads, state, losses=losses, **extra)
    return np.asarray(state.weights)

  same = weights(previous_losses=[1.0, 2.0])
  np.testing.assert_array_equal(weights(), same)
  # Falls of log 4 and log 2: the difference of the logits is log 2.
  np.testing.assert_allclose(same, [1 / 3, 2 / 3], rtol=1e-6)
  other = weights(previous_losses=[2.0, 1.0])
  np.testing.assert_allclose(other, [2 / 3, 1 / 3], rtol=1e-6)


# A second batch.
def second_batch_losses(params, batch):
  return jnp.stack([jnp.sum((params - b) ** 2) for b in batch])


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_two_batches_reads_both_batches_from_any_source(source):
  """`w - ρ G₁ᵀG₂ w`, on the simplex; the update is the first batch's."""
  grads_fn = optax_mtl.value_and_task_grads(second_batch_losses, source=source)
  tx = harness.build("two_batches", (0, 1), rate=0.1)
  params = jnp.array([0.5, 0.0])
  first = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  second = jnp.array([[2.0, 0.0], [0.0, 0.5]])

  @jax.jit
  def step(params, state):
    _, one = grads_fn(params, first)
    _, two = grads_fn(params, second)
    return tx.update(one, state, params, second_grads=two)

  updates, state = step(params, tx.init(params))
  rows = 2 * (np.asarray(params) - np.asarray(first))
  others = 2 * (np.asarray(params) - np.asarray(second))
  np.testing.assert_allclose(updates, rows.mean(axis=0), rtol=1e-6)
  slope = rows @ others.T @ [0.5, 0.5]
  moved = 0.5 - 0.1 * slope
  expected = moved + (1 - moved.sum()) / 2
  assert (expected > 0).all()
  np.testing.assert_allclose(state.memory.shares, expected, rtol=1e-5)


# All solutions of a front.
def front_losses(params):
  """Two parabolas: the front is the segment from -1 to 1."""
  return jnp.stack([jnp.sum((params - 1) ** 2), jnp.sum((params + 1) ** 2)])


def test_grad_hv_sees_all_solutions():
  """Each solution's weights are its share in the hypervolume's slope."""
  tx = harness.build("grad_hv", (0, 1), reference=(3.0, 3.0))
  points = jnp.array([[0.0, 2.0], [1.0, 1.0], [1.5, 1.5], [2.0, 0.0]])
  grads = jnp.tile(jnp.eye(2), (4, 1, 1))

  def member(grads, losses):
    return tx.update(grads, tx.init(jnp.zeros(2)), losses=losses)

  updates, state = jax.jit(jax.vmap(member, axis_name="front"))(grads, points)
  # Between its neighbours (or the corner 3, 3): the first point's rectangle is
  # 1 wide and 1 high, and so on; the third is dominated.
  expected = [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [0.5, 0.5]]
  np.testing.assert_allclose(state.weights, expected, rtol=1e-6)
  np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_grad_hv_spreads_a_front():
  """Trained together, the solutions cover more than apart."""
  grads_fn = optax_mtl.value_and_task_grads(front_losses)
  tx = optax.chain(
    harness.build("grad_hv", (0, 1), reference=(6.0, 6.0)), optax.sgd(0.05)
  )
  start = jnp.linspace(-0.1, 0.1, 5)[:, None]

  def train(params):
    def step(carry, _):
      params, state = carry
      losses, grads = grads_fn(params)
      updates, state = tx.update(grads, state, params, losses=losses)
      return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=200)
    return params

  trained = jax.jit(jax.vmap(train, axis_name="front"))(start)
  area = optax_mtl.pareto.hypervolume_2d
  corner = jnp.array([6.0, 6.0])
  before = area(jax.vmap(front_losses)(start), corner)
  after = area(jax.vmap(front_losses)(trained), corner)
  assert after > before + 1
  assert np.ptp(trained) > 1


# A function around a training step.
def test_keep_if_better():
  """A step that hurts a task is undone; the optimizer's state goes on."""
  grads_fn = optax_mtl.value_and_task_grads(lambda p, b: front_losses(p))
  tx = optax.chain(optax_mtl.equal_weighting(2), optax.sgd(0.1))

  def train_step(params, state, batch):
    _, grads = grads_fn(params, batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  guarded = jax.jit(
    own_methods.keep_if_better(train_step, lambda p, b: front_losses(p))
  )
  # Right of the front both losses fall; inside, one of them rises.
  for start, moves in ((3.0, True), (0.5, False)):
    params = jnp.array([start])
    plain, _ = train_step(params, tx.init(params), None)
    new, _ = guarded(params, tx.init(params), None)
    chex.assert_trees_all_close(new, plain if moves else params)


# What the core does for a rule.
def test_weak_types_of_a_users_first_memory_are_none():
  """`jnp.full(n, 0.5)` has one, and a state must not change its type."""

  def halves(num_tasks):
    return optax_mtl.WeightRule(
      weigh=lambda step, memory: (memory, memory * 2),
      init=lambda: jnp.full((num_tasks,), 0.5),
    )

  tx = harness.registered(halves)(2)
  state = jax.eval_shape(lambda: tx.init(jnp.zeros(2)))
  assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
  step = lambda s, g: (tx.update(g, s)[1], None)  # noqa: E731
  state, _ = jax.lax.scan(step, tx.init(jnp.zeros(2)), jnp.ones((3, 2, 2)))
  np.testing.assert_array_equal(state.memory, [4.0, 4.0])


def test_a_rule_cannot_weigh_an_absent_task():
  """Whatever a rule returns for it, in whatever dtype."""
  tx = harness.registered(everyone)(2)
  grads = jnp.array([[1.0, 2.0], [jnp.nan, 4.0]])
  updates, state = tx.update(
    grads, tx.init(jnp.zeros(2)), active=jnp.array([True, False])
  )
  np.testing.assert_array_equal(state.weights, [7.0, 0.0])
  np.testing.assert_array_equal(updates, [7.0, 14.0])
  assert state.weights.dtype == jnp.float32


def everyone(num_tasks):
  return optax_mtl.from_step(
    lambda step: jnp.full((num_tasks,), 7, jnp.bfloat16)
  )
