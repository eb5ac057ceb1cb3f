"""Checks of numbers that come with an update, where they are known."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from optax_mtl import _jax_internals


def check_values(
  values: jax.Array, fine: Callable[[jax.Array], jax.Array], message: str
) -> None:
  """Raises where values that are known are not as they have to be.

  Under `jit` they are not known, and what calls this says what happens then;
  `jax.experimental.checkify` raises there too.

  Args:
    values: An array.
    fine: Function from it to an array of bool: which entries are as they
      should be. A NaN has reasons of its own, and is to be fine.
    message: What the error says, with `{values}` in it.

  Raises:
    ValueError: A known entry is not fine.
  """
  if _jax_internals.is_traced(values):
    _jax_internals.debug_check(jnp.all(fine(values)), message, values=values)
  # One that other processes hold parts of is not known here either.
  elif values.is_fully_addressable:
    # What is known stays so while something else is traced.
    with jax.ensure_compile_time_eval():
      if not bool(jnp.all(fine(values))):
        raise ValueError(message.format(values=np.asarray(values).tolist()))


def check_not_negative(values: jax.Array, what: str, why: str) -> None:
  """Raises where a known value is negative; NaN has reasons of its own."""
  message = f"{what} must not be negative, {why}: got {{values}}."
  check_values(values, lambda x: ~(x < 0), message)


def check_preference(values: jax.Array, name: str) -> None:
  """Raises unless a known preference is one: finite, some of it positive.

  Args:
    values: Array [..., T].
    name: What errors call it.

  Raises:
    ValueError: A known entry is negative or not finite, or all are zero along
      the last axis.
  """
  check_values(
    values,
    lambda x: (
      jnp.isfinite(x) & (x >= 0) & jnp.any(x > 0, axis=-1, keepdims=True)
    ),
    f"{name} must hold finite numbers that are not negative, and not all zero: "
    "got {values}.",
  )
