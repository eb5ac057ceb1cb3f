"""Moving averages of each task's gradient."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import linalg
from optax_mtl._dtypes import solver_dtype, wide


def decayed(value: ArrayLike, power: ArrayLike, steps: jax.Array) -> jax.Array:
  """`value / k^power` of the step numbers k, from 1 on; of 0 as of 1."""
  numbers = jnp.maximum(steps, 1).astype(solver_dtype())
  faded = jnp.power(numbers, jnp.asarray(power, solver_dtype()))
  return jnp.asarray(value, solver_dtype()) / faded


# Jitted so that leaves of one shape are traced and lowered once. Complex leaves
# times real factors are refused by strict promotion.
@jax.jit
@jax.numpy_dtype_promotion("standard")
def _towards(
  old: jax.Array, new: jax.Array, rates: jax.Array, scales: jax.Array
) -> jax.Array:
  """`old + rate (scale new - old)`, row by row; `old` where the rate is 0."""
  rate, scale = linalg.beside(rates, old), linalg.beside(scales, old)
  return jnp.where(rate == 0, old, old + rate * (scale * wide(new) - old))


def tracked(
  averages: Sequence[jax.Array],
  rows: Sequence[jax.Array],
  rates: jax.Array,
  scales: jax.Array,
) -> list[jax.Array]:
  """The averages, moved towards the gradients.

  Args:
    averages: Arrays [T, *shape], in the solver's precision.
    rows: The gradients, arrays [T, *shape].
    rates: Array [T], how far each task's is moved; 0 leaves it as it is.
    scales: Array [T], what its gradient is multiplied with.

  Returns:
    Arrays [T, *shape].
  """
  return [
    _towards(*pair, rates, scales) for pair in zip(averages, rows, strict=True)
  ]
