"""The method sees the trunk; heads get their own gradients, or its weights."""

import harness
import jax
import numpy as np
import optax
import pytest

import optax_mtl

every_kind = pytest.mark.parametrize("name", harness.every_kind)


def halves(tree, lead):
  head, trunk = tree["head"], tree["trunk"]
  return harness.flat(head, lead), harness.flat(trunk, lead)


def without_heads(data):
  return data._replace(
    grads=data.grads | {"head": np.zeros_like(data.grads["head"])},
    second=data.second | {"head": np.zeros_like(data.second["head"])},
  )


@every_kind
def test_heads_get_the_plain_sum(name):
  """And the rule sees the problem whose heads have no gradient.

  Its limit on the norm holds for the trunk alone, and no head is scaled by it.
  """
  data = harness.cases()["absent"]
  run = harness.runner(optax_mtl.on_trunk(harness.build(name), harness.SHARED))(
    data
  )
  alone = harness.run(name, without_heads(data))
  head_grads, _ = halves(data.grads, 2)
  head, trunk = halves(run.raw, 1)
  plain = np.where(data.active[..., None], head_grads, 0).sum(axis=1)
  # Rounding of T terms.
  harness.assert_close(head, plain, np.abs(head_grads).sum(axis=1), 1e-6)
  _, expected = halves(alone.raw, 1)
  # Another program, over gradients that are well conditioned.
  harness.assert_close(trunk, expected, 4.0, 1e-4)
  if alone.weights is not None:
    size = np.abs(alone.weights).max()
    harness.assert_close(run.weights, alone.weights, size, 1e-4)


# A combination, and one whose norm is limited.
@pytest.mark.parametrize("name", ["dwa", "nash_mtl"])
def test_heads_can_be_weighted(name):
  """`heads=` touches what is applied, and nothing of how weights come about.

  The weights on the heads are those in the state, before a limit on the trunk.
  """
  data = harness.cases()["absent"]
  data = jax.tree.map(lambda leaf: leaf[:3], data)
  tx = optax_mtl.on_trunk(harness.build(name), harness.SHARED, heads="weighted")
  run = harness.runner(tx)(data)
  alone = harness.run(name, without_heads(harness.cases()["absent"]))
  weights = alone.weights[:3]
  size = np.abs(alone.weights).max()
  harness.assert_close(run.weights, weights, size, 1e-4)
  head_grads, _ = halves(data.grads, 2)
  expected = np.einsum("st,stp->sp", run.weights, head_grads)
  head, _ = halves(run.raw, 1)
  harness.assert_close(head, expected, 4 * size, 1e-6)


@every_kind
def test_shared_as_a_callable_or_a_full_tree(name):
  """Ways to say the same give the same program."""
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, start = harness.row_of(data, 0), harness.params()

  def program(tx):
    state = tx.init(start)
    jaxpr = jax.make_jaxpr(lambda g, s, p, e: tx.update(g, s, p, **e))(
      row.grads, state, start, harness.extra_of(row)
    )
    return harness.as_text(jaxpr)

  def on_trunk(shared):
    return program(optax_mtl.on_trunk(harness.build(name), shared))

  prefix = on_trunk(harness.SHARED)
  assert prefix == on_trunk(
    {"head": False, "trunk": {"bias": True, "kernel": True}}
  )
  assert prefix == on_trunk(lambda params: {k: k == "trunk" for k in params})
  everything = optax_mtl.on_trunk(harness.build(name), True)
  state = jax.eval_shape(lambda: everything.init(start))
  assert harness.signature(state) == harness.signature(
    jax.eval_shape(lambda: harness.build(name).init(start))
  )


def test_around_what_begins_with_a_method():
  """A chain, and hyperparameters that are injected: as around the method."""
  data = jax.tree.map(lambda leaf: leaf[:4], harness.data())
  inner = harness.runner(
    optax.chain(
      optax_mtl.on_trunk(harness.build("dwa"), harness.SHARED), optax.scale(2.0)
    )
  )(data)
  outer = harness.runner(
    optax_mtl.on_trunk(
      optax.chain(harness.build("dwa"), optax.scale(2.0)), harness.SHARED
    )
  )(data)
  injected = optax.inject_hyperparams(optax_mtl.dwa, static_args="num_tasks")(
    harness.NUM_TASKS, steps_per_epoch=5
  )
  through = harness.runner(
    optax_mtl.on_trunk(optax.chain(injected, optax.scale(2.0)), harness.SHARED)
  )(data)
  for run in (outer, through):
    # Three programs of the same sums.
    harness.assert_close(run.updates, inner.updates, 8.0, 1e-6)
