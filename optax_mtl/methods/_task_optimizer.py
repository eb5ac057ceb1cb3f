"""An optimizer for one learnt number a task, run for each task by itself."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.wrappers.per_task import each_by_itself, per_task

_REFUSAL = (
  "combines the gradients of all tasks, and optimizer= is what learns one "
  "number a task: give it an optimizer of optax, such as optax.adam(0.025)."
)


class TaskOptimizer(NamedTuple):
  """An optimizer of an array [T], with a state for each task.

  One optimizer over the whole array would go on moving an absent task's number
  by its momentum, and count a step in its bias correction.

  Attributes:
    transformation: The optimizer, one instance a task.
  """

  transformation: optax.GradientTransformationExtraArgs

  def init(self) -> optax.OptState:
    """The first state, leaves [T, ...]."""
    return self.transformation.init(jnp.zeros((), solver_dtype()))

  def step(
    self, gradient: jax.Array, state: optax.OptState
  ) -> tuple[jax.Array, Any]:
    """The change of the numbers [T], and the next state."""
    change, state = self.transformation.update(gradient, state)
    return cast(jax.Array, change), state


def task_optimizer(
  optimizer: optax.GradientTransformation | None, num_tasks: int
) -> TaskOptimizer:
  """The user's optimizer; None: `optax.adam(0.025)`.

  The rate is the one that the GradNorm paper uses for such parameters, and the
  code of Nash-MTL and FAMO too.
  """
  inner = optax.adam(0.025) if optimizer is None else optimizer
  _checks.check_transformation("optimizer", inner)
  inner = each_by_itself(inner, _REFUSAL)
  return TaskOptimizer(per_task(inner, num_tasks))
