"""A task whose gradient is not finite sits out one step."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks
from optax_mtl._step import RefusedArg
from optax_mtl._transformation import View
from optax_mtl.sources.stacked import as_task_gradients
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.wrappers._wrapped import seen_through

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)

#: Extra args whose numbers a method takes as they come.
_JUDGED = ("losses", "traces")


def drop_nonfinite(inner: _Transformation) -> _Transformation:
  """Takes a task whose gradient, loss or trace is not finite for an absent one.

  So it does with one whose gradient in the second batch is not, for methods
  that read one.

  For one step: its weight is 0 then, it takes no part in any mean, minimum or
  solve, and its state stands still. The others go on. To leave out the whole
  step instead, see `optax_mtl.skip_nonfinite`.

  It judges the gradients as they come: where one backward pass serves several
  losses, a NaN in one derivative may have spoilt the gradients of all; see
  `optax_mtl.value_and_task_grads`. A KPI of NaN is a missing one, and no reason
  to drop a task. With a source that stores nothing, looking costs T backward
  passes.

  Args:
    inner: A method, or anything that begins with one.

  Returns:
    The transformation, with the same state and update arguments.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.drop_nonfinite(optax_mtl.mgda(num_tasks=2))
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [jnp.nan, 2.0]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates, state.weights)
    [1. 0.] [1. 0.]
  """
  return seen_through(inner, View(_finite_tasks), "drop_nonfinite")


def _finite_tasks(
  gradients: TaskGradients,
  active: jax.Array | None,
  extra_args: Mapping[str, Any],
) -> tuple[TaskGradients, jax.Array]:
  keep = gradients.finite()
  for name in _JUDGED:
    if (value := extra_args.get(name)) is not None:
      value = _checks.task_vector(value, gradients.num_tasks, name)
      keep &= jnp.isfinite(value)
  second = extra_args.get("second_grads")
  if second is not None and not isinstance(second, RefusedArg):
    keep &= as_task_gradients(second, gradients.num_tasks, None).finite()
  if active is not None:
    keep &= _checks.task_mask(active, gradients.num_tasks, "active")
  return gradients, keep
