"""Lengths that task gradients are divided by."""

from typing import Literal

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._step import Step

#: The gradient's norm, the loss, or their product.
Normalization = Literal["l2", "loss", "loss+"]

NORMALIZATIONS = ("l2", "loss", "loss+")


def divisors(
  step: Step, by: Normalization, norms: jax.Array, what: str
) -> jax.Array:
  """What each task's gradient is to be divided by.

  Args:
    step: The step; its losses are read where they count.
    by: As in `Normalization`.
    norms: Array [T], the gradients' norms; not looked at for "loss".
    what: What errors call the argument that says so.

  Returns:
    Array [T]. 1 for a task that takes no part, for a zero gradient and for a
    loss of zero: it is left as it is.

  Raises:
    TypeError: The losses count, and the update has none.
    ValueError: A loss that is known is negative; NaN for one that is traced.
  """
  divisor = norms if by != "loss" else jnp.ones_like(norms)
  if by != "l2":
    divisor = divisor * _not_negative(step.losses, what)
  kept = step.active & (divisor != 0)
  return jnp.where(kept, divisor, jnp.ones_like(divisor))


def _not_negative(losses: jax.Array, what: str) -> jax.Array:
  message = (
    f"{what} divides each gradient by its loss, so the losses must not be "
    "negative: got {values}. Shift them, or take 'l2', the norm."
  )
  _checks.check_values(losses, lambda x: ~(x < 0), message)
  return jnp.where(losses < 0, jnp.nan, losses)
