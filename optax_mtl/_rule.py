"""What a method is: a rule.

A rule is to T weights what an optax transformation is to updates: a first
memory, and a function from a step and the memory to the weights and the next
memory. Nothing else belongs into a method's file; `_transformation.py` makes
the gradient transformation of it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._step import Step
from optax_mtl.solvers import Certificate, initial_certificate

Memory = TypeVar("Memory")


def _observe_nothing(step: Step, memory: Memory) -> Memory:
  del step
  return memory


@dataclasses.dataclass(frozen=True)
class WeightRule(Generic[Memory]):
  """One weight a task: the update is the weighted sum of the gradients.

  Attributes:
    weigh: Function `(step, memory) -> (weights, memory)`, weights [T]. A
      wrapper may leave it out in a step, as `optax_mtl.refresh_every` does.
    init: Function of nothing that returns the first memory, a tree of arrays
      whose fields are not called `weights`.
    observe: Function `(step, memory) -> memory` that runs before `weigh`, in
      every step: for what has to be counted or averaged over all of them.
      Default: nothing.
    max_norm: The norm of the combined gradient, over the shared leaves, is
      scaled down to this in every step; the weights in the state are those
      before. None: not at all.

  Raises:
    ValueError: `max_norm` is not positive.
  """

  weigh: Callable[[Step, Memory], tuple[jax.Array, Memory]]
  init: Callable[[], Memory]
  observe: Callable[[Step, Memory], Memory] = _observe_nothing
  max_norm: ArrayLike | None = None

  def __post_init__(self) -> None:
    """Checks the limit."""
    if self.max_norm is not None:
      _checks.check_range("max_norm", self.max_norm, 0, open_low=True)


@dataclasses.dataclass(frozen=True)
class UpdateRule(Generic[Memory]):
  """An update from the gradients themselves, where there are no weights.

  Attributes:
    update: Function `(step, memory) -> (update, memory)`, the update a tree
      shaped like the params. With a known trunk only its leaves there count;
      the heads get their own gradients.
    init: Function from params to the first memory, a tree of arrays.
  """

  update: Callable[[Step, Memory], tuple[Any, Memory]]
  init: Callable[[Any], Memory]


Rule = WeightRule[Any] | UpdateRule[Any]


def from_step(weights: Callable[[Step], jax.Array]) -> WeightRule[tuple[()]]:
  """The rule whose weights follow from the step alone: it has no memory."""
  return WeightRule(
    weigh=lambda step, memory: (weights(step), memory), init=lambda: ()
  )


def solved(
  solve: Callable[[Step], tuple[jax.Array, Certificate]],
  *,
  max_norm: ArrayLike | None = None,
) -> WeightRule[Certificate]:
  """The rule that solves a problem in each step, to the weights' certificate.

  Args:
    solve: Function from the step to the weights [T] and a certificate, which is
      all that the rule remembers.
    max_norm: As in `WeightRule`.

  Returns:
    The rule.
  """
  return WeightRule(
    weigh=lambda step, memory: solve(step),
    init=initial_certificate,
    max_norm=max_norm,
  )
