"""Gradients divided by their lengths, before any method."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

SHARED = {"head": False, "trunk": True}
PARAMS = {"head": jnp.array([0.5, 2.0]), "trunk": jnp.array([1.0, -1.0, 2.0])}
X = jnp.array([0.5, 0.25, 1.0])


def losses_of(params, x):
  trunk, head = params["trunk"], params["head"]
  return {
    "a": 100 * jnp.sum((trunk - x) ** 2) * (1 + head[0] ** 2),
    "b": 0.01 * jnp.sum((trunk + x) ** 2) * head[1] ** 2,
    "c": 9 + jnp.sum(trunk**4),
  }


def lengths(by, grads, losses):
  """In float64, over the trunk."""
  rows = np.asarray(grads["trunk"], np.float64)
  values = np.array([float(losses[name]) for name in sorted(losses)])
  norms = np.linalg.norm(rows, axis=1)
  return {"l2": norms, "loss": values, "loss+": norms * values}[by]


@pytest.mark.parametrize("heads", ["sum", "weighted"])
@pytest.mark.parametrize(
  "name, by, source",
  [
    ("upgrad", "l2", "implicit"),
    ("dwa", "loss+", "stacked"),
    ("pcgrad", "loss", "implicit"),
  ],
)
def test_as_if_they_had_come_so(name, by, source, heads):
  """The method's weights on divided rows; heads as without the wrapper."""
  plain, method = harness.build(name), harness.build(name)
  tx = optax_mtl.normalize_gradients(method, by)
  grads_of = optax_mtl.value_and_task_grads(
    losses_of, source=source, shared=SHARED, heads=heads
  )

  @jax.jit
  def step(params):
    losses, grads = grads_of(params, X)
    return losses, tx.update(grads, tx.init(params), params, losses=losses)

  losses, (updates, state) = step(PARAMS)
  got = state.weights
  rows = jax.jacrev(losses_of)(PARAMS, X)
  rows = jax.tree.map(lambda *r: jnp.stack(r), *(rows[k] for k in "abc"))
  scale = lengths(by, rows, losses)
  divided = {"trunk": rows["trunk"] / jnp.asarray(scale)[:, None]}
  _, state = plain.update(divided, plain.init(divided), losses=losses)
  want = np.asarray(state.weights, np.float64) / scale
  # Lengths and solvers in float32, of few entries.
  np.testing.assert_allclose(got, want, rtol=2e-5)
  on_heads = want if heads == "weighted" else np.ones(3)
  chex.assert_trees_all_close(
    updates,
    {"trunk": want @ rows["trunk"], "head": on_heads @ rows["head"]},
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize("by", ["l2", "loss", "loss+"])
def test_around_mgda_it_is_its_own_argument(by):
  grads = jnp.array([[100.0, 1.0, 0.0], [0.0, 0.5, 0.25], [0.0, 0.0, 0.0]])
  losses = jnp.array([3.0, 0.5, 1.0])
  results = []
  for tx in (
    optax_mtl.normalize_gradients(optax_mtl.mgda(3), by),
    optax_mtl.mgda(3, normalize=by),
  ):
    state = tx.init(jnp.zeros(3))
    active = jnp.array([True, True, False])
    updates, state = tx.update(grads, state, losses=losses, active=active)
    results.append((updates, state.weights))
  chex.assert_trees_all_close(*results, rtol=1e-5)


def test_a_method_without_weights_sees_them_too():
  """GradDrop's coin falls on unit gradients."""
  graddrop = harness.build("graddrop")
  tx = optax_mtl.normalize_gradients(graddrop)
  grads = harness.data(num_steps=1).grads
  rows = harness.flat(grads, 2)[0]
  unit = rows / np.linalg.norm(rows, axis=1)[:, None]
  params = jnp.zeros(rows.shape[1])
  got, _ = tx.update(jnp.asarray(rows, jnp.float32), tx.init(params), params)
  want, _ = graddrop.update(
    jnp.asarray(unit, jnp.float32), graddrop.init(params), params
  )
  # Rows divided in float32, and in float64 before they are rounded.
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_zero_nan_and_absent():
  grads = jnp.array([[3.0, 4.0], [0.0, 0.0], [jnp.nan, 0.0]])
  tx = optax_mtl.normalize_gradients(optax_mtl.equal_weighting(3))
  params = jnp.zeros(2)
  state = tx.init(params)
  updates, _ = tx.update(grads, state, params)
  assert not np.isfinite(updates).all(), "a NaN must show"
  active = jnp.array([True, True, False])
  updates, new = tx.update(grads, state, params, active=active)
  np.testing.assert_allclose(updates, [0.6, 0.8], rtol=1e-6)
  np.testing.assert_allclose(new.weights, [0.2, 1.0, 0.0], rtol=1e-6)
  dropped = optax_mtl.drop_nonfinite(tx)
  updates, _ = dropped.update(grads, dropped.init(params), params)
  np.testing.assert_allclose(updates, [0.6, 0.8], rtol=1e-6)


def test_norms_are_computed_where_weights_are():
  """Between refreshes nothing is read but the weighted sum."""
  tx = optax_mtl.refresh_every(
    optax_mtl.normalize_gradients(optax_mtl.equal_weighting(2)), 2
  )
  state = tx.init(jnp.zeros(2))
  grads = jnp.array([[2.0, 0.0], [0.0, 4.0]])
  _, state = tx.update(grads, state)
  updates, _ = tx.update(10 * grads, state)
  np.testing.assert_allclose(updates, [10.0, 10.0], rtol=1e-6)


def test_what_it_refuses():
  with pytest.raises(ValueError, match="by must be one of .*'l2'"):
    optax_mtl.normalize_gradients(optax_mtl.mgda(2), "l1")
  with pytest.raises(TypeError, match="normalize_gradients wraps a method"):
    optax_mtl.normalize_gradients(optax.chain(optax_mtl.mgda(2)))
  tx = optax_mtl.normalize_gradients(optax_mtl.mgda(2), "loss")
  grads, state = jnp.eye(2), tx.init(jnp.zeros(2))
  with pytest.raises(TypeError, match="needs losses= with every update"):
    tx.update(grads, state)
  with pytest.raises(ValueError, match=r"normalize_gradients\(by='loss'\) ta"):
    tx.update(grads, state, losses=jnp.array([1.0, -1.0]))
  tx = optax_mtl.normalize_gradients(harness.build("modo", (0, 1)))
  with pytest.raises(TypeError, match="lengths of their own batch"):
    tx.update(grads, tx.init(jnp.zeros(2)), second_grads=grads)
