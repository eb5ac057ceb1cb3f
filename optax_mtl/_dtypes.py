"""The one place that says in which precision small problems are solved."""

import jax.numpy as jnp


def solver_dtype() -> jnp.dtype:
  """Dtype of weights, Gram matrices and solvers: float32, float64 under x64."""
  return jnp.dtype(jnp.result_type(float))
