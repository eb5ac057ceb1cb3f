"""Exact values of the methods that use losses, KPIs or norms.

Fixed points, closed forms and numbers from the papers. Those that a float64 run
has to reach run under x64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import close, repeat, step

import optax_mtl


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


# Fixed and equal weights.
def test_fixed_and_equal_weights():
  grads = [[1.0, 0.0], [2.0, 5.0]]
  updates, state = step(
    optax_mtl.fixed_weighting(2, {"a": 3.0, "b": 0.5}), grads
  )
  close(updates, [4.0, 2.5])
  close(state.weights, [3.0, 0.5])
  updates, _ = step(optax_mtl.equal_weighting(2, reduction="mean"), grads)
  close(updates, [1.5, 2.5])
  mask = np.array([True, False])
  updates, _ = step(
    optax_mtl.equal_weighting(2, reduction="mean"), grads, active=mask
  )
  close(updates, [1.0, 0.0])


def test_a_grid_of_fixed_weights_in_one_vmap():
  """Weight against performance, the survey's figure: one step for all."""
  grid = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.1, 0.9]])
  make = optax.inject_hyperparams(
    optax_mtl.fixed_weighting,
    static_args=("num_tasks", "shared", "heads", "on_nonfinite"),
  )
  grads = jnp.array([[1.0, 0.0], [2.0, 5.0]])

  def update(weights):
    tx = make(num_tasks=2, weights=weights)
    return tx.update(grads, tx.init(jnp.zeros(2)))[0]

  with jax.numpy_dtype_promotion("standard"):
    close(jax.jit(jax.vmap(update))(grid), grid @ grads)


# Uncertainty weighting.
LOSSES = np.array([0.5, 2.0, 7.0])


def settle(rate=0.05):
  """Adam whose step decays, so that it comes to rest."""
  return optax.adam(optax.cosine_decay_schedule(rate, 3000))


@pytest.mark.parametrize(
  "kind, factor", [("regression", 1), ("classification", 2)]
)
def test_uncertainty_fixed_point(x64, kind, factor):
  """Constant losses: σ² = L or 2L, and the weight is 1/(2L) either way."""
  tx = optax_mtl.uncertainty_weighting(3, kind, optimizer=settle())
  state = repeat(tx, np.eye(3), 3000, losses=LOSSES)
  close(np.exp(state.log_vars), factor * LOSSES, 1e-6)
  close(state.weights, 1 / (2 * LOSSES), 1e-6)


def test_uncertainty_fixed_point_of_liebel(x64):
  tx = optax_mtl.uncertainty_weighting(3, variant="liebel", optimizer=settle())
  state = repeat(tx, np.eye(3), 3000, losses=LOSSES)
  expected = (LOSSES + np.sqrt(LOSSES**2 + 8 * LOSSES)) / 4
  close(np.exp(state.log_vars), expected, 1e-6)
  close(state.weights, 1 / (2 * expected), 1e-6)


def toy():
  """The toy data of Kendall's authors."""
  rng = np.random.RandomState(0)
  x = rng.randn(100, 1)
  y1 = 2 * x + 8 + 10 * rng.randn(100, 1)
  y2 = 3 * x + 3 + rng.randn(100, 1)
  return x, np.concatenate([y1, y2], axis=1)


def test_uncertainty_on_the_authors_toy(x64):
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
  sigma = np.exp(np.asarray(optax.tree.get(state, "log_vars")) / 2)
  close(sigma, [10.28188627728701, 0.9492408336586697], 1e-7)


@pytest.mark.parametrize("variant", ["kendall", "liebel"])
def test_uncertainty_loss_trains_the_same_log_vars(x64, variant):
  """`s` among the params, by autodiff, against the closed form in the state."""
  kind = ["regression", "classification"] if variant == "kendall" else None
  rng = np.random.default_rng(0)
  losses = jnp.asarray(rng.uniform(0.1, 3, (40, 2)))
  tx = optax_mtl.uncertainty_weighting(2, kind, variant=variant)
  adam = optax.adam(0.025)
  state, log_vars = tx.init(jnp.zeros(2)), jnp.zeros(2)
  adam_state = adam.init(log_vars)

  @jax.jit
  def both(state, log_vars, adam_state, losses):
    objective = lambda s: optax_mtl.uncertainty_loss(  # noqa: E731
      losses, s, kind, variant=variant
    )
    weights = jax.grad(
      lambda x: optax_mtl.uncertainty_loss(x, log_vars, kind, variant=variant)
    )(losses)
    change, adam_state = adam.update(jax.grad(objective)(log_vars), adam_state)
    _, state = tx.update(jnp.eye(2), state, losses=losses)
    return state, log_vars + change, adam_state, weights

  with jax.numpy_dtype_promotion("standard"):
    for row in losses:
      state, log_vars, adam_state, weights = both(
        state, log_vars, adam_state, row
      )
      # The same formula, differentiated by hand and by machine.
      close(state.weights, weights, 1e-12)
      close(state.log_vars, log_vars, 1e-10, 1e-12)


