"""Task gradients for loops that hand over a summed gradient."""

from typing import Any

import optax

from optax_mtl import _checks
from optax_mtl.wrappers._wrapped import Wrapped, update_around, wrapped


def from_extra_arg(
  inner: optax.GradientTransformation, name: str = "grads"
) -> Wrapped:
  """Takes the task gradients from an extra arg, and ignores the updates.

  For training loops that differentiate a summed loss themselves and call the
  optimizer with its gradient. What they hand over is not looked at; the task
  gradients, stacked or from any source, come beside it.

  Args:
    inner: A method, or anything that begins with one: a chain, other wrappers.
      Wrappers put around this one act within it, since they read the gradients.
    name: The extra arg's name. Default "grads".

  Returns:
    The transformation, with the same state. Its update needs the extra arg.

  Raises:
    TypeError: The update is called without the extra arg.
    ValueError: `name` cannot be the name of an extra arg.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optax_mtl
    >>> tx = optax.chain(optax_mtl.mgda(num_tasks=2), optax.sgd(1.0))
    >>> tx = optax_mtl.from_extra_arg(tx)
    >>> state = tx.init(jnp.zeros(2))
    >>> of_each = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> updates, state = tx.update(of_each.sum(axis=0), state, grads=of_each)
    >>> print(updates.round(3))
    [-0.8 -0.4]
  """
  _checks.check_extra_arg("name", name)
  _checks.check_transformation("inner", inner)
  inner_tx = optax.with_extra_args_support(inner)

  def update(
    updates: Any, state: Any, params: Any = None, **extra_args: Any
  ) -> tuple[Any, Any]:
    del updates
    gradients = extra_args.pop(name, None)
    if gradients is None:
      raise TypeError(
        f"from_extra_arg takes the task gradients from {name}=, and this "
        "update has none: call tx.update(summed_grads, state, params, "
        f"{name}={name}), with the gradients as value_and_task_grads returns "
        "them."
      )
    return update_around(
      "from_extra_arg", inner_tx, gradients, state, params, extra_args
    )

  return wrapped(
    inner_tx.init,
    update,
    inner,
    lambda other: from_extra_arg(other, name),
    translates=True,
  )
