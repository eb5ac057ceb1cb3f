"""Uncertainty weighting: fixed points, the authors' toy, the loss itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import close, repeat, step

import optax_mtl

LOSSES = np.array([0.5, 2.0, 7.0])
MIXED = ["regression", "classification", "laplace"]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def settle(rate=0.05):
  """Adam whose step decays, so that it comes to rest."""
  return optax.adam(optax.cosine_decay_schedule(rate, 3000))


def test_fixed_point(x64):
  """Constant losses: σ² = L or 2L with weight 1/(2L); Laplace: σ = L, 1/L."""
  tx = optax_mtl.uncertainty_weighting(3, MIXED, optimizer=settle())
  state = repeat(tx, np.eye(3), 3000, losses=LOSSES)
  close(np.exp(state.memory.log_vars), LOSSES * [1, 2, LOSSES[2]], 1e-6)
  close(state.weights, 1 / (LOSSES * [2, 2, 1]), 1e-6)


def test_fixed_point_of_liebel(x64):
  """c² = (L + √(L² + 8L)) / 4, and the weight 1 / (2c²)."""
  tx = optax_mtl.uncertainty_weighting(3, variant="liebel", optimizer=settle())
  state = repeat(tx, np.eye(3), 3000, losses=LOSSES)
  expected = (LOSSES + np.sqrt(LOSSES**2 + 8 * LOSSES)) / 4
  close(np.exp(state.memory.log_vars), expected, 1e-6)
  close(state.weights, 1 / (2 * expected), 1e-6)


def toy():
  """The toy data of Kendall's authors."""
  rng = np.random.RandomState(0)
  x = rng.randn(100, 1)
  y1 = 2 * x + 8 + 10 * rng.randn(100, 1)
  y2 = 3 * x + 3 + rng.randn(100, 1)
  return x, np.concatenate([y1, y2], axis=1)


def test_on_the_authors_toy(x64):
  """A line for each task, trained with its noise: σ to six digits and more."""
  x, y = map(jnp.asarray, toy())

  def loss_fn(params):
    fit = x * params["slope"][None] + params["offset"][None]
    return jnp.mean((fit - y) ** 2, axis=0)

  rate = optax.cosine_decay_schedule(0.3, 4000)
  tx = optax.chain(
    optax_mtl.uncertainty_weighting(2, optimizer=optax.adam(rate)),
    optax.adam(rate),
  )
  params = {"slope": jnp.zeros(2), "offset": jnp.zeros(2)}
  grads_of = optax_mtl.value_and_task_grads(loss_fn)

  def one(carry, _):
    params, state = carry
    losses, grads = grads_of(params)
    updates, state = tx.update(grads, state, params, losses=losses)
    return (optax.apply_updates(params, updates), state), None

  with jax.numpy_dtype_promotion("standard"):
    _, state = jax.jit(
      lambda p: jax.lax.scan(one, (p, tx.init(p)), length=4000)[0]
    )(params)
  sigma = np.exp(np.asarray(state[0].memory.log_vars) / 2)
  close(sigma, [10.28188627728701, 0.9492408336586697], 1e-7)


@pytest.mark.parametrize("variant", ["kendall", "liebel"])
def test_the_loss_trains_the_same_log_vars(x64, variant):
  """`s` among the params, by autodiff, against the closed form in the state."""
  kind = MIXED if variant == "kendall" else None
  rng = np.random.default_rng(0)
  losses = jnp.asarray(rng.uniform(0.1, 3, (40, 3)))
  tx = optax_mtl.uncertainty_weighting(3, kind, variant=variant)
  adam = optax.adam(0.025)

  def objective(losses, log_vars):
    return optax_mtl.uncertainty_loss(losses, log_vars, kind, variant=variant)

  def both(carry, losses):
    state, log_vars, adam_state = carry
    weights, slope = jax.grad(objective, (0, 1))(losses, log_vars)
    change, adam_state = adam.update(slope, adam_state)
    log_vars = log_vars + change
    _, state = tx.update(jnp.eye(3), state, losses=losses)
    return (state, log_vars, adam_state), (state, log_vars, weights)

  with jax.numpy_dtype_promotion("standard"):
    zeros = jnp.zeros(3)
    start = (tx.init(zeros), zeros, adam.init(zeros))
    states, log_vars, weights = jax.jit(
      lambda start: jax.lax.scan(both, start, losses)[1]
    )(start)
  # The same formula, differentiated by hand and by machine.
  close(states.weights, weights, 1e-12)
  close(states.memory.log_vars, log_vars, 1e-10, 1e-12)


