"""Methods with optax around them: chains, partitions, hyperparameters.

After a method everything is params-shaped, so what these tests look for are
shapes, dtypes and states that change; most do so by tracing alone. A rule sees
nothing of it, so each kind of rule is tried once; only hyperparameters reach
the methods themselves.
"""

import inspect

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from optax import contrib
from optax.experimental import aggregating

import optax_mtl
from optax_mtl._dtypes import solver_dtype
from optax_mtl.integrations.flax import TrainState

# optax itself mixes dtypes.
pytestmark = pytest.mark.standard_promotion
every_kind = pytest.mark.parametrize("name", harness.every_kind)

FOLLOWERS = {
  "adam": lambda: optax.adam(0.1),
  "lbfgs": lambda: optax.lbfgs(0.1, linesearch=None),
  "muon": lambda: contrib.muon(0.1),
  "schedule_free": lambda: contrib.schedule_free(optax.sgd(0.1), 0.1),
  "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
  "multi_steps": lambda: optax.MultiSteps(
    optax.sgd(0.1), 2
  ).gradient_transformation(),
  "clip": lambda: optax.clip_by_global_norm(1.0),
  "weight_decay": lambda: optax.add_decayed_weights(0.01),
}


def rows(dtype="float32"):
  return harness.to_dtype(harness.data(num_steps=4), dtype)


def train(tx, params, data):
  """Steps in a scan, which refuses a state that changes its type."""

  def step(carry, row):
    params, state = carry
    updates, state = tx.update(
      row.grads, state, params, **harness.extra_of(row)
    )
    jax.tree.map(lambda u, p: assert_same(u, p), updates, params)
    return (optax.apply_updates(params, updates), state), updates

  return jax.lax.scan(step, (params, tx.init(params)), data)


def assert_same(update, param):
  assert update.shape == param.shape, "optax broadcasts what does not fit"
  assert update.dtype == param.dtype


@pytest.mark.parametrize(
  "name, follower",
  [("dwa", follower) for follower in FOLLOWERS]
  + [(name, "adam") for name in harness.every_kind if name != "dwa"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chain(name, follower, dtype):
  if (follower, dtype) == ("lbfgs", "bfloat16"):
    dtype = "float32"  # lbfgs itself refuses bfloat16.
  tx = optax.chain(harness.build(name), FOLLOWERS[follower]())
  jax.eval_shape(
    lambda p, d: train(tx, p, d), harness.params(dtype), rows(dtype)
  )


@every_kind
def test_partition(name):
  """A method for one part of the params, another optimizer for the rest."""
  data = rows()
  tx = optax.partition(
    {
      "shared": optax.chain(harness.build(name), optax.sgd(1.0)),
      "own": optax.chain(
        optax_mtl.equal_weighting(harness.NUM_TASKS), optax.sgd(1.0)
      ),
    },
    {"head": "own", "trunk": "shared"},
  )
  start = harness.params()
  jax.eval_shape(lambda p, d: train(tx, p, d), start, data)
  weights = optax.tree.get_all_with_path(tx.init(start), "weights")
  assert len(weights) == 1 + (name in harness.weighing_kinds)


def test_partition_by_value():
  """Each method sees its part alone: as `on_trunk` with summed heads."""
  data, start = rows(), harness.params()
  parts = optax.partition(
    {
      "shared": harness.build("gradnorm"),
      "own": optax_mtl.equal_weighting(harness.NUM_TASKS),
    },
    {"head": "own", "trunk": "shared"},
  )
  wrapped = optax_mtl.on_trunk(harness.build("gradnorm"), harness.SHARED)
  # Two programs.
  chex.assert_trees_all_close(
    *(
      jax.jit(lambda p, d, t=t: train(t, p, d)[1])(start, data)
      for t in (parts, wrapped)
    ),
    rtol=1e-4,
    atol=1e-5,
  )


def is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool)


@pytest.mark.parametrize("name", harness.WEIGHING + harness.UPDATING)
def test_inject_hyperparams(name):
  """Static task number; every other number may be a traced hyperparameter."""
  function = (harness.PACKAGE | harness.OWN)[name]
  example = function.info.example(harness.TASKS)
  defaults = {
    key: parameter.default
    for key, parameter in inspect.signature(function).parameters.items()
  }
  traced = {k for k, v in (defaults | example).items() if is_number(v)}
  # A seed is no hyperparameter; an order, an axis and a number of groups fix
  # shapes.
  fixed = {"seed", "order", "num_groups", "batch_axis"}
  fixed |= {"num_byzantine", "num_selected"}
  sized = ("graddrop", "softadapt", "go4align", "krum")
  traced -= fixed if name in sized else set()
  static = tuple(set(defaults) - traced)
  tx = optax.inject_hyperparams(function, static_args=static)(
    harness.NUM_TASKS, **example
  )
  params = harness.params()
  assert traced <= set(tx.init(params).hyperparams)
  state, updates, new_state = harness.traced(
    tx, harness.row_of(rows(), 0), params
  )
  jax.tree.map(assert_same, updates, params)
  # What follows in a scan.
  chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state)


