"""One task that the others are measured by: an argument, by index or name."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._step import Step


def row_of_task_0(tasks: Sequence[int]) -> int:
  """Its row among these task numbers, for a method's example; 0 without it."""
  return list(tasks).index(0) if 0 in tasks else 0


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
  dtype = getattr(value, "dtype", type(value))
  if jnp.ndim(value) or not jnp.issubdtype(dtype, jnp.integer):
    raise TypeError(
      f"{argument} must be the index of a task's row, or a task's name; got "
      f"{value!r}."
    )
  if _checks.is_python_number(value) and not 0 <= value < num_tasks:
    raise ValueError(
      f"{argument} must be the index of one of the {num_tasks} tasks, 0 to "
      f"{num_tasks - 1}; got {value}."
    )


def reference_task(
  value: int | str, step: Step, argument: str, others: tuple[str, ...] = ()
) -> jax.Array | int:
  """The row of the task that the argument names.

  Args:
    value: A row's index, or a task's name.
    step: The step, which knows the names.
    argument: What errors call it.
    others: What else the argument may be, for errors.

  Returns:
    The row's index: an int, or a scalar int32 of a traced hyperparameter.

  Raises:
    ValueError: No task has that name, or the update has no names.
  """
  if not isinstance(value, str):
    return jnp.asarray(_checks.task_number(value, step.num_tasks), jnp.int32)
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


def all_but(row: jax.Array | int, step: Step) -> jax.Array:
  """The tasks that take part, without that of one row: array [T] of bool."""
  return step.active & (jnp.arange(step.num_tasks, dtype=jnp.int32) != row)
