"""A method on the logarithms of the losses."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks
from optax_mtl._step import MissingArgumentError, RefusedArg
from optax_mtl._transformation import View
from optax_mtl.sources.scaled import ScaledTaskGradients
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.wrappers._wrapped import seen_through

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)


def log_losses(inner: _Transformation) -> _Transformation:
  """Trains on `log L_i` in the place of each `L_i`.

  The method sees the gradients `g_i / L_i`, and `log L_i` for `losses=` and
  `previous_losses=`: all is as if the loss function had returned the logarithms
  of the losses, heads included. Around `equal_weighting` it descends
  `Σ log L_i` (scale-invariant weighting). Around a method that reads the Gram
  matrix it is that method's LOG variant: `log_mgda`, `log_cagrad` and
  `log_imtl` of the FAMO repository are `log_losses` around `mgda`, `cagrad` and
  `imtl_g` (some of them add 1e-8 to a loss, which is not done here), and DB-MTL
  takes the gradients of the logarithms too. The weights in the state are those
  on the logarithms' gradients: the weight on `g_i` is `w_i / L_i`.

  The losses have to be positive. The gradient of a task whose loss is not is
  NaN, and shows; `log_losses(drop_nonfinite(method))` drops the task. A method
  that itself takes ratios or logarithms of losses (`dwa`, `famo`) gets those of
  the logarithms, which may be negative: it is rarely what you want.

  Args:
    inner: A method, or anything that begins with one. Around
      `optax_mtl.accumulate` it takes the logarithm of each batch's loss, and
      within it of their mean.

  Returns:
    The transformation, with the same state. Its update needs `losses` [T].

  Raises:
    TypeError: The update is called without `losses`, or the method reads a
      second batch, whose losses are not known.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.log_losses(optax_mtl.equal_weighting(num_tasks=2))
    >>> state = tx.init(jnp.zeros(2))
    >>> grads, losses = jnp.eye(2), jnp.array([2.0, 4.0])
    >>> updates, state = tx.update(grads, state, losses=losses)
    >>> print(updates, state.weights)
    [0.5  0.25] [1. 1.]
  """
  return seen_through(inner, View(_divided, rewrite=_logarithms), "log_losses")


def _positive(
  losses: Any, num_tasks: int, active: jax.Array | None, name: str
) -> jax.Array:
  """The losses [T]; NaN for one that is not positive, 1 for an absent one."""
  values = _checks.task_vector(losses, num_tasks, name)
  values = jnp.where(values > 0, values, jnp.nan)
  if active is None:
    return values
  # Of an absent task nothing counts, and nothing must leak.
  return jnp.where(_checks.task_mask(active, num_tasks, "active"), values, 1.0)


def _divided(
  gradients: TaskGradients,
  active: jax.Array | None,
  extra_args: Mapping[str, Any],
) -> tuple[TaskGradients, jax.Array | None]:
  losses = extra_args.get("losses")
  if losses is None:
    raise MissingArgumentError(
      "log_losses", "losses", "the gradients are divided by the losses"
    )
  scales = 1 / _positive(losses, gradients.num_tasks, active, "losses")
  return ScaledTaskGradients(gradients, scales), active


def _logarithms(
  gradients: TaskGradients,
  active: jax.Array | None,
  extra_args: Mapping[str, Any],
) -> Mapping[str, Any]:
  rewritten = dict(extra_args)
  for name in ("losses", "previous_losses"):
    losses = extra_args.get(name)
    if losses is None:
      continue
    logs = jnp.log(_positive(losses, gradients.num_tasks, active, name))
    rewritten[name] = logs
    if isinstance(losses, Mapping):  # The tasks keep their names.
      rewritten[name] = dict(zip(sorted(losses), logs, strict=True))
  if extra_args.get("second_grads") is not None:
    rewritten["second_grads"] = RefusedArg(
      "log_losses divides the gradients by the losses of their batch, and does "
      "not know those of the second batch: let both loss functions return the "
      "logarithms of the losses."
    )
  return rewritten
