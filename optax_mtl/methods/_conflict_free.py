"""ConFIG's weights, for the gradients and for their momenta."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from optax_mtl.solvers import Certificate, conflict_free_direction
from optax_mtl.solvers.combined import combined_products

Length = Literal[
  "projection", "min", "max", "harmonic", "arithmetic", "geometric"
]


def _mean(values: jax.Array, present: jax.Array) -> jax.Array:
  number = jnp.maximum(jnp.sum(present.astype(values.dtype)), 1)
  return jnp.sum(jnp.where(present, values, 0.0)) / number


#: Name -> function of the norms [T] and which of them count.
_COMMON_LENGTHS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  "min": lambda n, present: jnp.min(jnp.where(present, n, jnp.inf)),
  "max": lambda n, present: jnp.max(jnp.where(present, n, 0.0)),
  "harmonic": lambda n, present: 1 / _mean(1 / n, present),
  "arithmetic": _mean,
  "geometric": lambda n, present: jnp.exp(_mean(jnp.log(n), present)),
}

#: What `length` may be.
LENGTHS = ("projection", *_COMMON_LENGTHS)


def conflict_free_weights(
  gram: jax.Array, active: jax.Array, length: Length
) -> tuple[jax.Array, Certificate]:
  """The weights of ConFIG's update, direction and length.

  Args:
    gram: Array [T, T], 0 for tasks that take no part.
    active: Array [T] of bool.
    length: "projection", or which mean of the norms takes the place of each.

  Returns:
    Array [T], and the certificate of the direction.
  """
  coefficients, certificate = conflict_free_direction(gram, active=active)
  norms = jnp.sqrt(jnp.diagonal(gram))
  present = active & (norms > 0)
  along = jnp.where(present, combined_products(gram, coefficients), 0.0)
  if length != "projection":
    # Cosines times the common length, where there are cosines.
    common = _COMMON_LENGTHS[length](jnp.where(present, norms, 1.0), present)
    along = common * along / jnp.where(present, norms, 1.0)
  return coefficients * jnp.sum(along), certificate
