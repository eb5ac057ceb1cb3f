"""Flax linen: a train state whose optimizer gets extra args."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks

try:
  from flax.training import train_state
except ImportError as error:  # pragma: no cover
  raise ImportError(
    "optax_mtl.integrations.flax needs Flax: pip install 'optax-mtl[flax]'."
  ) from error


def _check_shapes(updates: Any, params: Any) -> None:
  """Raises where `apply_updates` would broadcast a param to another shape."""
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(updates),
    jax.tree.leaves(params),
    strict=True,
  )
  for (path, update), param in pairs:
    if jnp.shape(update) != jnp.shape(param):
      raise ValueError(
        f"The update of {_checks.leaf_name(path)} has shape "
        f"{list(jnp.shape(update))}, but the param has shape "
        f"{list(jnp.shape(param))}: has a method combined the tasks? It comes "
        "first in the chain, optax.chain(optax_mtl.mgda(num_tasks), ...), and "
        "sees every leaf, also those that are frozen after it."
      )


class TrainState(train_state.TrainState):
  """Flax's `TrainState`, whose `apply_gradients` takes the method's extra args.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optax_mtl
    >>> from optax_mtl.integrations.flax import TrainState
    >>> state = TrainState.create(
    ...   apply_fn=None,
    ...   params={"w": jnp.ones(2)},
    ...   tx=optax.chain(optax_mtl.dwa(2, steps_per_epoch=10), optax.sgd(0.1)),
    ... )
    >>> state = state.apply_gradients(
    ...   grads={"w": jnp.ones((2, 2))}, losses=jnp.array([1.0, 2.0])
    ... )
    >>> print(state.params["w"], state.step)
    [0.8 0.8] 1
  """

  def apply_gradients(self, *, grads: Any, **kwargs: Any) -> "TrainState":
    """One optimizer step.

    Args:
      grads: Task gradients, a tree with leaves [T, *param.shape] or a
        `TaskGradients`.
      **kwargs: Names of the state's fields, such as `batch_stats`, replace
        those; all others go to the optimizer: `losses`, `active`, ...

    Returns:
      The next state.

    Raises:
      ValueError: An update has another shape than its param, as where no method
        of the optimizer has combined the tasks.
    """
    names = {field.name for field in dataclasses.fields(self)}
    fields = {key: value for key, value in kwargs.items() if key in names}
    extra = {key: value for key, value in kwargs.items() if key not in names}
    tx = optax.with_extra_args_support(self.tx)
    updates, opt_state = tx.update(grads, self.opt_state, self.params, **extra)
    _check_shapes(updates, self.params)
    return self.replace(
      step=self.step + 1,
      params=optax.apply_updates(self.params, updates),
      opt_state=opt_state,
      **fields,
    )
