"""What one call of `update` tells a rule."""

import abc
import dataclasses
import difflib
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp

from optax_mtl import _checks, _jax_internals, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl.sources.at_representation import AtRepresentation
from optax_mtl.sources.stacked import as_task_gradients
from optax_mtl.sources.task_gradients import TaskGradients

_Tree = TypeVar("_Tree")
_Value = TypeVar("_Value")


#: How alike two names are of which one is a slip: `actve` is .91 like `active`,
#: `loss` .8 like `losses`; `activation` is .75 like `active`, and means another
#: thing.
_ALIKE = 0.78


def near_name(name: str, given: Iterable[str]) -> str | None:
  """The one of the names that is nearest to another one; None: none is near."""
  near = difflib.get_close_matches(name, list(given), n=1, cutoff=_ALIKE)
  return near[0] if near else None


class MissingArgumentError(TypeError):
  """An update came without an extra arg that the rule reads.

  Attributes:
    method: The method's name.
    argument: The name of the extra arg.
    reason: Why it is needed.
  """

  def __init__(
    self, method: str, argument: str, reason: str, given: Iterable[str] = ()
  ):
    """See the attributes; `given` are the names of what the update has."""
    near = near_name(argument, given)
    super().__init__(
      f"{method} needs {argument}= with every update: {reason}. Call "
      f"tx.update(grads, state, params, {argument}={argument})."
      + (f" This one has {near}=: is that what was meant?" if near else "")
    )
    self.method, self.argument, self.reason = method, argument, reason


class WatchedArgs(Mapping[str, Any]):
  """Extra args that remember which of them were asked for, there or not.

  Attributes:
    args: The extra args, as they came.
    asked: The names that were looked up; going over all `items` is no look.
  """

  def __init__(self, args: Mapping[str, Any]):
    """See the attributes."""
    self.args = args
    self.asked: set[str] = set()

  def __getitem__(self, key: str) -> Any:
    self.asked.add(key)
    return self.args[key]

  def __iter__(self) -> Iterator[str]:
    return iter(self.args)

  def __len__(self) -> int:
    return len(self.args)

  def items(self) -> ItemsView[str, Any]:
    """The pairs of names and values."""
    return self.args.items()

  @classmethod
  def changed(cls, args: Mapping[str, Any], **changes: Any) -> "WatchedArgs":
    """`args` with some replaced; what is asked of either is asked of both."""
    new = cls({**dict(args.items()), **changes})
    if isinstance(args, WatchedArgs):
      new.asked = args.asked
    return new


class RefusedArg(NamedTuple):
  """Stands in the place of an extra arg that a wrapper cannot hand on.

  Attributes:
    reason: What the error says where a rule reads it.
  """

  reason: str


class ExtraArg(abc.ABC, Generic[_Value]):
  """An extra arg of the update, read as `step.<name>`; reading it is needing.

  One line of `Step` declares one. An update that came without it fails where
  the rule reads it, with the reason; `step.has(name)` makes it optional.
  """

  name: str

  def __init__(self, reason: str):
    self.reason = reason

  def __set_name__(self, owner: type, name: str) -> None:
    self.name = name

  @overload
  def __get__(self, step: None, owner: type) -> "ExtraArg[_Value]": ...
  @overload
  def __get__(self, step: "Step", owner: type) -> _Value: ...

  def __get__(
    self, step: "Step | None", owner: type
  ) -> "ExtraArg[_Value] | _Value":
    if step is None:
      return self
    if not step.has(self.name):
      raise MissingArgumentError(
        step.method, self.name, self.reason, step.extra
      )
    value = step.extra[self.name]
    if isinstance(value, RefusedArg):
      raise TypeError(value.reason)
    return self.read(step, value)

  @abc.abstractmethod
  def read(self, step: "Step", value: Any) -> _Value:
    """The value as a rule gets it, checked."""

  @abc.abstractmethod
  def sample(self, num_tasks: int) -> Any:
    """A value to trace a rule with."""


class TaskArg(ExtraArg[jax.Array]):
  """One number a task: an array [T] in the solver's dtype, 0 where absent."""

  def read(self, step: "Step", value: Any) -> jax.Array:
    vector = _checks.task_vector(value, step.num_tasks, self.name)
    return step.only_active(vector)

  def sample(self, num_tasks: int) -> jax.Array:
    return jnp.ones((num_tasks,))


class GradientsArg(ExtraArg[TaskGradients]):
  """Task gradients of another batch, from whatever source."""

  def read(self, step: "Step", value: Any) -> TaskGradients:
    return as_task_gradients(value, step.num_tasks)

  def sample(self, num_tasks: int) -> Any:
    return {"w": jnp.ones((num_tasks, 2))}


