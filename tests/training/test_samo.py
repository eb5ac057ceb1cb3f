"""SAMO against NumPy, with the directions that it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import quadratics as q

import optax_mtl
from optax_mtl import training
from optax_mtl.training.samo import draw_directions

RADIUS, SHARE, DIFFERENCE, STEP = 0.3, 0.5, 0.01, 0.1
SHARED = {"head": False, "trunk": True}


def unit(vector):
  return vector / np.linalg.norm(vector)


def one_step(x, key, batch, flags):
  """The perturbed gradients [T, 4]; the first entry is the head's leaf."""
  mean = q.gradients_at(x, batch).mean(axis=0)
  leaves = [slice(0, 1), slice(1, 4)]
  key, now = jax.random.split(key)
  like = [jnp.zeros(1), jnp.zeros(3)]
  rows = []
  for task in range(q.T):
    drawn = draw_directions(jax.random.fold_in(now, task), like, flags)
    z = np.concatenate([np.asarray(leaf, float) for leaf in drawn])
    above, below = (
      q.losses_at(x + sign * DIFFERENCE * z, batch)[task] for sign in (1, -1)
    )
    estimate = (above - below) / (2 * DIFFERENCE) * z
    way = np.zeros(4)
    for leaf, in_trunk in zip(leaves, flags, strict=True):
      way[leaf] = mean[leaf]
      if in_trunk:
        length = np.linalg.norm(mean[leaf])
        own = length * unit(estimate[leaf])
        way[leaf] = (1 - SHARE) * mean[leaf] + SHARE * own
    if all(flags):
      way = RADIUS * unit(way)
    else:
      way = RADIUS * np.concatenate([unit(way[:1]), unit(way[1:])])
    rows.append(q.gradients_at(x + way, batch)[task])
  return key, np.stack(rows)


@pytest.mark.parametrize(
  "shared, source", [(None, "stacked"), (SHARED, "implicit")]
)
def test_as_its_reference(shared, source):
  """To float32's roundings: two programs draw directions that differ so."""
  flags = [True, True] if shared is None else [False, True]
  with jax.enable_x64(True):
    method = q.built("samo", source=source, shared=shared)
    got, state = q.trained(method)
    x, key = q.X, jax.random.key(0, impl="threefry2x32")
    for i, batch in enumerate(q.BATCHES):
      np.testing.assert_allclose(state.losses[i], q.losses_at(x, batch))
      key, rows = one_step(x, key, batch, flags)
      x = x - STEP * rows.sum(axis=0)
      np.testing.assert_allclose(got[i], x, rtol=1e-6)


def own_heads(params, x):
  """Each task a head of its own, of which the other knows nothing."""
  trunk = jnp.sum(params["trunk"] * x) ** 2
  heads = params["heads"]
  return {name: trunk + jnp.sum(heads[name] ** 2) for name in ("a", "b")}


def test_a_head_goes_up_by_the_radius_whoever_else_has_one():
  """However long the gradient of another task's head."""
  tx = optax.chain(optax_mtl.equal_weighting(2), optax.sgd(0.1))
  shared = {"heads": False, "trunk": True}
  method = training.samo(2, own_heads, tx, radius=0.5, shared=shared)
  head = jnp.array([3.0, 4.0])
  params = {
    "heads": {"a": head, "b": jnp.array([300.0, 10.0])},
    "trunk": jnp.array([0.5, 1.0]),
  }
  new, _ = jax.jit(method.update)(params, method.init(params), jnp.ones(2))
  # The gradient of ‖h‖² at h, longer by the radius.
  up = head + 0.5 * unit(head)
  np.testing.assert_allclose(new["heads"]["a"], head - 0.1 * 2 * up, rtol=1e-6)


def test_without_a_radius_it_is_the_method():
  """Which gets the losses by name, and the extra args of the update."""
  tx = optax_mtl.fixed_weighting(
    q.T, dict(zip(q.NAMES, [3, 2, 1], strict=True))
  )
  method = q.built(
    "samo",
    q.named_loss_fn,
    optax.chain(tx, optax.sgd(0.1)),
    radius=0.0,
  )
  params = q.params_of(jnp.asarray(q.X))
  active = jnp.array([True, False, True])
  params, state = jax.jit(method.update)(
    params, method.init(params), jnp.asarray(q.BATCHES[0]), active=active
  )
  weights = np.array([3.0, 0.0, 1.0])
  np.testing.assert_array_equal(optax_mtl.method_state(state).weights, weights)
  want = q.X - 0.1 * weights @ q.gradients_at(q.X, q.BATCHES[0])
  np.testing.assert_allclose(q.vector(params), want, rtol=1e-5)
