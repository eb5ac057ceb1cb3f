"""Checks made while tracing, and the messages that teach."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from optax_mtl._dtypes import solver_dtype
from optax_mtl._tree_checks import check_inexact as check_inexact
from optax_mtl._tree_checks import check_stacked as check_stacked
from optax_mtl._tree_checks import leaf_name as leaf_name
from optax_mtl._tree_checks import resolve_mask as resolve_mask
from optax_mtl._value_checks import check_not_negative as check_not_negative
from optax_mtl._value_checks import check_preference as check_preference
from optax_mtl._value_checks import check_values as check_values

#: One value a task: an array [T], a sequence, or a dict by the tasks' names.
TaskValues = ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike]


def is_python_number(value: Any) -> bool:
  """True where a check may look at the value: hyperparameters can be traced."""
  return isinstance(value, (bool, int, float, np.number))


def is_known(value: Any, number: float) -> bool:
  """Whether it is a Python number, and that one."""
  return is_python_number(value) and value == number


def check_num_tasks(num_tasks: Any) -> int:
  """Returns `num_tasks` as an int, or raises."""
  if isinstance(num_tasks, (jax.Array, bool)) or not isinstance(
    num_tasks, (int, np.integer)
  ):
    raise TypeError(
      f"num_tasks must be a Python int, got {type(num_tasks).__name__}. It "
      "fixes shapes, so it cannot be traced: under `optax.inject_hyperparams` "
      "pass static_args=('num_tasks',)."
    )
  if num_tasks < 1:
    raise ValueError(f"num_tasks must be at least 1, got {num_tasks}.")
  return int(num_tasks)


def check_bounds(name: str, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
  """The two ends of an interval; raises if it is known to be empty."""
  low, high = bounds
  if is_python_number(low) and is_python_number(high) and low >= high:
    raise ValueError(f"{name} must be (low, high) with low < high: {bounds}.")
  return low, high


def check_range(
  name: str,
  value: Any,
  low: float = -np.inf,
  high: float = np.inf,
  *,
  open_low: bool = False,
  open_high: bool = False,
) -> None:
  """Raises if a Python number lies outside an interval; tracers pass."""
  if isinstance(value, (str, bytes, complex, np.complexfloating)):
    raise TypeError(f"{name} must be a real number, got {value!r}.")
  if not is_python_number(value):
    return
  above = value > low if open_low else value >= low
  below = value < high if open_high else value <= high
  if not (above and below):
    interval = (
      f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    )
    raise ValueError(f"{name} must lie in {interval}, got {value}.")


def check_whole(name: str, value: Any, low: float = -np.inf) -> None:
  """Raises if a Python number is no whole number from `low` on.

  Such a number may be traced, unlike one of `check_int`; 1.5 would be cut to 1.
  """
  check_range(name, value, low)
  if is_python_number(value) and value != np.floor(value):
    raise ValueError(f"{name} must be a whole number, got {value}.")


def check_seed(name: str, value: Any) -> None:
  """Raises unless it is one integer; a traced one passes, as in a `vmap`."""
  dtype = getattr(value, "dtype", None)
  if dtype is None and type(value) is int:
    return
  if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or value.ndim:
    got = repr(value) if dtype is None else f"{dtype}{list(value.shape)}"
    raise TypeError(f"{name} must be an integer, got {got}.")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
  """Raises unless the value is one of the choices."""
  if value not in choices:
    raise ValueError(
      f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}."
    )


def check_int(name: str, value: Any, low: int, high: int) -> None:
  """Raises unless the value is a Python int from `low` to `high`."""
  if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
    raise TypeError(
      f"{name} must be a Python int, got {type(value).__name__}. It fixes "
      f"shapes, so it cannot be traced: under `optax.inject_hyperparams` add "
      f"{name!r} to static_args."
    )
  check_range(name, value, low, high)


def check_transformation(argument: str, tx: Any) -> None:
  """Raises unless it is an optax transformation that was built."""
  if not (hasattr(tx, "init") and hasattr(tx, "update")):
    got = (
      f"the function {getattr(tx, '__name__', '')!r} that makes one: call it"
      if callable(tx)
      else f"{tx!r}"
    )
    raise TypeError(
      f"{argument} must be an optax transformation, such as "
      f"optax_mtl.mgda(num_tasks) or optax.adam(1e-3); got {got}."
    )


def check_extra_arg(argument: str, name: Any) -> None:
  """Raises unless `name` can be the name of an extra arg of an update."""
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError(
      f"{argument} must be the name of an extra arg, such as 'losses', got "
      f"{name!r}."
    )
  if name in ("updates", "state", "params"):
    raise ValueError(
      f"{argument} got {name!r}, which is an argument of every update and no "
      "extra arg."
    )


def stack_scalars(value: Any, name: str) -> jax.Array:
  """One array [T] from an array [T], a sequence or a dict of scalars.

  A dict is read in the order in which JAX flattens it, that is by sorted key:
  the order that a dict returned from a jitted function has anyway.

  Args:
    value: Array [T], sequence of scalars, or mapping from name to scalar.
    name: What to call it in an error.

  Returns:
    The array [T], in the inputs' highest dtype.

  Raises:
    TypeError: It is None, or holds something that is not a number.
    ValueError: It is a scalar or has more than one axis, or a member of the
      sequence or mapping is not a scalar.
  """
  if isinstance(value, Mapping):
    members = [(f"{name}[{key!r}]", value[key]) for key in sorted(value)]
  elif isinstance(value, (list, tuple)):
    members = [(f"{name}[{i}]", member) for i, member in enumerate(value)]
  else:
    try:
      array = jnp.asarray(value)
    except (TypeError, ValueError) as error:  # The latter for None.
      raise TypeError(
        f"{name} must be an array [num_tasks], a sequence or a dict of "
        f"scalars, got {type(value).__name__}."
      ) from error
    if array.ndim != 1:
      raise ValueError(
        f"{name} must have shape [num_tasks], got {list(array.shape)}. Reduce "
        "each task's loss to a scalar and stack the scalars."
        if name == "losses"
        else f"{name} must have shape [num_tasks], got {list(array.shape)}."
      )
    return array
  if not members:
    raise ValueError(f"{name} is empty: there must be one scalar per task.")
  arrays = []
  for label, member in members:
    try:
      arrays.append(jnp.asarray(member))
    except (TypeError, ValueError) as error:
      raise TypeError(
        f"{label} must be a scalar, got {type(member).__name__}."
      ) from error
    if arrays[-1].ndim:
      raise ValueError(
        f"{label} must be a scalar, got shape {list(arrays[-1].shape)}. "
        "Reduce it, for instance with its mean."
      )
  # Promoted by hand, since strict promotion refuses to mix dtypes.
  dtype = arrays[0].dtype
  for array in arrays[1:]:
    with jax.numpy_dtype_promotion("standard"):
      dtype = jnp.promote_types(dtype, array.dtype)
  return jnp.stack([array.astype(dtype) for array in arrays])


def task_number(value: Any, num_tasks: int) -> jax.Array | int:
  """The number of one task: an int, or a scalar int32 that is clipped.

  Args:
    value: An int, or a scalar int array.
    num_tasks: The number of tasks `T`.

  Returns:
    An int or a scalar int32 from 0 to T - 1.

  Raises:
    TypeError: It is no integer, or no scalar.
    ValueError: It is an int outside of that range.
  """
  array = jnp.asarray(value)
  if not jnp.issubdtype(array.dtype, jnp.integer) or array.ndim:
    raise TypeError(
      "task must be a scalar int, the number of one task, got "
      f"{array.dtype}{list(array.shape)}."
    )
  if is_python_number(value):
    if not 0 <= value < num_tasks:
      raise ValueError(
        f"task must lie in [0, {num_tasks - 1}], one of the {num_tasks} tasks, "
        f"got {value}."
      )
    return int(value)
  return jnp.clip(array, 0, num_tasks - 1).astype(jnp.int32)


def task_vector(value: Any, num_tasks: int, name: str) -> jax.Array:
  """A per-task argument as an array [num_tasks] in the solver's dtype."""
  array = stack_scalars(value, name)
  if array.shape != (num_tasks,):
    raise ValueError(
      f"{name} must hold one value for each of the {num_tasks} tasks, got "
      f"{array.shape[0]}."
    )
  if jnp.issubdtype(array.dtype, jnp.complexfloating):
    raise TypeError(f"{name} must hold real numbers, got {array.dtype}.")
  return array.astype(solver_dtype())


