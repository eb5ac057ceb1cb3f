"""Arguments of the wrong kind are errors that name them, as are states."""

import jax.numpy as jnp
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
  "track_conflicts": lambda tx: optax_mtl.track_conflicts(tx, 2),
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
