"""What rules of logarithms and reciprocals share: losses that have them."""

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._step import Step


def positive_losses(step: Step, why: str) -> tuple[jax.Array, jax.Array]:
  """The losses that have a logarithm and a reciprocal, and whose they are.

  Those that have none are left out of the rule, as if their tasks were absent:
  zero, where most losses are at their minimum, NaN and infinity, and under
  `jit`, where it cannot be refused, what is negative.

  Args:
    step: The step.
    why: Why a loss may not be negative, for the error where one is known.

  Returns:
    The losses [T], 1 where there is none, and which tasks have one, array [T]
    of bool.

  Raises:
    ValueError: A known loss is negative.
  """
  losses = step.losses
  _checks.check_not_negative(losses, "losses=", why)
  # Below the smallest normal number the reciprocal leaves the dtype's range.
  has = (losses >= jnp.finfo(losses.dtype).tiny) & (losses < jnp.inf)
  counts = step.active & has
  return jnp.where(counts, losses, jnp.ones_like(losses)), counts


def count(counts: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """How many tasks count, a scalar; at least 1."""
  return jnp.maximum(jnp.sum(counts.astype(dtype)), 1)


def shares(logits: jax.Array, counts: jax.Array) -> jax.Array:
  """The softmax [T] over the tasks that count; zeros where none does."""
  # Of nothing the softmax is 0 / 0.
  share = jax.nn.softmax(logits, where=counts | ~jnp.any(counts))
  return jnp.where(counts, share, jnp.zeros_like(share))
