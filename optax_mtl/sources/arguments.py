"""The arguments of a function that is to be differentiated, and the others."""

from collections.abc import Callable, Sequence
from typing import Any

from optax_mtl import _checks


class Arguments:
  """Positional arguments, taken apart into params and the rest.

  Attributes:
    params: The argument to differentiate, or a tuple of several.
    rest: The others, in their order.
  """

  def __init__(self, argnums: int | Sequence[int], args: Sequence[Any]):
    """Takes them apart.

    Args:
      argnums: Which ones to differentiate, as for `jax.grad`.
      args: The arguments.

    Raises:
      TypeError: `argnums` holds no ints, or a leaf of the params is not
        floating point.
      ValueError: There is no such argument.
    """
    given: Any = argnums
    whole = [given] if isinstance(given, (int, float)) else given
    if not isinstance(whole, Sequence) or any(
      isinstance(i, bool) or not isinstance(i, int) for i in whole
    ):
      raise TypeError(
        "argnums must be an int, or a tuple of them: which positional "
        f"arguments to differentiate; got {given!r}."
      )
    self._single = isinstance(argnums, int)
    positions = [argnums] if isinstance(argnums, int) else list(argnums)
    if any(not -len(args) <= i < len(args) for i in positions):
      raise ValueError(
        f"argnums={argnums} names a positional argument that is not there: the "
        f"call has {len(args)}."
      )
    self._positions = [i % len(args) for i in positions]
    for i in self._positions:
      _checks.check_inexact(args[i], f"argument {i}")
    params = tuple(args[i] for i in self._positions)
    self.params: Any = params[0] if self._single else params
    self.rest = tuple(
      arg for i, arg in enumerate(args) if i not in self._positions
    )

  def join(self, params: Any, rest: Sequence[Any] | None = None) -> list[Any]:
    """All arguments in their order, with other params or another rest."""
    changed = (params,) if self._single else params
    others = iter(self.rest if rest is None else rest)
    of_params = dict(zip(self._positions, changed, strict=True))
    count = len(self.rest) + len(of_params)
    return [
      of_params[i] if i in of_params else next(others) for i in range(count)
    ]

  def apply_to(
    self, fun: Callable[..., Any], **kwargs: Any
  ) -> Callable[[Any], Any]:
    """The function with these arguments, as one of the params alone."""
    return lambda params: fun(*self.join(params), **kwargs)
