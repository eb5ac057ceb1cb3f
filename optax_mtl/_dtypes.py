"""The one place that says in which precision small problems are solved."""

import jax
import jax.numpy as jnp


def solver_dtype() -> jnp.dtype:
  """Dtype of weights, Gram matrices and solvers: float32, float64 under x64."""
  return jnp.dtype(jnp.result_type(float))


def wide(leaf: jax.Array) -> jax.Array:
  """A gradient's leaf in the solver's precision, in which rules keep it."""
  if jnp.iscomplexobj(leaf):
    return leaf.astype(jnp.result_type(complex))
  return leaf.astype(solver_dtype())