def test_a_zero_loss_a_negative_one_and_bounds():
  """Loss 0 goes to the bound; a negative loss leaves `s` alone."""
  tx = optax_mtl.uncertainty_weighting(
    3, optimizer=optax.sgd(1.0), bounds=(-4.0, 4.0)
  )
  state = repeat(tx, np.eye(3), 50, losses=[0.0, -1.0, 1e6])
  log_vars = np.asarray(state.memory.log_vars)
  close(log_vars[:2], [-4.0, 0.0])
  assert (np.abs(log_vars) <= 4).all()


def test_an_absent_task_drops_both_of_its_terms():
  """Its `s` stands still: not even the prior pulls at it."""
  tx = optax_mtl.uncertainty_weighting(2, optimizer=optax.sgd(0.5))
  mask = np.array([True, False])
  updates, state = step(tx, np.eye(2), losses=[3.0, 3.0], active=mask)
  # s - 0.5 (1/2 - L/2)
  close(state.memory.log_vars, [0.5, 0.0])
  close(updates, [0.5, 0.0])


def test_the_first_log_vars():
  tx = optax_mtl.uncertainty_weighting(2, initial_log_vars=[0.0, np.log(4.0)])
  updates, _ = step(tx, np.eye(2), losses=[1.0, 1.0])
  close(updates, [0.5, 0.125])
  # One number for all: as LibMTL begins.
  tx = optax_mtl.uncertainty_weighting(2, initial_log_vars=-0.5)
  updates, _ = step(tx, np.eye(2), losses=[1.0, 1.0])
  close(updates, np.exp([0.5, 0.5]) / 2)


def test_kinds_and_log_vars_by_name():
  """A dict goes by the names, in whatever order it was written."""
  losses = {"t2": jnp.array(1.0), "t10": jnp.array(1.0)}
  kind = {"t2": "classification", "t10": "regression"}
  tx = optax_mtl.uncertainty_weighting(
    2, kind, initial_log_vars={"t2": 0.0, "t10": float(np.log(4.0))}
  )
  updates, _ = step(tx, np.eye(2), losses=losses)
  # Rows: t10, t2.
  close(updates, [0.125, 1.0])
  log_vars = {"t2": jnp.array(0.0), "t10": jnp.array(np.log(4.0))}
  loss = optax_mtl.uncertainty_loss(losses, log_vars, kind)
  close(loss, 0.125 + 1.0 + np.log(4.0) / 2)
  with pytest.raises(ValueError, match="t10, t2"):
    step(
      optax_mtl.uncertainty_weighting(
        2, {"seg": "classification", "depth": "regression"}
      ),
      np.eye(2),
      losses=losses,
    )
  with pytest.raises(ValueError, match="t10, t2"):
    optax_mtl.uncertainty_loss(
      losses, log_vars, {"seg": "classification", "depth": "regression"}
    )


def test_the_loss_is_negative_where_it_should_be():
  assert (
    float(optax_mtl.uncertainty_loss(jnp.array([1e-3]), jnp.array([-6.0]))) < 0
  )
  # Liebel's is never.
  for s in (-9.0, 0.0, 9.0):
    loss = optax_mtl.uncertainty_loss(
      jnp.array([0.0]), jnp.array([s]), variant="liebel"
    )
    assert float(loss) >= 0
