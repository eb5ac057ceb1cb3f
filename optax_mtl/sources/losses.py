"""What a loss function returns, and what a source hands back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks


def stack(value: Any) -> jax.Array:
  """What a loss function returned, as an array [T] of floating point.

  Args:
    value: An array [T], or a sequence or mapping of scalars.

  Returns:
    The losses [T]; those of a mapping in the order of its sorted keys.

  Raises:
    TypeError: A loss is not real floating point.
    ValueError: A loss is not a scalar.
  """
  losses = _checks.stack_scalars(value, "losses")
  if not jnp.issubdtype(losses.dtype, jnp.floating):
    if isinstance(value, Mapping) and len(value) == 1:
      [name] = value
      raise TypeError(
        f"losses[{name!r}] must be real floating point, got {losses.dtype}: "
        "only then can it be differentiated."
      )
    raise TypeError(
      f"losses must be real floating point, got {losses.dtype}: only then can "
      "they be differentiated."
    )
  return losses


def split(value: Any, has_aux: bool, what: str) -> tuple[Any, Any]:
  """Splits `(value, aux)`; aux is None without `has_aux`."""
  if not has_aux:
    return value, None
  if not (isinstance(value, tuple) and len(value) == 2):
    raise TypeError(
      f"With has_aux=True, {what} must return a pair (value, aux), got "
      f"{type(value).__name__}."
    )
  return value


class Recorder:
  """Notes while tracing which names a loss function gives its losses.

  Attributes:
    keys: The sorted keys of the mapping that was returned; None: no mapping.
  """

  def __init__(self) -> None:
    """Nothing has been seen yet."""
    self.keys: list[Any] | None = None

  def stack(self, value: Any) -> jax.Array:
    """As `losses.stack`, and notes the names."""
    self.keys = sorted(value) if isinstance(value, Mapping) else None
    return stack(value)

  @property
  def names(self) -> tuple[str, ...] | None:
    """The tasks' names, for `TaskGradients`."""
    return None if self.keys is None else tuple(map(str, self.keys))

  def back(self, losses: jax.Array) -> Any:
    """The losses [T] as the function returned them: a dict, or as they are."""
    if self.keys is None:
      return losses
    return {key: losses[i] for i, key in enumerate(self.keys)}