class TaskArgument(NamedTuple):
  """One value a task, as an argument of a method gave it.

  Attributes:
    values: Array [T] in the solver's dtype.
    names: The tasks' names, if a dict was given.
    argument: What errors call it.
  """

  values: jax.Array
  names: tuple[str, ...] | None
  argument: str


def _known_numbers(value: TaskValues) -> list[Any]:
  """Those of one value a task at which a check may look."""
  if isinstance(value, Mapping):
    members: Any = value.values()
  elif isinstance(value, np.ndarray):
    members = value.ravel()
  else:
    members = value if isinstance(value, (list, tuple)) else ()
  return [member for member in members if is_python_number(member)]


def task_argument(
  value: TaskValues, num_tasks: int, argument: str
) -> TaskArgument:
  """An argument of a method that holds one value a task, checked.

  A rule reads it with `step.given`, which compares the tasks' names, where it
  was given as a dict, with those of the update.

  Args:
    value: Array [T], a sequence of scalars in the order of the rows, or a dict
      of scalars by the tasks' names.
    num_tasks: The number of tasks `T`.
    argument: The argument's name, for errors.

  Returns:
    The values [T] in the solver's dtype, and the names.

  Raises:
    TypeError: It holds something that is not a number.
    ValueError: It does not hold T scalars, or one of them is not finite.

  Example:
    >>> import optax_mtl
    >>> given = optax_mtl.task_argument({"b": 2.0, "a": 1.0}, 2, "weights")
    >>> print(given.values, given.names)
    [1. 2.] ('a', 'b')
  """
  for number in _known_numbers(value):
    if not np.isfinite(number):
      raise ValueError(f"{argument} must hold finite numbers, got {number}.")
  values = task_vector(value, num_tasks, argument)
  return TaskArgument(values, task_names(value), argument)


