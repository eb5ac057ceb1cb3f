"""What a method reads, found by letting it read: nothing has to be declared."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl._rule import UpdateRule
from optax_mtl._step import ExtraArg, MissingArgumentError, Step
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
      matrix, the one across two batches, or their lengths; else a step costs
      one backward pass with the implicit source.
    stacked: Whether it asks for the gradients themselves, all of them.
    weights: Whether it has weights.
    norms: Whether all that it asks of the inner products are the lengths.
    single: Whether it asks for the gradient of single tasks.
  """

  needs: tuple[str, ...]
  optional: tuple[str, ...]
  gram: bool
  stacked: bool
  weights: bool
  norms: bool = False
  single: bool = False


class _Watched(StackedTaskGradients):
  """Stacked gradients that remember what they were asked for."""

  def __init__(self, tree: Any, num_tasks: int):
    super().__init__(tree, num_tasks)
    self.seen: set[str] = set()

  def gram(self, shared: Any = None, *, name: str = "shared") -> jax.Array:
    self.seen.add("gram")
    return super().gram(shared, name=name)

  def squared_norms(
    self, shared: Any = None, *, name: str = "shared"
  ) -> jax.Array:
    self.seen.add("norms")
    return super().squared_norms(shared, name=name)

  def gradient_of(self, task: ArrayLike) -> Any:
    self.seen.add("single")
    return super().gradient_of(task)

  def cross_gram(self, other: TaskGradients) -> jax.Array:
    self.seen.add("gram")
    return super().cross_gram(other)

  def stacked(self) -> Any:
    self.seen.add("stacked")
    return super().stacked()


class _WatchedArgs(Mapping[str, Any]):
  """Extra args that remember which of the absent ones were asked for."""

  def __init__(self, args: Mapping[str, Any]):
    self.args = args
    self.missed: set[str] = set()

  def get(self, key: str, default: Any = None) -> Any:
    if key not in self.args:
      self.missed.add(key)
    return self.args.get(key, default)

  def __getitem__(self, key: str) -> Any:
    return self.args[key]

  def __iter__(self) -> Iterator[str]:
    return iter(self.args)

  def __len__(self) -> int:
    return len(self.args)


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
    watched = _WatchedArgs(given)

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
    optional=tuple(sorted(watched.missed)),
    gram=bool({"gram", "norms"} & gradients.seen),
    stacked="stacked" in gradients.seen,
    weights=not isinstance(rule, UpdateRule),
    norms="norms" in gradients.seen and "gram" not in gradients.seen,
    single="single" in gradients.seen,
  )
