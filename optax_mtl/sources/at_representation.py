"""What a representation source has to give besides the params' gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class AtRepresentation(NamedTuple):
  """The trunk's output, what the losses' gradients are there, and the way back.

  Attributes:
    values: The representation, a tree of arrays.
    gradients: The gradients with respect to it, a tree with leaves
      [T, *shape].
    pull_back: Function `(at_representation, weights, keep)` from a tree like
      `values`, weights [T] and a mask [T] of bool or None to a tree like the
      params: what the tree is pulled back to by the trunk, plus the weighted
      sum of the tasks' gradients that do not pass through the representation,
      of the tasks that are kept.
  """

  values: Any
  gradients: Any
  pull_back: Callable[[Any, jax.Array, jax.Array | None], Any]
