"""Fixed weights: as given, by position or by name, and a grid of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import close, step

import optax_mtl

GRADS = [[1.0, 0.0], [2.0, 5.0]]


def test_weights_are_applied_as_given():
  """Not normalised; negative and zero ones too."""
  for weights in ([3.0, 0.5], [-1.0, 0.0], [1e-20, 1e20]):
    updates, state = step(optax_mtl.fixed_weighting(2, weights), GRADS)
    close(state.weights, weights)
    close(updates, np.asarray(weights) @ GRADS)
  mask = np.array([False, True])
  updates, state = step(
    optax_mtl.fixed_weighting(2, [3.0, 0.5]), GRADS, active=mask
  )
  close(updates, [1.0, 2.5])
  close(state.weights, [0.0, 0.5])


def test_weights_by_name_follow_the_names():
  """Rows come in the order of the sorted names: t10 before t2."""
  losses = {"t2": jnp.array(1.0), "t10": jnp.array(2.0)}
  weights = {"t2": 0.5, "t10": 3.0}
  updates, state = step(
    optax_mtl.fixed_weighting(2, weights), GRADS, losses=losses
  )
  close(state.weights, [3.0, 0.5])
  close(updates, [4.0, 2.5])
  # What was accepted in silence before: the names of other tasks.
  other = optax_mtl.fixed_weighting(2, {"boundary": 3.0, "initial": 0.5})
  with pytest.raises(ValueError, match="t10, t2"):
    step(other, GRADS, losses=losses)


def test_a_grid_of_fixed_weights_in_one_vmap():
  """Weight against performance, the survey's figure: one step for all."""
  grid = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.1, 0.9]])
  make = optax.inject_hyperparams(
    optax_mtl.fixed_weighting, static_args="num_tasks"
  )
  grads = jnp.array(GRADS)

  def update(weights):
    tx = make(num_tasks=2, weights=weights)
    return tx.update(grads, tx.init(jnp.zeros(2)))[0]

  with jax.numpy_dtype_promotion("standard"):
    close(jax.jit(jax.vmap(update))(grid), grid @ grads)
