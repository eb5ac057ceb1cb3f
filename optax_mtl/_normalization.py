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
    divisor = divisor * not_negative(step, what)
  kept = step.active & (divisor != 0)
  return jnp.where(kept, divisor, jnp.ones_like(divisor))


def not_negative(step: Step, what: str) -> jax.Array:
  """The losses [T] as lengths, which cannot be negative; 0 of absent tasks.

  Args:
    step: The step.
    what: What errors call the argument that makes lengths of them.

  Returns:
    Array [T], NaN where a traced loss is negative.

  Raises:
    TypeError: The update has no losses.
    ValueError: A loss that is known is negative.
  """
  losses = step.only_active(step.losses)
  message = (
    f"{what} takes each loss for a length, so the losses must not be negative: "
    "got {values}. Shift them, or take 'l2', the norm, where there is one."
  )
  _checks.check_values(losses, lambda x: ~(x < 0), message)
  return jnp.where(losses < 0, jnp.nan, losses)
