"""Where a method stands: what is around it, and whether there is one at all.

A chain does not show what it is made of, but its `init` and its `update` run
those of its parts. So methods say there that they are reached, and what goes
around a chain looks on.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Generator


@dataclasses.dataclass
class Place:
  """What is inside of a wrapper, as far as it has run.

  Attributes:
    refusal: Why no method may stand here, a sentence that begins with its
      name; "": it may.
    reached: Whether something ran that takes stacked gradients.
  """

  refusal: str = ""
  reached: bool = False


_places: contextvars.ContextVar[tuple[Place, ...]] = contextvars.ContextVar(
  "places", default=()
)


@contextlib.contextmanager
def looking_on(refusal: str = "") -> Generator[Place]:
  """While what is inside of a wrapper runs: see `Place`."""
  place = Place(refusal)
  token = _places.set((*_places.get(), place))
  try:
    yield place
  finally:
    _places.reset(token)


def reach(method: str | None = None) -> None:
  """Says that something is reached which takes stacked gradients.

  Args:
    method: The name of a method, which combines them; None: it is something
      else.

  Raises:
    TypeError: A wrapper around it cannot have methods inside.
  """
  # The innermost knows best why.
  for place in reversed(_places.get()):
    place.reached = True
    if method is not None and place.refusal:
      raise TypeError(f"{method} {place.refusal}")
