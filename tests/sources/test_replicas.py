"""Replicas that each see a part of the batch: what makes them drift apart.

`vmap` with a named axis stands in for `pmap`, and for `shard_map` without its
check: none of the three says when what must be the same differs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_axis_name import DEVICES, SHARED, _data, _in_parts, _losses, _of

import optax_mtl

# optax.adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion
_METHODS = {
  "losses": lambda: optax_mtl.uncertainty_weighting(
    3, optimizer=optax.sgd(0.1)
  ),
  "gram": lambda: optax_mtl.mgda(3),
}


def _train(method, axis_name, extra, params, x, y):
  """Twenty steps of one replica: its params and its method's state."""
  tx = optax.chain(_METHODS[method](), optax.adam(0.01))
  source = _of(_losses, shared=SHARED, axis_name=axis_name)

  def step(carry, _):
    params, state = carry
    losses, grads = source(params, x, y)
    more = {"losses": losses} | extra(params, x, y)
    updates, state = tx.update(grads, state, params, **more)
    return (optax.apply_updates(params, updates), state), None

  return jax.lax.scan(step, (params, tx.init(params)), length=20)[0]


def _replicas(method, axis_name, extra=lambda *args: {}):
  """The largest difference between replicas, of params and of states."""
  params, x, y = _data()
  run = functools.partial(_train, method, axis_name, extra)
  found = jax.jit(jax.vmap(run, in_axes=(None, 0, 0), axis_name="data"))(
    params, _in_parts(x), _in_parts(y)
  )
  return [
    max(float(np.ptp(leaf, axis=0).max()) for leaf in jax.tree.leaves(tree))
    for tree in found
  ]


def _local_losses(*args):
  return {"losses": _losses(*args)}


def _local_active(params, x, y):
  del params, x
  return {"active": jnp.array([True, True, False]).at[2].set(y[0, 0] > 0)}


def _active_anywhere(*args):
  (here,) = _local_active(*args).values()
  return {"active": jax.lax.psum(here.astype(jnp.int32), "data") > 0}


@pytest.mark.parametrize("method", _METHODS)
def test_replicas_whose_gradients_nobody_averages_drift_apart(method):
  """Each trains on its own part. With the axis's name they stay equal."""
  params, _ = _replicas(method, None)
  # Twenty of Adam's steps of 0.01, some of them in another direction.
  assert params > 0.01
  assert _replicas(method, "data") == [0, 0]


def test_extra_args_of_each_device_make_weights_of_each_device():
  """Averaged gradients, and arguments that are not: the docs say what to do."""
  assert min(_replicas("losses", "data", _local_losses)) > 0.01
  assert min(_replicas("gram", "data", _local_active)) > 0.01
  assert _replicas("gram", "data", _active_anywhere) == [0, 0]


def test_a_mean_of_means_is_not_the_mean_over_labels():
  """Labels that lack on one device: sums over all, divided by all counts."""
  errors = jnp.arange(1.0, 1 + 2 * DEVICES).reshape(DEVICES, 2)
  there = jnp.ones_like(errors).at[0].set(jnp.array([1.0, 0.0]))

  def masked(errors, there):
    total, count = jnp.sum(errors * there), jnp.sum(there)
    wrong = jax.lax.pmean(total / count, "data")
    # What `axis_name=` averages: each device's share of all labels.
    right = total * DEVICES / jax.lax.psum(count, "data")
    return wrong, jax.lax.pmean(right, "data")

  wrong, right = jax.vmap(masked, axis_name="data")(errors, there)
  want = np.sum(errors * there) / np.sum(there)
  np.testing.assert_allclose(right, np.full(DEVICES, want), rtol=1e-6)
  assert np.abs(wrong - want).min() > 0.1
