"""Arguments of the wrong kind are errors that name them, as are states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

AROUND = {
  "accumulate": lambda tx: optax_mtl.accumulate(tx, 2, 2),
  "drop_nonfinite": optax_mtl.drop_nonfinite,
  "from_extra_arg": optax_mtl.from_extra_arg,
  "log_losses": optax_mtl.log_losses,
  "on_trunk": lambda tx: optax_mtl.on_trunk(tx, True),
  "per_task": lambda tx: optax_mtl.per_task(tx, 2),
  "rename_args": lambda tx: optax_mtl.rename_args(tx, losses="mine"),
  "skip_nonfinite": optax_mtl.skip_nonfinite,
}


@pytest.mark.parametrize("wrapper", AROUND)
def test_what_is_no_transformation(wrapper):
  around = AROUND[wrapper]
  with pytest.raises(TypeError, match=r"inner must be .* 'mgda' .*: call it"):
    around(optax_mtl.mgda)
  with pytest.raises(TypeError, match=r"inner must be .*; got None\."):
    around(None)


@pytest.mark.parametrize(
  "method", ["famo", "gradnorm", "uncertainty_weighting"]
)
def test_an_optimizer_that_is_none(method):
  with pytest.raises(TypeError, match=r"optimizer must be .*; got 0\.01"):
    optax_mtl.METHODS[method](2, optimizer=0.01)


def test_numbers_that_are_none():
  with pytest.raises(TypeError, match="every_k must be a real number, got '3'"):
    optax_mtl.refresh_every(optax_mtl.mgda(2), "3")
  with pytest.raises(TypeError, match="power must be a real number, got 'ha"):
    optax_mtl.norm_balance(2, power="half")
  with pytest.raises(TypeError, match="decay must be a real number, got 1j"):
    optax_mtl.ema_weights(optax_mtl.mgda(2), 1j)
  # An imaginary part would be dropped in silence.
  with pytest.raises(TypeError, match="weights must hold real numbers, got co"):
    optax_mtl.fixed_weighting(2, [1j, 2.0])


def test_a_state_of_something_else():
  tx, params = optax_mtl.mgda(2), jnp.zeros(2)
  for state in (None, optax.chain(tx).init(params), {"weights": jnp.ones(2)}):
    with pytest.raises(TypeError, match="mgda needs its state, a WeightState"):
      tx.update(jnp.eye(2), state, params)


def test_a_mask_over_a_single_array():
  tx = optax_mtl.norm_balance(2, norm_params=False)
  with pytest.raises(ValueError, match="The leaves are a single array"):
    tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), jnp.zeros(2))


@pytest.mark.parametrize(
  ("build", "words"),
  [
    (
      lambda: optax_mtl.refresh_every(optax_mtl.mgda(2), 1.5),
      "every_k must be a whole number, got 1.5",
    ),
    (
      lambda: optax_mtl.refresh_every(optax_mtl.mgda(2), 3, first=0.5),
      "first must be a whole number",
    ),
    (
      lambda: optax_mtl.accumulate(optax_mtl.mgda(2), 2, 2.5),
      "every_k must be a whole number",
    ),
    (lambda: optax_mtl.dwa(2, steps_per_epoch=1.5), "steps_per_epoch must be"),
    (
      lambda: optax_mtl.softadapt(2, steps_per_epoch=1.5),
      "steps_per_epoch must be a whole",
    ),
    (lambda: optax_mtl.softadapt(2, beta=float("nan")), "beta must lie in"),
    (
      lambda: optax_mtl.lr_annealing(2, relative="yes"),
      "relative must be one of None, True, False",
    ),
    (
      lambda: optax_mtl.bloop(2, auxiliary_weight=float("nan")),
      "auxiliary_weight must lie in",
    ),
    (
      lambda: optax_mtl.fixed_weighting(2, {"a": 1.0, "b": float("inf")}),
      "weights must hold finite numbers, got inf",
    ),
    (
      lambda: optax_mtl.norm_balance(2, initial_weights=1.0),
      "decay with initial_weights= must lie in",
    ),
  ],
)
def test_settings_that_would_be_cut_or_ignored(build, words):
  with pytest.raises(ValueError, match=words):
    build()


SEEDED = {
  "pcgrad": lambda seed: optax_mtl.pcgrad(2, seed=seed),
  "relobralo": lambda seed: optax_mtl.relobralo(2, seed=seed),
  "rlw": lambda seed: optax_mtl.rlw(2, seed=seed),
}


@pytest.mark.parametrize("name", SEEDED)
def test_seeds(name):
  """One integer, known or traced: a `vmap` over seeds is what they are for."""
  for seed in (0.5, True, "1", None, jnp.ones(()), jnp.arange(2)):
    with pytest.raises(TypeError, match="seed must be an integer, got"):
      SEEDED[name](seed)
  start = lambda seed: SEEDED[name](seed).init(jnp.zeros(2))  # noqa: E731
  jax.eval_shape(jax.vmap(start), jnp.arange(3))
  start(np.int64(3))


#: What counts, and would be cut.
WHOLE = {
  "feasibility_steps": lambda n: optax_mtl.pareto_mtl(
    2, jnp.eye(2), feasibility_steps=n
  ),
  "max_consecutive": lambda n: optax_mtl.skip_nonfinite(optax_mtl.mgda(2), n),
  "max_iter": lambda n: optax_mtl.solvers.min_norm(jnp.eye(2), max_iter=n),
  "num_directions": optax_mtl.pareto.uniform_directions,
  "num_partitions": lambda n: optax_mtl.pareto.das_dennis_directions(2, n),
  "num_steps": lambda n: optax_mtl.solvers.min_norm_trace(
    jnp.eye(2), variant="away", num_steps=n
  ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_numbers_that_count(name):
  with pytest.raises(ValueError, match=f"{name} must be a whole number"):
    WHOLE[name](2.5)


def test_a_bool_is_no_number_of_tasks():
  with pytest.raises(TypeError, match="num_tasks must be a Python int, got bo"):
    optax_mtl.mgda(True)


def test_arguments_that_mean_something_only_together():
  """Both are named; what is traced may be anything."""
  with pytest.raises(
    ValueError, match="average='norms' .* decay=0 averages no"
  ):
    optax_mtl.norm_balance(2, average="norms")
  optax_mtl.norm_balance(2, average="norms", decay=0.5)
  method = optax_mtl.mgda(2)
  for weights in (2.0, [1.0, 2.0]):
    with pytest.raises(ValueError, match="initial_weights= .* first=0"):
      optax_mtl.refresh_every(method, 3, initial_weights=weights)
    optax_mtl.refresh_every(method, 3, first=1, initial_weights=weights)


def test_a_state_of_another_method_or_number_of_tasks():
  params = jnp.zeros(2)
  tx = optax_mtl.mgda(2)
  with pytest.raises(TypeError, match="mgda was given the state of another"):
    tx.update(jnp.eye(2), optax_mtl.famo(2).init(params), params)
  one = optax_mtl.equal_weighting(1).init(params)
  with pytest.raises(ValueError, match=r"num_tasks=2, but its state .*\[1\]"):
    optax_mtl.equal_weighting(2).update(jnp.eye(2), one, params)


def test_a_trace_that_is_not_finite_drops_its_task():
  tx = optax_mtl.drop_nonfinite(optax_mtl.ntk_weighting(2))
  params = jnp.zeros(2)
  updates, state = tx.update(
    jnp.eye(2), tx.init(params), params, traces=jnp.array([jnp.nan, 3.0])
  )
  # The sum of the traces over the one that is left.
  assert updates.tolist() == [0.0, 1.0]
  assert state.weights.tolist() == [0.0, 1.0]