@pytest.mark.parametrize(
  "name, argument, value",
  [
    ("mgda", "drop_stationary", 0.1),
    ("famo", "max_norm", 1.0),
    ("norm_balance", "max_norm", 1.0),
    ("norm_balance", "initial_weights", [1.0, 2.0, 3.0]),
    ("upgrad", "preference", [1.0, 2.0, 3.0]),
    ("fixed_weighting", "weights", [1.0, 2.0, 3.0]),
    ("pareto_mtl", "directions", np.eye(3)),
  ],
)
def test_inject_hyperparams_that_are_not_there_by_default(
  name, argument, value
):
  more = {"decay": 0.5} if argument == "initial_weights" else {}
  tx = optax.inject_hyperparams(harness.PACKAGE[name], static_args="num_tasks")(
    harness.NUM_TASKS, **{argument: value}, **more
  )
  params = harness.params()
  assert argument in tx.init(params).hyperparams
  _, updates, _ = harness.traced(tx, harness.row_of(rows(), 0), params)
  jax.tree.map(assert_same, updates, params)


def test_hyperparams_by_value():
  """Changed in the state, and mapped over: a grid of runs at once."""
  data, start = rows(), harness.params()
  function = optax_mtl.dwa
  tx = optax.inject_hyperparams(function, static_args="num_tasks")(
    harness.NUM_TASKS, steps_per_epoch=1
  )

  def weights(temperature):
    state = tx.init(start)
    state = state._replace(
      hyperparams=state.hyperparams | {"temperature": temperature}
    )

    def step(state, row):
      _, state = tx.update(row.grads, state, start, **harness.extra_of(row))
      return state, state.inner_state.weights

    return jax.lax.scan(step, state, data)[1]

  temperatures = jnp.array([0.5, 2.0])
  grid = jax.jit(jax.vmap(weights))(temperatures)
  for temperature, mine in zip((0.5, 2.0), grid, strict=True):
    plain = function(harness.NUM_TASKS, temperature, steps_per_epoch=1)
    _, states = harness.steps(plain, start, data)
    np.testing.assert_allclose(mine, states.weights, rtol=1e-5)


@every_kind
def test_aggregator(name):
  """Optax's own class for transformations that reduce a leading axis."""
  tx = aggregating.Aggregator(*harness.build(name))
  data = rows()
  jax.eval_shape(lambda p, d: train(tx, p, d), harness.params(), data)


@pytest.mark.parametrize("follower", FOLLOWERS)
def test_a_follower_sees_the_combined_gradient(follower):
  """By value: the follower does what it does after the plain sum."""
  data, start = rows(), harness.params()
  total = data._replace(
    grads=jax.tree.map(lambda g: jnp.sum(g, axis=1), data.grads)
  )
  chain = optax.chain(
    optax_mtl.equal_weighting(harness.NUM_TASKS), FOLLOWERS[follower]()
  )
  plain = optax.with_extra_args_support(optax.chain(FOLLOWERS[follower]()))
  got = jax.jit(lambda p, d: train(chain, p, d)[1])(start, data)
  want = jax.jit(lambda p, d: train(plain, p, d)[1])(start, total)
  # Two programs, with preconditioners that amplify rounding.
  size = np.abs(harness.flat(want, 1)).max()
  harness.assert_close(harness.flat(got, 1), harness.flat(want, 1), size, 1e-4)


# Flax.
@every_kind
def test_flax_train_state(name):
  """Extra args reach the method, fields are replaced, the rest is Flax's."""

  class WithStatistics(TrainState):
    batch_stats: dict

  row = harness.row_of(rows(), 0)
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
      **harness.extra_of(r),
    ),
    state,
    row,
  )
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert [leaf.shape for leaf in jax.tree.leaves(new)] == [
    jnp.shape(leaf) for leaf in jax.tree.leaves(state)
  ]


def test_flax_train_state_by_value():
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
