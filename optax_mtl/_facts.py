"""What a method reads, found by letting it read: nothing has to be declared."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl._rule import UpdateRule
from optax_mtl._step import (
  ExtraArg,
  MissingArgumentError,
  Step,
  WatchedArgs,
)
from optax_mtl._transformation import Method
from optax_mtl.sources.stacked import StackedTaskGradients
from optax_mtl.sources.task_gradients import TaskGradients


class Facts(NamedTuple):
  """What one step of a method reads.

  Attributes:
    needs: Extra args that it cannot do without, in the order in which it reads
      them.
    optional: Extra args that it uses if they are there.
    gram: Whether it asks for inner products of the gradients: their Gram
      matrix, the one across two batches, or their lengths, or other numbers of
      each; else a step costs one backward pass with the implicit source.
    stacked: Whether it asks for the gradients themselves, all of them.
    weights: Whether it has weights.
    norms: Whether all that it asks of the inner products are the lengths, or
      other numbers of each gradient by itself.
    single: Whether it asks for the gradient of single tasks.
    sums: Whether a rule without weights asks for a weighted sum of the
      gradients, as the update of all others is one.
  """

  needs: tuple[str, ...]
  optional: tuple[str, ...]
  gram: bool
  stacked: bool
  weights: bool
  norms: bool = False
  single: bool = False
  sums: bool = False


class _Watched(StackedTaskGradients):
  """Stacked gradients that remember what they were asked for."""

  def __init__(self, tree: Any, num_tasks: int):
    super().__init__(tree, num_tasks)
    self.seen: set[str] = set()

  # What a source fills in, and not what a rule calls: a rule may see the
  # gradients through others, as scaled ones.

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    self.seen.add("gram")
    return super()._gram(mask)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    self.seen.add("norms")
    return super()._squared_norms(mask)

  def _map_measured(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    self.seen.add("norms")
    return super()._map_measured(fun, mask)

  def _gradient_of(self, task: jax.Array | int) -> Any:
    self.seen.add("single")
    return super()._gradient_of(task)

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    self.seen.add("sums")
    return super()._combine(weights, mask, head_weights, keep)

  def _cross_gram(
    self, other: TaskGradients, mask: Sequence[bool] | None
  ) -> jax.Array:
    self.seen.add("gram")
    return super()._cross_gram(other, mask)

  def stacked(self) -> Any:
    self.seen.add("stacked")
    return super().stacked()


def facts(
  method: optax.GradientTransformation, *, axis_name: str | None = None
) -> Facts:
  """Traces one step of a method and says what it read.

  Args:
    method: A method, as its function returns it. It is traced abstractly, so
      nothing is computed.
    axis_name: The axis that a rule gathers over which sees all solutions of a
      front; the step is traced under a `vmap` with that name. None: no `vmap`.

  Returns:
    What it read.

  Raises:
    TypeError: It is no method of this package, for instance a whole chain.
    NameError: The rule gathers over an axis, and `axis_name` does not say so.

  Example:
    >>> import optax_mtl
    >>> optax_mtl.facts(optax_mtl.gradnorm(2)).needs
    ('losses',)
    >>> optax_mtl.facts(optax_mtl.mgda(2)).gram
    True
  """
  if not isinstance(method, Method):
    raise TypeError(
      "facts takes a method as its function returns it, got "
      f"{type(method).__name__}."
    )
  num_tasks, rule = method.num_tasks, method.rule
  params = {"w": jnp.ones(2)}
  given: dict[str, Any] = {}
  while True:
    gradients = _Watched({"w": jnp.ones((num_tasks, 2))}, num_tasks)
    watched = WatchedArgs(given)

    def step(gradients: Any = gradients, watched: Any = watched) -> Any:
      step = Step(method.name, gradients, None, watched)
      if isinstance(rule, UpdateRule):
        return rule.update(step, rule.init(params))
      return rule.weigh(step, rule.observe(step, rule.init()))

    def member(_: jax.Array, step: Any = step) -> Any:
      return step()

    try:
      if axis_name is None:
        jax.eval_shape(step)
      else:
        jax.eval_shape(jax.vmap(member, axis_name=axis_name), jnp.zeros(2))
      break
    except MissingArgumentError as error:
      argument: ExtraArg[Any] = vars(Step)[error.argument]
      given[error.argument] = argument.sample(num_tasks)
  return Facts(
    needs=tuple(given),
    optional=tuple(sorted(watched.asked - given.keys())),
    gram=bool({"gram", "norms"} & gradients.seen),
    stacked="stacked" in gradients.seen,
    weights=not isinstance(rule, UpdateRule),
    norms="norms" in gradients.seen and "gram" not in gradients.seen,
    single="single" in gradients.seen,
    sums="sums" in gradients.seen,
  )