def number_or_task_argument(
  value: TaskValues, num_tasks: int, argument: str
) -> TaskArgument:
  """As `task_argument`, where one number stands for the same for each task."""
  if not isinstance(value, (Sequence, Mapping)) and jnp.ndim(value) == 0:
    check_range(argument, value)
    value = jnp.full((num_tasks,), value, solver_dtype())
  return task_argument(value, num_tasks, argument)


def task_names(value: Any) -> tuple[str, ...] | None:
  """The tasks' names, if `value` is a dict: its keys in the rows' order."""
  if not isinstance(value, Mapping):
    return None
  return tuple(str(key) for key in sorted(value))


def common_names(
  named: Mapping[str, tuple[str, ...] | None],
) -> tuple[str, ...] | None:
  """The names that all agree on who have any; raises where they differ.

  Args:
    named: What the names were found at -> the names, or None.

  Returns:
    The names; None if there are none.

  Raises:
    ValueError: Two of them differ.
  """
  known = [(where, names) for where, names in named.items() if names]
  for where, names in known[1:]:
    if names != known[0][1]:
      raise ValueError(
        f"The tasks have different names: {', '.join(known[0][1])} in "
        f"{known[0][0]}, but {', '.join(names)} in {where}. Use the same names "
        "everywhere, or sequences in the order of the sorted names."
      )
  return known[0][1] if known else None


def check_names(
  given: TaskArgument, names: tuple[str, ...] | None, method: str
) -> None:
  """Raises unless an argument that was given by name fits the tasks' names."""
  if given.names is None:
    return
  if names is None:
    raise ValueError(
      f"{method} was given {given.argument}= by name "
      f"({', '.join(given.names)}), but this update has no names to compare "
      "with: pass losses= as the dict that the loss function returned, or give "
      f"{given.argument} as a sequence in the order of the rows."
    )
  if names != given.names:
    raise ValueError(
      f"{method} was given {given.argument}= for the tasks "
      f"{', '.join(given.names)}, but the tasks are {', '.join(names)}."
    )


def task_mask(value: Any, num_tasks: int, name: str) -> jax.Array:
  """A per-task mask as an array [num_tasks] of bool."""
  array = stack_scalars(value, name)
  if array.dtype != jnp.bool_:
    raise TypeError(f"{name} must be bool, got {array.dtype}.")
  if array.shape != (num_tasks,):
    raise ValueError(
      f"{name} must hold one bool for each of the {num_tasks} tasks, got "
      f"{array.shape[0]}."
    )
  return array
