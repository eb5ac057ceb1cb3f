"""A method for some of the tasks, and fixed weights for the others."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.wrappers._wrapped import change_weights

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)


def on_tasks(
  inner: _Transformation,
  tasks: Sequence[int] | Sequence[str],
  others: _checks.TaskValues = 1.0,
) -> _Transformation:
  """Lets a method weigh some of the tasks; the others have fixed weights.

  The method is built for all tasks, and sees the others as absent ones: it
  weighs as if they did not exist. Its weights sum to what they do for that many
  tasks.

  Args:
    inner: A method of this package, or other wrappers around one. Where it
      limits the norm of its update, the limit is on the whole update.
    tasks: The tasks that the method weighs: the numbers of their rows, or their
      names.
    others: The weights of the other tasks: a number (default 1), a sequence in
      the order of their rows, or a dict by their names.

  Returns:
    The transformation, with the same update arguments.

  Raises:
    TypeError: `inner` is no method, or has no weights, or `tasks` holds
      something that is neither.
    ValueError: There is no such task, one is there twice, or `others` does not
      fit the other tasks.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.on_tasks(optax_mtl.mgda(3), [0, 1], others=10.0)
    >>> state = tx.init(jnp.zeros(3))
    >>> updates, state = tx.update(jnp.diag(jnp.array([1.0, 2.0, 1.0])), state)
    >>> print(updates.round(3), state.weights.round(3))
    [ 0.8  0.4 10. ] [ 0.8  0.2 10. ]
  """
  chosen = _chosen(tasks)

  def change(num_tasks: int, rule: WeightRule[Any]) -> WeightRule[Any]:
    for task in chosen:
      if not isinstance(task, str) and not 0 <= task < num_tasks:
        raise ValueError(
          f"on_tasks got task {task}, but the tasks are 0 to {num_tasks - 1}."
        )
    fixed = _fixed(others, num_tasks - len(chosen))

    def split(step: Step) -> tuple[Step, np.ndarray]:
      """The step that the method sees, and which tasks are its, [T]."""
      mine = np.zeros((num_tasks,), np.bool_)
      mine[[_row(task, step) for task in chosen]] = True
      return dataclasses.replace(step, keep=step.active & mine), mine

    def observe(step: Step, memory: Any) -> Any:
      return rule.observe(split(step)[0], memory)

    def weigh(step: Step, memory: Any) -> tuple[jax.Array, Any]:
      seen, mine = split(step)
      weights, memory = rule.weigh(seen, memory)
      weights = seen.only_active(weights.astype(solver_dtype()))
      if isinstance(others, Mapping):
        _check_names(others, mine, step)
      rows = np.flatnonzero(~mine)
      return weights.at[rows].set(fixed.astype(weights.dtype)), memory

    return WeightRule(weigh, rule.init, observe, rule.max_norm)

  return change_weights(inner, change, "on_tasks")


def _chosen(tasks: Any) -> tuple[int | str, ...]:
  """The tasks, checked as far as they can be without an update."""
  kinds = (int, np.integer, str)
  if isinstance(tasks, str) or not isinstance(tasks, Sequence):
    raise TypeError(
      f"on_tasks needs a sequence of tasks, got {type(tasks).__name__}."
    )
  for task in tasks:
    if isinstance(task, bool) or not isinstance(task, kinds):
      raise TypeError(
        "on_tasks needs the numbers of the tasks' rows, or their names, got "
        f"{type(task).__name__}."
      )
  if not tasks or len(set(tasks)) != len(tasks):
    raise ValueError(
      f"on_tasks needs at least one task, and each once, got {list(tasks)}."
    )
  return tuple(tasks)


def _fixed(others: _checks.TaskValues, number: int) -> jax.Array:
  """The weights of the other tasks, in the order of their rows."""
  if number < 1:
    raise ValueError(
      "on_tasks got all of the tasks, so that no others have fixed weights. "
      "Leave it out."
    )
  return _checks.number_or_task_argument(others, number, "others").values


def _row(task: int | str, step: Step) -> int:
  """The row of a task, by number or name."""
  if not isinstance(task, str):
    return int(task)
  names = step.names
  if names is None:
    raise ValueError(
      f"on_tasks was given {task!r} by name, but this update has no names to "
      "find it in: pass losses= as the dict that the loss function returned, "
      "or give the number of its row."
    )
  if task not in names:
    raise ValueError(
      f"on_tasks was given {task!r}, but the tasks are {', '.join(names)}."
    )
  return names.index(task)


def _check_names(
  others: Mapping[str, Any], mine: np.ndarray, step: Step
) -> None:
  """Raises unless `others=` names those tasks that are not the method's."""
  names = step.names
  left = names
  if names is not None:
    left = tuple(names[row] for row in np.flatnonzero(~mine))
  given = _checks.TaskArgument(
    jnp.zeros(()), _checks.task_names(others), "others"
  )
  _checks.check_names(given, left, "on_tasks")
