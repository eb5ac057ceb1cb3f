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
  check_no_pair(value, "The loss function")
  losses = _checks.stack_scalars(value, "losses")
  _check_members(value)
  if not jnp.issubdtype(losses.dtype, jnp.floating):
    raise TypeError(
      f"losses must be real floating point, got {losses.dtype}: only then can "
      "they be differentiated."
    )
  return losses


def check_no_pair(value: Any, what: str) -> None:
  """Raises where a function's pair can only be `(value, aux)`, or a mistake.

  Args:
    value: What it returned.
    what: What to call the function in the error.

  Raises:
    TypeError: A pair, of which not both are scalars.
  """
  pair = type(value) is tuple and len(value) == 2
  if pair and not all(isinstance(x, jax.Array) and not x.ndim for x in value):
    kinds = " and ".join(
      f"an array of shape {list(x.shape)}"
      if isinstance(x, jax.Array)
      else f"a {type(x).__name__}"
      for x in value
    )
    raise TypeError(
      f"{what} returned a pair of {kinds}. If that is (value, aux), say so "
      "with has_aux=True; if these are two losses, each must be a scalar: "
      "reduce it, for instance with its mean."
    )


def scalar(value: Any, what: str) -> jax.Array:
  """What a function of one task returned, as a scalar of floating point.

  Args:
    value: What it returned.
    what: What to call the function in an error.

  Returns:
    The loss.

  Raises:
    TypeError: It is not real floating point.
    ValueError: It is not a scalar.
  """
  if type(value) is tuple and len(value) == 2:
    raise TypeError(
      f"{what} returned a pair, and its loss must be a scalar. If the pair is "
      "(loss, aux), say so with has_aux=True."
    )
  try:
    loss = jnp.asarray(value)
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"{what} must return its loss, a scalar, got {type(value).__name__}."
    ) from error
  if loss.ndim:
    raise ValueError(
      f"{what} must return its loss, a scalar, got shape {list(loss.shape)}. "
      "Reduce it, for instance with its mean."
    )
  if not jnp.issubdtype(loss.dtype, jnp.floating):
    raise TypeError(
      f"{what} must return real floating point, got {loss.dtype}: only then "
      "can it be differentiated."
    )
  return loss


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


def _check_members(value: Any) -> None:
  """Raises where a loss beside others has no gradient, as a count has none.

  It would be a task whose gradient is zero, at which some methods stand still.
  """
  members: list[tuple[str, Any]] = []
  if isinstance(value, Mapping):
    members = [(repr(name), value[name]) for name in sorted(value)]
  elif isinstance(value, (list, tuple)):
    members = [(str(i), member) for i, member in enumerate(value)]
  if len(members) < 2:
    return
  for name, member in members:
    dtype = jnp.result_type(member)
    if not jnp.issubdtype(dtype, jnp.floating):
      raise TypeError(
        f"losses[{name}] must be real floating point, got {dtype}: it has no "
        "gradient. Return what is only counted beside the losses, with "
        "has_aux=True; a loss that is switched off is 0.0."
      )


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
