"""A mean of what was seen, the last values counting most."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def moving_mean(
  mean: jax.Array, mass: jax.Array, value: jax.Array, decay: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """An exponential moving average, stored with its bias corrected.

  Args:
    mean: Array, the mean so far.
    mass: Array that broadcasts with it, the sum of the values' shares so far; 0
      before the first.
    value: Array like `mean`, the next value.
    decay: The share of the old values, in [0, 1).

  Returns:
    The next mean, which after the first value is that value, and mass.
  """
  decay = jnp.asarray(decay, value.dtype)
  mass = decay * mass + (1 - decay)
  return mean + (1 - decay) / mass * (value - mean), mass
