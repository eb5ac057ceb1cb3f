"""MoDo: weights from the products of two batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import repeat, run_batch, step

import optax_mtl

FIRST = np.array([[1.0, 0.0, 1.0], [-1.0, 1.0, 0.0]])
SECOND = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])


def test_one_step_by_hand():
  """`G₁ G₂ᵀ = [[2, 1], [-2, 1]]`: λ = 1/2 moves by γ (1.5 + ρ/2, -.5 + ρ/2)."""
  tx = optax_mtl.modo(2, gamma=0.1, rho=0.2)
  updates, state = step(tx, FIRST, second_grads=SECOND)
  # The pull is the same for both, and the projection takes it back.
  np.testing.assert_allclose(state.weights, [0.4, 0.6], rtol=1e-6)
  np.testing.assert_allclose(updates, [-0.2, 0.6, 0.4], rtol=1e-6)
  np.testing.assert_array_equal(state.memory.modo_shares, state.weights)
  # Without a step's noise the weights are MGDA's, with ρ pulled to be equal.
  state = repeat(
    optax_mtl.modo(2, gamma=0.1, rho=0.0),
    np.diag([1.0, 2.0]),
    300,
    second_grads=np.diag([1.0, 2.0]),
  )
  np.testing.assert_allclose(state.weights, [0.8, 0.2], rtol=1e-5)
  state = repeat(
    optax_mtl.modo(2, gamma=0.1, rho=1.0),
    np.diag([1.0, 2.0]),
    300,
    second_grads=np.diag([1.0, 2.0]),
  )
  np.testing.assert_allclose(state.weights, [5 / 7, 2 / 7], rtol=1e-5)


def test_two_batches_remove_the_bias():
  """Of two tasks with one mean gradient, one of them noisy.

  One batch's products are larger by the noise's square, and the weights leave
  the noisy task; of two batches they are not, and the weights stay equal.
  """
  rng = np.random.default_rng(0)
  count, num_params = 400, 50
  noise = np.array([0.0, 2.0])[None, :, None]
  first, second = 1.0 + noise * rng.standard_normal((2, count, 2, num_params))
  mean = {}
  for name, other in (("one", first), ("two", second)):
    found = run_batch(
      "modo", first, extra={"second_grads": other}, gamma=1e-3, rho=0.0
    )
    mean[name] = found.weights.mean(axis=0)[0] - 0.5
  # γ/2 of half of the difference of the products' sums: 1e-3 · 50 · 4 / 4.
  assert abs(mean["one"] - 0.05) < 0.01
  assert abs(mean["two"]) < 0.01


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_sources(name, source):
  """Each that has the params' gradients, with one program for both batches."""

  def loss_fn(params, x):
    return [jnp.sum((params["w"] - x) ** 2), jnp.sum((params["w"] + x) ** 2)]

  grads_fn = optax_mtl.value_and_task_grads(loss_fn, source=source)
  tx = optax_mtl.METHODS[name](2)
  params = {"w": jnp.array([0.3, -0.1])}
  x, y = jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0])

  @jax.jit
  def train_step(state):
    _, first = grads_fn(params, x)
    _, second = grads_fn(params, y)
    return tx.update(first, state, params, second_grads=second)

  _, state = train_step(tx.init(params))
  plain = [
    {"w": 2 * jnp.stack([params["w"] - b, params["w"] + b])} for b in (x, y)
  ]
  _, expected = tx.update(
    plain[0], tx.init(params), params, second_grads=plain[1]
  )
  np.testing.assert_allclose(state.weights, expected.weights, rtol=1e-5)


@pytest.mark.parametrize("name", ["modo", "sdmgrad"])
def test_what_they_cannot_do_without(name):
  tx = optax_mtl.METHODS[name](2)
  state = tx.init(jnp.zeros(3))
  with pytest.raises(TypeError, match=f"{name} needs second_grads= with every"):
    tx.update(jnp.asarray(FIRST), state)
  grads_fn = optax_mtl.value_and_representation_grads(
    lambda params, x: params["w"] * x,
    lambda params, z, x: [jnp.sum(z**2), jnp.sum((z - 1) ** 2)],
    shared={"w": True},
  )
  params = {"w": jnp.ones(3)}
  _, first = grads_fn(params, jnp.ones(3))
  with pytest.raises(ValueError, match="Use another source for methods that"):
    tx.update(first, tx.init(params), params, second_grads=first)


def test_errors():
  with pytest.raises(ValueError, match="gamma must lie in"):
    optax_mtl.modo(2, gamma=0.0)
  with pytest.raises(ValueError, match="rho must lie in"):
    optax_mtl.modo(2, rho=-1.0)


def test_a_step_that_is_not_finite_leaves_the_memory():
  tx = optax_mtl.modo(2, gamma=0.1)
  _, state = step(tx, FIRST, second_grads=SECOND)
  updates, after = step(tx, FIRST * 1e30, state, second_grads=SECOND * 1e30)
  assert np.isnan(updates).all()
  np.testing.assert_array_equal(
    after.memory.modo_shares, state.memory.modo_shares
  )
