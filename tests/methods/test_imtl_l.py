"""IMTL-L: its fixed point, its steps, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import close, repeat, walk

import optax_mtl


def test_its_fixed_point_is_the_inverse_loss():
  """`e^s L = 1`, from where it begins and from elsewhere."""
  losses = np.array([0.05, 1.0, 20.0])
  tx = optax_mtl.imtl_l(
    3, optimizer=optax.sgd(0.1), initial_log_scales=-np.log(losses) + 0.5
  )
  # The slope at the fixed point is 1: what is left after 300 steps is 0.9^300,
  # below a rounding.
  state = repeat(tx, np.eye(3), 300, losses=losses)
  close(state.weights * losses, np.ones(3), rtol=1e-5)


def test_steps():
  """SGD by hand: the weight is from before the step, and `s` is clipped."""
  losses = np.float32([[0.5, 4.0]] * 3)
  tx = optax_mtl.imtl_l(2, optimizer=optax.sgd(0.5), bounds=(-1.0, 1.0))
  states = walk(tx, np.eye(2), losses=losses)[1]
  close(states.weights[0], [1, 1])
  close(states.weights[1], [np.exp(0.25), np.exp(-1.0)])
  second = 0.25 - 0.5 * (np.exp(0.25) * 0.5 - 1)
  close(states.weights[2, 0], np.exp(second))


def test_what_teaches_nothing():
  """Not finite or negative, or of an absent task; a zero raises the weight."""
  losses = np.float32([[0.0, 3.0]] * 4)
  losses[:3, 1] = [np.nan, -1.0, np.inf]
  active = np.array([[True, True]] * 3 + [[True, False]])
  states = walk(optax_mtl.imtl_l(2), np.eye(2), losses=losses, active=active)[1]
  close(states.memory.log_scales[:, 1], np.zeros(4))
  assert (np.diff(states.memory.log_scales[:, 0]) > 0).all()
  assert np.isfinite(states.weights).all()


def test_arguments():
  tx = optax_mtl.imtl_l(2, initial_log_scales={"b": 1.0, "a": 2.0})
  losses = {"a": jnp.ones(()), "b": jnp.ones(())}
  _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=losses)
  close(state.weights, np.exp([2.0, 1.0]))
  with pytest.raises(ValueError, match="bounds must be"):
    optax_mtl.imtl_l(2, bounds=(1.0, 1.0))
  # Traced bounds, as under `inject_hyperparams`, are not looked at.
  jax.eval_shape(lambda b: optax_mtl.imtl_l(2, bounds=(b, b)).init({}), 1.0)
