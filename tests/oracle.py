"""One update or many of a method, and a comparison, for tests by value."""

import jax
import jax.numpy as jnp
import numpy as np

from optax_mtl._dtypes import solver_dtype


def step(tx, grads, state=None, **extra):
  """One update of an array of gradients [T, P]; returns updates and state."""
  grads = jnp.asarray(grads, solver_dtype())
  params = jnp.zeros(grads.shape[1], solver_dtype())
  state = tx.init(params) if state is None else state
  extra = {k: jnp.asarray(v) for k, v in extra.items()}
  return tx.update(grads, state, params, **extra)


def repeat(tx, grads, steps, **extra):
  """The state after many equal updates."""
  grads = jnp.asarray(grads, solver_dtype())
  extra = {k: jnp.asarray(v, solver_dtype()) for k, v in extra.items()}

  def one(state, _):
    return tx.update(grads, state, **extra)[1], None

  state = tx.init(jnp.zeros(grads.shape[1], solver_dtype()))
  return jax.jit(lambda s: jax.lax.scan(one, s, length=steps)[0])(state)


def close(actual, desired, rtol=1e-6, atol=0.0):
  np.testing.assert_allclose(
    np.asarray(actual, np.float64), desired, rtol=rtol, atol=atol
  )