def test_uncertainty_edges():
  """Loss 0 goes to the bound; a negative loss leaves `s` alone."""
  tx = optax_mtl.uncertainty_weighting(
    3, optimizer=optax.sgd(1.0), bounds=(-4.0, 4.0)
  )
  state = repeat(tx, np.eye(3), 50, losses=[0.0, -1.0, 1e6])
  close(state.log_vars[:2], [-4.0, 0.0])
  assert (np.abs(state.log_vars) <= 4).all()
  tx = optax_mtl.uncertainty_weighting(2, initial_log_vars=[0.0, np.log(4.0)])
  updates, _ = step(tx, np.eye(2), losses=[1.0, 1.0])
  close(updates, [0.5, 0.125])


def test_uncertainty_loss_is_negative_where_it_should_be():
  assert (
    float(optax_mtl.uncertainty_loss(jnp.array([1e-3]), jnp.array([-6.0]))) < 0
  )
  # Liebel's is never.
  for s in (-9.0, 0.0, 9.0):
    loss = optax_mtl.uncertainty_loss(
      jnp.array([0.0]), jnp.array([s]), variant="liebel"
    )
    assert float(loss) >= 0


# GradNorm.
NORMS = np.array([1.0, 4.0, 0.5])


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_gradnorm_first_step(alpha):
  """Rates are 1 at first, so the target is the mean norm for every α."""
  tx = optax_mtl.gradnorm(3, alpha, optimizer=optax.sgd(0.1))
  updates, state = step(tx, np.diag(NORMS), losses=[1.0, 5.0, 9.0])
  close(updates, NORMS)
  mean = NORMS.mean()
  moved = 1 - 0.1 * np.sign(NORMS - mean) * NORMS / mean
  close(state.task_weights, 3 * moved / moved.sum())
  close(state.weights, np.ones(3))
  close(state.initial_losses, [1.0, 5.0, 9.0])


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_gradnorm_fixed_point(x64, alpha):
  """α=0: w ∝ 1/n; α=1: w ∝ r/n, with given initial losses."""
  losses, initial = np.array([1.0, 0.5, 2.0]), np.array([2.0, 2.0, 2.0])
  tx = optax_mtl.gradnorm(
    3,
    alpha,
    initial_losses=initial,
    optimizer=optax.sgd(optax.cosine_decay_schedule(0.02, 6000)),
  )
  state = repeat(tx, np.diag(NORMS), 6000, losses=losses)
  expected = (losses / initial) ** alpha / NORMS
  # The gradient is a sign: steps end at the size of the last ones.
  close(state.task_weights, 3 * expected / expected.sum(), 2e-3)


def test_gradnorm_one_task_and_a_zero_gradient():
  state = repeat(optax_mtl.gradnorm(1), [[2.0]], 20, losses=[3.0])
  close(state.task_weights, [1.0])
  state = repeat(optax_mtl.gradnorm(2), [[0.0], [2.0]], 20, losses=[1.0, 1.0])
  assert np.isfinite(np.asarray(state.task_weights)).all()
  close(np.sum(state.task_weights), 2.0)


def test_gradnorm_weights_stay_positive_and_sum_to_the_tasks():
  tx = optax_mtl.gradnorm(2, optimizer=optax.sgd(5.0))
  state = repeat(tx, np.diag([1.0, 9.0]), 3, losses=[1.0, 1.0])
  assert (np.asarray(state.task_weights) > 0).all()
  close(np.sum(state.task_weights), 2.0)


def test_gradnorm_running_mean():
  """`mean_weights` is the mean of the learnt weights, for "static" training."""
  tx = optax_mtl.gradnorm(2)
  state, seen = None, []
  for losses in ([1.0, 2.0], [2.0, 1.0], [0.5, 1.0], [1.0, 0.1]):
    _, state = step(tx, np.diag([1.0, 3.0]), state, losses=losses)
    seen.append(np.asarray(state.task_weights))
  close(state.mean_weights, np.mean(seen, axis=0))


def test_gradnorm_norms_of_one_layer():
  """`norm_params` picks the last shared layer; the update is over all."""
  grads = {"a": jnp.array([[9.0], [1.0]]), "b": jnp.array([[1.0], [3.0]])}
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
  sgd = optax.sgd(0.1)
  tx = optax_mtl.gradnorm(2, norm_params={"a": False, "b": True}, optimizer=sgd)
  updates, state = tx.update(grads, tx.init(params), params, losses=jnp.ones(2))
  close(updates["a"], [10.0])
  _, expected = step(
    optax_mtl.gradnorm(2, optimizer=sgd), np.diag([1.0, 3.0]), losses=np.ones(2)
  )
  close(state.task_weights, expected.task_weights)


