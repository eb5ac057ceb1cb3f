"""What each task counts in a mean: the argument `preference`."""

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._step import Step


def check_preference(
  preference: _checks.TaskValues | None, num_tasks: int
) -> _checks.TaskArgument | None:
  """The argument as one value a task, or None.

  Raises:
    ValueError: A known number is negative, or all are zero: nothing would be
      trained.
  """
  if preference is None:
    return None
  given = _checks.task_argument(preference, num_tasks, "preference")
  _checks.check_preference(given.values, "preference")
  return given


def task_shares(
  preference: _checks.TaskArgument | None, step: Step
) -> jax.Array:
  """What each task counts: the preference, or 1/T each.

  The active tasks share among them what the absent ones leave, in proportion:
  a preference of 1/T each is no different from none.

  A traced preference counts as 0 where it is negative, and as none where no
  active task has a positive one.

  Args:
    preference: As `check_preference` returns it.
    step: The step.

  Returns:
    Array [T], 0 for tasks that take no part.
  """
  if preference is None:
    return step.active.astype(solver_dtype()) / step.num_active
  given = jnp.maximum(step.given(preference), 0)
  # With nothing at all there is no preference.
  given = jnp.where(jnp.sum(given) == 0, 1.0 / step.num_tasks, given)
  present = step.only_active(given)
  total = jnp.sum(present)
  # Nothing to share where those that are there count nothing.
  factor = jnp.where(total == 0, 1.0, jnp.sum(given))
  return present * (factor / jnp.where(total == 0, 1.0, total))


def preference_of(
  preference: _checks.TaskArgument | None, step: Step
) -> jax.Array | None:
  """What each task counts where the sum matters: nothing is shared.

  A preference that comes with the update takes the place of the argument.

  Args:
    preference: As `check_preference` returns it.
    step: The step.

  Returns:
    Array [T], not negative; None: the same for each.

  Raises:
    ValueError: A known number of the update's is negative.
  """
  if step.has("preference"):
    why = "since it says what each task counts"
    _checks.check_not_negative(step.preference, "preference=", why)
    return jnp.maximum(step.preference, 0)
  if preference is None:
    return None
  return jnp.maximum(step.given(preference), 0).astype(solver_dtype())
