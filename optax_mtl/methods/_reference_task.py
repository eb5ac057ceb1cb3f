"""One task that the others are measured by: an argument, by index or name."""

from typing import Any

import numpy as np

from optax_mtl._step import Step


def check_reference_task(value: Any, num_tasks: int, argument: str) -> None:
  """Raises unless the value is a row's index, or may be a task's name.

  Names are known only once there is an update: `reference_task` compares them.

  Args:
    value: What the user gave.
    num_tasks: The number of tasks `T`.
    argument: What errors call it.

  Raises:
    TypeError: It is neither an int nor a string.
    ValueError: There is no such row.
  """
  if isinstance(value, str):
    return
  if isinstance(value, (bool, np.bool_)) or not isinstance(
    value, (int, np.integer)
  ):
    raise TypeError(
      f"{argument} must be the index of a task's row, or a task's name; got "
      f"{value!r}."
    )
  if not 0 <= value < num_tasks:
    raise ValueError(
      f"{argument} must be the index of one of the {num_tasks} tasks, 0 to "
      f"{num_tasks - 1}; got {value}."
    )


def reference_task(
  value: int | str, step: Step, argument: str, others: tuple[str, ...] = ()
) -> int:
  """The row of the task that the argument names.

  Args:
    value: A row's index, or a task's name.
    step: The step, which knows the names.
    argument: What errors call it.
    others: What else the argument may be, for errors.

  Returns:
    The row's index.

  Raises:
    ValueError: No task has that name, or the update has no names.
  """
  if not isinstance(value, str):
    return int(value)
  also = f", and it is none of {', '.join(others)}" if others else ""
  if step.names is None:
    raise ValueError(
      f"{step.method} was given {argument}={value!r}, a task's name{also}. "
      "This update has no names to compare with: pass losses= as the dict that "
      f"the loss function returned, or give {argument} as the row's index."
    )
  if value not in step.names:
    raise ValueError(
      f"{step.method} was given {argument}={value!r}, but the tasks are "
      f"{', '.join(step.names)}{also}."
    )
  return step.names.index(value)
