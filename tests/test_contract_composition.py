"""Every method with optax around it: chains, partitions, hyperparameters.

After a method everything is params-shaped, so what these tests look for are
shapes, dtypes and states that change; all but the last do so by tracing alone.
"""

import inspect

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from optax.experimental import aggregating

import optax_mtl

# optax itself mixes dtypes.
pytestmark = pytest.mark.standard_promotion
every_method = pytest.mark.parametrize("name", harness.NAMES)

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
    updates, state = tx.update(row.grads, state, params, **row.extra)
    jax.tree.map(lambda u, p: assert_same(u, p), updates, params)
    return (optax.apply_updates(params, updates), state), updates

  return jax.lax.scan(step, (params, tx.init(params)), data)


def assert_same(update, param):
  assert update.shape == param.shape, "optax broadcasts what does not fit"
  assert update.dtype == param.dtype


@every_method
@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chain(name, follower, dtype):
  if (follower, dtype) == ("lbfgs", "bfloat16"):
    dtype = "float32"  # lbfgs itself refuses bfloat16.
  tx = optax.chain(harness.build(name), FOLLOWERS[follower]())
  jax.eval_shape(
    lambda p, d: train(tx, p, d), harness.params(dtype), rows(dtype)
  )


@every_method
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
  assert len(weights) == 2


def is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool)


@every_method
def test_inject_hyperparams(name):
  """Static task number; every other number may be a traced hyperparameter."""
  function = optax_mtl.METHODS[name]
  example = function.info.example(harness.TASKS)
  defaults = {
    key: parameter.default
    for key, parameter in inspect.signature(function).parameters.items()
  }
  traced = {k for k, v in (defaults | example).items() if is_number(v)}
  static = tuple(set(defaults) - traced)
  tx = optax.inject_hyperparams(function, static_args=static)(
    harness.NUM_TASKS, **example
  )
  assert traced <= set(tx.init(harness.params()).hyperparams)
  chain = optax.chain(tx, optax.sgd(0.1))
  jax.eval_shape(lambda p, d: train(chain, p, d), harness.params(), rows())


@every_method
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
