"""A method for the shared trunk, where the source was not told of one."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import jax
import optax

from optax_mtl import _checks
from optax_mtl._transformation import View
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.wrappers._wrapped import seen_through

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)


def on_trunk(
  inner: _Transformation,
  shared: Any | Callable[[Any], Any],
  *,
  heads: Literal["sum", "weighted"] = "sum",
) -> _Transformation:
  """Lets a method weigh the shared trunk alone; heads get their own gradients.

  For gradients that come from elsewhere. Which leaves are the trunk is a fact
  of the model, and best said where the model is differentiated:
  `optax_mtl.value_and_task_grads(loss_fn, shared=...)` gives the same updates,
  and stacks no heads.

  Args:
    inner: A method, or anything that begins with one: a chain, an
      `optax.inject_hyperparams(method)(...)`, other wrappers.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one.
    heads: What the other leaves get: "sum", each task's own gradient, as in
      Sener & Koltun's Algorithm 2, or "weighted", the same weights as the
      trunk, as in much published code. Default "sum".

  Returns:
    The transformation, with the same state and update arguments.

  Raises:
    TypeError: A leaf of `shared` is not a bool.
    ValueError: `shared` is no prefix of the params or matches none of their
      leaves, `heads` is unknown, or the gradients' source knows a trunk
      already.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> is_trunk = {"trunk": True, "head": False}
    >>> tx = optax_mtl.on_trunk(optax_mtl.mgda(num_tasks=2), is_trunk)
    >>> state = tx.init({"trunk": jnp.zeros(2), "head": jnp.zeros(1)})
    >>> grads = {
    ...   "trunk": jnp.array([[1.0, 0.0], [0.0, 2.0]]),
    ...   "head": jnp.array([[5.0], [0.0]]),
    ... }
    >>> updates, state = tx.update(grads, state)
    >>> print(updates["trunk"].round(3), updates["head"])
    [0.8 0.4] [5.]
  """
  _checks.check_choice("heads", heads, ("sum", "weighted"))

  def look(
    gradients: TaskGradients,
    active: jax.Array | None,
    extra_args: Mapping[str, Any],
  ) -> tuple[TaskGradients, jax.Array | None]:
    del extra_args
    return gradients.on_trunk(shared, heads), active

  def check(params: Any) -> None:
    _checks.resolve_mask(shared, params, "shared")

  return seen_through(inner, View(look, check), "on_trunk")