@dataclasses.dataclass(frozen=True)
class Step:
  """What one call of `update` tells a rule.

  Attributes:
    losses: Array [T], the extra arg `losses=`.
    kpis: Array [T], the extra arg `kpis=`.
    preference: Array [T], the extra arg `preference=`.
    previous_losses: Array [T], the extra arg `previous_losses=`: the losses of
      the last batch after the last update.
    traces: Array [T], the extra arg `traces=`: of the neural tangent kernels of
      the tasks' residuals.
    second_grads: `TaskGradients`, the extra arg `second_grads=`.
    weights: Array [T], the extra arg `weights=`: weights of the user's own.
    method: The method's name, for errors.
    gradients: The task gradients, wherever they come from.
    keep: Array [T] of bool, the tasks that take part; None: all.
    extra: The extra args of the update, as they came.
  """

  losses = TaskArg("the weights are computed from the task losses")
  kpis = TaskArg(
    "the weights are computed from the tasks' key performance indicators"
  )
  preference = TaskArg("it says which solution on the Pareto front is wanted")
  previous_losses = TaskArg(
    "the weights learn from what the last update did to the losses of its batch"
  )
  traces = TaskArg(
    "the weights come from the traces of the residuals' neural tangent "
    "kernels, as optax_mtl.ntk_traces computes them"
  )
  second_grads = GradientsArg(
    "two independent batches make an unbiased estimate of the Gram matrix"
  )
  weights = TaskArg("it was built without weights of its own")

  method: str
  gradients: TaskGradients
  keep: jax.Array | None
  extra: Mapping[str, Any]

  @property
  def num_tasks(self) -> int:
    """The number of tasks `T`."""
    return self.gradients.num_tasks

  @property
  def active(self) -> jax.Array:
    """Array [T] of bool: tasks that take part."""
    if self.keep is None:
      return jnp.ones((self.num_tasks,), jnp.bool_)
    return self.keep

  @property
  def num_active(self) -> jax.Array:
    """How many tasks take part, a scalar in the solver's dtype; at least 1."""
    return jnp.maximum(jnp.sum(self.active.astype(solver_dtype())), 1)

  @property
  def names(self) -> tuple[str, ...] | None:
    """The tasks' names where something that the update got has them."""
    named = {"the task gradients": self.gradients.names}
    for name, value in self.extra.items():
      if isinstance(vars(type(self)).get(name), TaskArg):
        named[f"{name}="] = _checks.task_names(value)
    return _checks.common_names(named)

  def has(self, name: str) -> bool:
    """Whether the update was given this extra arg."""
    return self.extra.get(name) is not None

  def given(self, argument: _checks.TaskArgument) -> jax.Array:
    """A method's argument with one value a task [T]; its names must fit."""
    _checks.check_names(argument, self.names, self.method)
    return argument.values

  def only_active(self, values: jax.Array) -> jax.Array:
    """`values` [T, ...] with 0 for tasks that take no part."""
    if self.keep is None:
      return values
    return linalg.choose(self.keep, values)

  def mean(self, values: jax.Array) -> jax.Array:
    """The mean over the tasks that take part, a scalar."""
    total = jnp.sum(jnp.where(self.active, values, jnp.zeros_like(values)))
    return total / self.num_active

  def hold(
    self, new: _Tree, old: _Tree, learns: jax.Array | None = None
  ) -> _Tree:
    """`new` for tasks that take part, `old` for the others, leaf by leaf.

    Args:
      new: Tree of arrays [T, ...].
      old: Tree of arrays [T, ...].
      learns: Array [T] of bool, which tasks get the new value. None: the active
        ones.

    Returns:
      A tree of arrays [T, ...].
    """
    return linalg.choose(self.active if learns is None else learns, new, old)

  def gram(self, leaves: Any = None, name: str = "leaves") -> jax.Array:
    """The Gram matrix [T, T], with 0 for tasks that take no part.

    Args:
      leaves: Which leaves to take it over: a pytree prefix of bools, or a
        callable from the params to one. None: all that the method sees.
      name: What to call `leaves` in an error.

    Returns:
      Array [T, T] in the solver's dtype.
    """
    gram = self.gradients.gram(leaves, name=name)
    return self._both_active(_jax_internals.column_major(gram))

  def norms(self, leaves: Any = None, name: str = "leaves") -> jax.Array:
    """The lengths of the gradients [T], with 0 for tasks that take no part.

    Without what the rest of the Gram matrix costs: with the implicit source T
    backward passes, and none forward.

    Args:
      leaves: Which leaves to take them over, as for `gram`.
      name: What to call `leaves` in an error.

    Returns:
      Array [T] in the solver's dtype.
    """
    squares = self.gradients.squared_norms(leaves, name=name)
    return jnp.sqrt(self.only_active(squares))

  def map_gradients(
    self,
    fun: Callable[[list[jax.Array]], Any],
    leaves: Any = None,
    name: str = "leaves",
  ) -> Any:
    """A function of each gradient by itself, with 0 for absent tasks.

    For numbers of a gradient's entries, as their largest. It costs what `norms`
    costs: nothing is stacked that the source does not hold.

    Args:
      fun: Function from one gradient, a list of its leaves, to a pytree of
        arrays.
      leaves: Which leaves it is given, as for `gram`.
      name: What to call `leaves` in an error.

    Returns:
      What it returned for each task, leaves [T, ...].
    """
    rows = self.gradients.map_gradients(fun, leaves, name=name)
    return jax.tree.map(self.only_active, rows)

  def cross_gram(self) -> jax.Array:
    """Products with the second batch's gradients, [T, T], 0 where absent.

    Returns:
      Array [T, T] in the solver's dtype; entry (s, t) is the product of task
      s's gradient with task t's in `second_grads`.
    """
    return self._both_active(self.gradients.cross_gram(self.second_grads))

  def stacked(self) -> Any:
    """The gradients, leaves [T, *shape], with 0 for tasks that take no part."""
    return jax.tree.map(self.only_active, self.gradients.stacked())

  def at_representation(self) -> AtRepresentation | None:
    """The trunk's output and the gradients there, 0 for absent tasks.

    For methods whose paper changes what is pulled back through the trunk.

    Returns:
      What the representation source has; None with any other source.
    """
    there = self.gradients.at_representation()
    if there is None:
      return None
    rows = jax.tree.map(self.only_active, there.gradients)
    return there._replace(gradients=rows)

  def _both_active(self, matrix: jax.Array) -> jax.Array:
    if self.keep is None:
      return matrix
    both = self.keep[:, None] & self.keep[None, :]
    return jnp.where(both, matrix, jnp.zeros_like(matrix))
