"""What a solver says about its own answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl._dtypes import solver_dtype


class Certificate(NamedTuple):
  """How good a solver's answer is, measured on the answer itself.

  Attributes:
    residual: Scalar, `solver_dtype()`. The relative duality gap or KKT residual
      of the returned point; each solver's docstring defines it.
    iterations: Scalar int32, how many iterations were taken.
    converged: Scalar bool, whether `residual` is at most the tolerance.
  """

  residual: jax.Array
  iterations: jax.Array
  converged: jax.Array


def initial_certificate() -> Certificate:
  """The certificate before there was anything to solve."""
  return Certificate(
    residual=jnp.zeros((), solver_dtype()),
    iterations=jnp.zeros((), jnp.int32),
    converged=jnp.ones((), jnp.bool_),
  )
