"""Extra args for loops that have names of their own for them."""

from typing import Any

import optax

from optax_mtl import _checks
from optax_mtl._step import MissingArgumentError
from optax_mtl.wrappers._wrapped import Wrapped, wrapped


def rename_args(inner: optax.GradientTransformation, **names: str) -> Wrapped:
  """Takes extra args from others of the update's, by other names.

  `rename_args(tx, losses="task_losses")` gives `tx` the update's
  `task_losses=` for its `losses=`. What the update has under the old name is
  not handed on: it is something else, as where a loop calls the summed loss
  `losses`. An extra arg that the update does not have is not there for `tx`
  either.

  Args:
    inner: A transformation: a method, a chain, or what follows in one. Wrappers
      put around this one act within it, since they read extra args too.
    **names: What `inner` calls an extra arg -> what the update calls it.

  Returns:
    The transformation, with the same state.

  Raises:
    ValueError: There are no names, or one cannot be that of an extra arg.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.uncertainty_weighting(num_tasks=2)
    >>> tx = optax_mtl.rename_args(tx, losses="task_losses")
    >>> state = tx.init(jnp.zeros(2))
    >>> losses = jnp.array([2.0, 0.5])
    >>> updates, state = tx.update(jnp.eye(2), state, task_losses=losses)
    >>> print(updates)
    [0.5 0.5]
  """
  if not names:
    raise ValueError(
      "rename_args was given no names: rename_args(tx, losses='task_losses') "
      "takes losses= from task_losses=."
    )
  for own, given in names.items():
    _checks.check_extra_arg("rename_args", own)
    _checks.check_extra_arg(own, given)
  _checks.check_transformation("inner", inner)
  inner_tx = optax.with_extra_args_support(inner)

  def update(
    updates: Any, state: Any, params: Any = None, **extra_args: Any
  ) -> tuple[Any, Any]:
    renamed = {k: v for k, v in extra_args.items() if k not in names}
    for own, given in names.items():
      if given in extra_args:
        renamed[own] = extra_args[given]
    try:
      return inner_tx.update(updates, state, params, **renamed)
    except MissingArgumentError as error:
      if error.argument not in names:
        raise
      raise MissingArgumentError(
        error.method, names[error.argument], error.reason
      ) from error

  return wrapped(
    inner_tx.init,
    update,
    inner,
    lambda other: rename_args(other, **names),
    translates=True,
  )