# Dynamic weight average.
def run_dwa(tx, epochs, state=None, active=None):
  for losses in epochs:
    _, state = step(
      tx,
      np.eye(len(losses)),
      state,
      losses=losses,
      **({} if active is None else {"active": active}),
    )
  return state


def test_dwa_oracle():
  """Averages (1,2,3) after (2,2,2): the weights of the third epoch."""
  tx = optax_mtl.dwa(3, steps_per_epoch=2)
  epochs = [[1.0, 3.0, 2.0], [3.0, 1.0, 2.0]] + [
    [0.5, 2.5, 4.0],
    [1.5, 1.5, 2.0],
  ]
  state = run_dwa(tx, epochs)
  close(state.weights, np.ones(3))
  state = run_dwa(tx, [[9.0, 9.0, 9.0]], state)
  close(state.weights, [0.76282564, 0.97948751, 1.25768685])


def test_dwa_is_invariant_to_each_losss_scale():
  losses = np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
  tx = optax_mtl.dwa(3, steps_per_epoch=1)
  base = run_dwa(tx, losses)
  scaled = run_dwa(tx, losses * np.array([1e-6, 1.0, 1e6]))
  close(scaled.weights, base.weights, 1e-5)


def test_dwa_edges():
  hot = optax_mtl.dwa(2, 1e9, steps_per_epoch=1)
  close(run_dwa(hot, [[2.0, 2.0], [1.0, 2.0], [1.0, 2.0]]).weights, [1.0, 1.0])
  # A softmax that overflows without its maximum subtracted.
  cold = optax_mtl.dwa(2, 1e-3, steps_per_epoch=1)
  close(run_dwa(cold, [[1.0, 1.0], [1.0, 9.0], [1.0, 1.0]]).weights, [0.0, 2.0])
  # A loss of zero has no ratio: 1.
  tx = optax_mtl.dwa(2, steps_per_epoch=1)
  state = run_dwa(tx, [[0.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
  close(state.weights, [1.0, 1.0])
  # Absent for a whole epoch: the last averages stay.
  state = run_dwa(tx, [[2.0, 2.0], [1.0, 2.0]])
  state = run_dwa(tx, [[5.0, 5.0]], state, active=np.array([False, True]))
  close(state.last_epoch_loss, [1.0, 5.0])
  close(state.previous_epoch_loss, [2.0, 2.0])


# Dynamic task prioritization.
KPIS = np.array([0.1, 0.5, 0.9, 0.99])


@pytest.mark.parametrize(
  "gamma, expected",
  [
    (0.0, -np.log(KPIS)),
    (1.0, [2.07232658, 0.34657359, 0.01053605, 1.00503e-4]),
    (2.0, [1.86509392, 0.17328680, 0.00105361, 1.005e-6]),
    ([0.0, 1.0, 2.0, 0.0], [2.30258509, 0.34657359, 0.00105361, 0.01005034]),
  ],
)
def test_dtp_oracle(x64, gamma, expected):
  _, state = step(optax_mtl.dtp(4, gamma), np.eye(4), kpis=KPIS)
  # The digits of the oracle.
  close(state.weights, expected, 0.0, 1e-8)


def test_dtp_moving_average_and_missing_kpis():
  tx = optax_mtl.dtp(2)
  _, state = step(tx, np.eye(2), kpis=[np.nan, 0.5])
  close(state.weights, [1.0, 0.34657359])
  assert list(state.kpi_seen) == [False, True]
  # The average begins at the first KPI, and holds where one is missing.
  _, state = step(tx, np.eye(2), state, kpis=[0.1, np.nan])
  close(state.weights, [2.07232658, 0.34657359])
  _, state = step(tx, np.eye(2), state, kpis=[0.2, 0.9])
  close(state.kpi_average, [0.11, 0.54])


def test_dtp_a_missing_kpi_does_not_drop_a_task():
  tx = optax_mtl.dtp(2, on_nonfinite="drop")
  updates, _ = step(tx, np.eye(2), kpis=[np.nan, 0.5])
  close(updates, [1.0, 0.34657359])


def test_dtp_edges():
  """KPIs outside [0, 1] clip; weights that sum to T on request."""
  _, state = step(optax_mtl.dtp(2), np.eye(2), kpis=[-1.0, 2.0])
  assert np.isfinite(np.asarray(state.weights)).all()
  assert (np.asarray(state.weights) >= 0).all()
  tx = optax_mtl.dtp(3, normalize=True)
  _, state = step(tx, np.eye(3), kpis=[0.9, 0.99, 0.999])
  close(np.sum(state.weights), 3.0)
  mask = np.array([True, False, True])
  _, state = step(tx, np.eye(3), kpis=[0.9, 0.99, 0.999], active=mask)
  close(np.sum(state.weights), 2.0)
