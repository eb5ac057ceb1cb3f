"""What the references of the methods share: the register and a few parts."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: `(num_tasks, grads [steps, T, P], extra, **kwargs) -> weights [steps, T]`.
Reference = Callable[..., np.ndarray]
#: The extra args of one step or of a run, by name.
Extra = Mapping[str, np.ndarray]

#: Name of a method -> its reference.
REFERENCES: dict[str, Reference] = {}


def reference(name: str) -> Callable[[Reference], Reference]:
  """Registers what it decorates as the reference of the method `name`."""

  def register(function: Reference) -> Reference:
    if name in REFERENCES:
      raise ValueError(f"{name} has a reference already.")
    REFERENCES[name] = function
    return function

  return register


def each_step(function: Callable[..., np.ndarray]) -> Reference:
  """Lifts `(num_tasks, grads [T, P], extra [T], **kwargs) -> [T]` to a run."""

  @functools.wraps(function)
  def run(
    num_tasks: int, grads: np.ndarray, extra: Extra, **kwargs: Any
  ) -> np.ndarray:
    return np.stack(
      [
        function(num_tasks, g, {k: v[t] for k, v in extra.items()}, **kwargs)
        for t, g in enumerate(grads)
      ]
    )

  return run


class Adam:
  """Adam on an array, entry by entry."""

  def __init__(
    self,
    rate: float = 0.025,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
  ):
    """Starts with empty moments."""
    self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps
    self.steps = 0
    self.mean: Any = 0.0
    self.square: Any = 0.0

  def __call__(self, gradient: np.ndarray) -> np.ndarray:
    """The next update."""
    self.steps += 1
    self.mean = self.b1 * self.mean + (1 - self.b1) * gradient
    self.square = self.b2 * self.square + (1 - self.b2) * gradient**2
    mean = self.mean / (1 - self.b1**self.steps)
    square = self.square / (1 - self.b2**self.steps)
    return -self.rate * mean / (np.sqrt(square) + self.eps)


def or_equal(preference: np.ndarray | None, num_tasks: int) -> np.ndarray:
  """The preference [T]; equal shares that sum to 1 where it is None."""
  if preference is None:
    return np.full(num_tasks, 1 / num_tasks)
  return preference
