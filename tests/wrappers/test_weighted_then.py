"""One method's weights, then another on the gradients that they weigh."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

T = harness.NUM_TASKS


def scaled(grads, weights):
  return jax.tree.map(
    lambda g: g * weights.reshape((-1,) + (1,) * (g.ndim - 1)), grads
  )


@pytest.mark.parametrize(
  "name", ["pcgrad", "gradnorm", "largest_entry", "two_batches"]
)
def test_the_second_sees_weighted_gradients(name):
  """Step by step as two methods, each with a state of its own."""
  first, second = harness.build("dwa"), harness.build(name)
  both = optax_mtl.weighted_then(first, second)
  data = harness.to_dtype(harness.cases()["absent"], "float32")
  params = harness.params()
  states = [tx.init(params) for tx in (first, second, both)]
  for step in range(9, 13):  # Over the end of the example's second epoch.
    row = harness.row_of(data, step)
    extra = harness.extra_of(row) | {"active": row.active}
    _, states[0] = first.update(row.grads, states[0], params, **extra)
    weights = states[0].weights
    theirs = extra | {"second_grads": scaled(row.second, weights)}
    want, states[1] = second.update(
      scaled(row.grads, weights), states[1], params, **theirs
    )
    got, states[2] = both.update(row.grads, states[2], params, **extra)
    # Sums of a few products, in two orders.
    size = 1 + np.abs(harness.flat(want, 0)).max()
    harness.assert_close(
      harness.flat(got, 0), harness.flat(want, 0), size, 1e-5
    )
  memory = states[2] if name == "largest_entry" else states[2].memory
  np.testing.assert_array_equal(memory.first_weights, weights)
  chex.assert_trees_all_equal(memory.first, states[0].memory)
  if name != "largest_entry":
    np.testing.assert_allclose(
      states[2].weights, weights * states[1].weights, rtol=1e-5
    )
  assert optax.tree.get(states[2], "epoch_step").shape == ()


def test_weights_with_each_update_come_first():
  tx = optax_mtl.weighted_then(optax_mtl.fixed_weighting(2), optax_mtl.mgda(2))
  grads, state = jnp.eye(2), tx.init(jnp.zeros(2))
  updates, state = tx.update(grads, state, weights=jnp.array([1.0, 2.0]))
  np.testing.assert_allclose(updates, [0.8, 0.4], rtol=1e-5)
  np.testing.assert_allclose(state.weights, [0.8, 0.4], rtol=1e-5)
  other = optax_mtl.weighted_then(
    optax_mtl.equal_weighting(2), optax_mtl.mgda(2)
  )
  with pytest.raises(
    TypeError, match=r"weighted_then\(equal_weighting, mgda\)"
  ):
    other.update(grads, other.init(jnp.zeros(2)), weights=jnp.ones(2))


def test_wrappers_inside_and_around():
  """Those of weights go around each method, the others around both."""
  inner = optax_mtl.weighted_then(
    optax_mtl.refresh_every(harness.build("dwa"), 3),
    optax_mtl.ema_weights(harness.build("mgda")),
  )
  row = harness.row_of(
    harness.to_dtype(harness.data(num_steps=1), "float32"), 0
  )
  params = harness.params()
  for tx in (
    optax_mtl.refresh_every(inner, 2),
    optax_mtl.on_tasks(optax_mtl.ema_weights(inner), [0, 1]),
    optax_mtl.log_losses(optax_mtl.on_trunk(inner, harness.SHARED)),
    optax_mtl.skip_nonfinite(optax_mtl.drop_nonfinite(inner)),
    optax_mtl.accumulate(optax_mtl.track(inner), T, 2),
    optax_mtl.weighted_then(inner, harness.build("pcgrad")),
    optax_mtl.weighted_then(harness.build("dtp"), inner),
  ):
    state, updates, new = harness.traced(tx, row, params)
    assert harness.signature(updates) == harness.signature(
      jax.eval_shape(lambda: params)
    )
    assert harness.signature(state) == harness.signature(new)
    assert optax.tree.get(state, "epoch_loss_sum").shape == (T,)


def test_facts_of_both():
  facts = optax_mtl.facts(
    optax_mtl.weighted_then(harness.build("dwa"), harness.build("mgda"))
  )
  assert facts.needs == ("losses",) and facts.gram and facts.weights


REFUSED = {
  "a chain": (
    lambda m: (m, optax.chain(m, optax.sgd(0.1))),
    "takes methods of optax_mtl themselves.*optax.chain",
  ),
  "a wrapper of chains": (
    lambda m: (optax_mtl.skip_nonfinite(m), m),
    "skip_nonfinite and accumulate around",
  ),
  "a view": (
    lambda m: (m, optax_mtl.on_trunk(m, True)),
    r"mgda in a wrapper that changes what .* around weighted_then",
  ),
  "no weights": (
    lambda m: (harness.build("largest_entry", (0, 1)), m),
    "largest_entry has no weights.*It can be the second",
  ),
  "a limit": (
    lambda m: (optax_mtl.nash_mtl(2), m),
    "build nash_mtl with max_norm=None",
  ),
  "other tasks": (
    lambda m: (optax_mtl.mgda(3), m),
    "same tasks: mgda is of 3, mgda of 2",
  ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_refuses(what):
  build, message = REFUSED[what]
  with pytest.raises((TypeError, ValueError), match=message):
    optax_mtl.weighted_then(*build(optax_mtl.mgda(2)))
