"""One instance of a transformation for every task."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks, _placement, linalg
from optax_mtl.sources.stacked import StackedTaskGradients
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.wrappers._wrapped import method_in

_REFUSAL = (
  "combines the gradients of all tasks, and stands inside of per_task, which "
  "gives it that of one task at a time. Put it after: optax.chain("
  "per_task(optax.clip_by_global_norm(1.0), num_tasks), method)."
)


def each_by_itself(
  inner: optax.GradientTransformation, refusal: str
) -> optax.GradientTransformationExtraArgs:
  """A transformation of one gradient, in which no method may stand.

  Args:
    inner: The transformation.
    refusal: What the error says of a method that does, after its name.

  Returns:
    The transformation, whose `init` refuses a method in a chain.

  Raises:
    TypeError: It is a method, or wrappers around one.
  """
  method = method_in(inner)
  if method is not None:
    raise TypeError(f"{method.name} {refusal}")
  inner_tx = optax.with_extra_args_support(inner)

  def init(params: Any) -> Any:
    with _placement.looking_on(refusal):
      return inner_tx.init(params)

  return optax.GradientTransformationExtraArgs(init, inner_tx.update)


def per_task(
  inner: optax.GradientTransformation, num_tasks: int
) -> optax.GradientTransformationExtraArgs:
  """Runs a transformation on each task's gradient, with a state for each.

  Before a method in the chain it gives per-task clipping, momentum or Adam
  preconditioning, as in AdaTask and MTAdam. It needs the gradients themselves,
  so the source has to be "stacked" and must not have been told of a trunk; put
  `optax_mtl.on_trunk` around the method that follows instead.

  A task that is absent (`active=`) keeps its state, and its row of the result
  is zero.

  Args:
    inner: The transformation of one task's gradient. Its extra args, if it
      takes any, are passed to every task alike.
    num_tasks: The number of tasks `T`.

  Returns:
    A transformation of trees with leaves [T, *param.shape], whose state is the
    inner state with a leading axis of T.

  Raises:
    TypeError: `num_tasks` is not an int, `inner` holds a method, or the updates
      are no stacked tree.
    ValueError: A leaf of the updates does not start with `num_tasks`.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optax_mtl
    >>> tx = optax_mtl.per_task(optax.clip_by_global_norm(1.0), num_tasks=2)
    >>> grads = jnp.array([[3.0, 4.0], [0.3, 0.4]])
    >>> state = tx.init(jnp.zeros(2))
    >>> clipped, state = tx.update(grads, state)
    >>> print(clipped.round(3))
    [[0.6 0.8]
     [0.3 0.4]]
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  _checks.check_transformation("inner", inner)
  inner_tx = each_by_itself(inner, _REFUSAL)

  def init(params: Any) -> Any:
    _placement.reach()
    state = inner_tx.init(params)
    return jax.tree.map(
      lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], num_tasks, axis=0), state
    )

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    active: Any = None,
    **extra_args: Any,
  ) -> tuple[Any, Any]:
    _placement.reach()
    if isinstance(updates, StackedTaskGradients):
      # As `accumulate` hands them on.
      if updates.shared is None and updates.present is None:
        updates = updates.tree
    if isinstance(updates, TaskGradients):
      raise TypeError(
        "per_task transforms the gradients themselves, which a "
        f"{type(updates).__name__} does not hold, or not of all leaves and "
        "tasks: use source='stacked' without shared=, or grads.stacked()."
      )
    _checks.check_stacked(updates, num_tasks, params)

    def one(update: Any, state: Any) -> tuple[Any, Any]:
      return inner_tx.update(update, state, params, **extra_args)

    # optax's own transformations mix dtypes: a user's strict setting, which
    # this package obeys, would fail in them.
    with jax.numpy_dtype_promotion("standard"):
      new, new_state = jax.vmap(one)(updates, state)
    if active is None:
      return new, new_state
    present = _checks.task_mask(active, num_tasks, "active")
    return (
      linalg.choose(present, new),
      linalg.choose(present, new_state, state),
    )

  return optax.GradientTransformationExtraArgs(init, update)
