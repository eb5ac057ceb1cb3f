"""Uncertainty weighting: a learnt observation noise for every task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._per_task import per_task

#: The factor on `exp(-s) L`: 1/2 for a Gaussian likelihood, 1 for a softmax.
_FACTORS = {"regression": 0.5, "classification": 1.0}


class UncertaintyWeightingState(NamedTuple):
  """State of `uncertainty_weighting`.

  Attributes:
    weights: Array [T], the weights of the last update.
    log_vars: Array [T], `s_i = log σ_i²`, or `log c_i²` in Liebel's variant.
    log_var_optimizer: State of the optimizer of `log_vars`, one for each task.
  """

  weights: jax.Array
  log_vars: jax.Array
  log_var_optimizer: optax.OptState


def _factors(kind: Any, variant: str, num_tasks: int) -> np.ndarray:
  """The factor of each task, from `kind` as the user gave it."""
  _checks.check_choice("variant", variant, ("kendall", "liebel"))
  if variant == "liebel":
    if kind is not None:
      raise ValueError(
        "kind= belongs to variant='kendall'; Liebel's variant treats all tasks "
        f"alike. Leave kind out, got {kind!r}."
      )
    return np.full((num_tasks,), 0.5)
  kind = "regression" if kind is None else kind
  kinds = [kind] * num_tasks if isinstance(kind, str) else list(kind)
  if len(kinds) != num_tasks:
    raise ValueError(
      f"kind must be one string or one for each of the {num_tasks} tasks, got "
      f"{len(kinds)}."
    )
  for name in kinds:
    _checks.check_choice("kind", name, tuple(_FACTORS))
  return np.asarray([_FACTORS[name] for name in kinds])


def uncertainty_loss(
  losses: Any,
  log_vars: Any,
  kind: str | Sequence[str] | None = None,
  *,
  variant: str = "kendall",
) -> jax.Array:
  """The objective itself, to train `log_vars` among the params.

  `Σ a_i exp(-s_i) L_i + s_i / 2` with `a_i` 1/2 for regression and 1 for
  classification; Liebel's variant is `Σ exp(-s_i) L_i / 2 + log(1 + exp(s_i))`.
  Keep `log_vars` out of weight decay.

  Args:
    losses: Array [T], or a sequence or dict of scalars.
    log_vars: Array [T], `s_i = log σ_i²`.
    kind: "regression" (default) or "classification", or one for each task.
    variant: "kendall" or "liebel".

  Returns:
    A scalar; it may be negative.

  Raises:
    ValueError: A length or a name is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> print(optax_mtl.uncertainty_loss(jnp.array([2.0, 4.0]), jnp.zeros(2)))
    3.0
  """
  losses = _checks.stack_scalars(losses, "losses")
  num_tasks = losses.shape[0]
  factors = _factors(kind, variant, num_tasks)
  losses = losses.astype(solver_dtype())
  log_vars = _checks.task_vector(log_vars, num_tasks, "log_vars")
  data = jnp.asarray(factors, losses.dtype) * jnp.exp(-log_vars) * losses
  if variant == "liebel":
    return jnp.sum(data + jax.nn.softplus(log_vars))
  return jnp.sum(data + log_vars / 2)


@_base.method(
  paper="Kendall, Gal & Cipolla, Multi-Task Learning Using Uncertainty to "
  "Weigh Losses for Scene Geometry and Semantics, CVPR 2018",
  url="https://arxiv.org/abs/1705.07115",
  family="loss",
  needs=["losses"],
  weights_sum="free",
  example=lambda tasks: {
    "kind": [("regression", "classification")[task % 2] for task in tasks]
  },
  claims=["positive_weights", "scale_equivariant"],
)
def uncertainty_weighting(
  num_tasks: int,
  kind: str | Sequence[str] | None = None,
  *,
  variant: str = "kendall",
  optimizer: optax.GradientTransformation | None = None,
  initial_log_vars: Any = 0.0,
  bounds: tuple[float, float] = (-10.0, 10.0),
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Weighs a task by the inverse of a noise variance that it learns.

  With `s_i = log σ_i²` the objective is `Σ a_i exp(-s_i) L_i + s_i / 2`, where
  `a_i` is 1/2 for regression (Gaussian likelihood, squared error) and 1 for
  classification (softmax). The weight of task i is `a_i exp(-s_i)`, and `s` is
  trained on its own closed-form gradient by an optimizer in the state, so that
  no weight decay reaches it. The step uses the `s` from before its update, as
  training it among the params would. The weights' sum is free: about
  `Σ 1 / (2 L_i)` once `s` has settled.

  In Liebel & Körner's variant the objective is
  `Σ L_i / (2 c_i²) + log(1 + c_i²)`. Here `log c_i²` is what is stored and
  trained, so that `c` is never zero; their code trains `c` itself, whose
  optimum is the same.

  A loss of zero drives `s` to the lower bound. A negative loss makes the
  objective unbounded below: that task's `s` stands still. An absent task drops
  both of its terms.

  Args:
    num_tasks: The number of tasks `T`.
    kind: "regression" (default) or "classification", or one for each task.
      Liebel's variant takes none.
    variant: "kendall" (default) or "liebel".
    optimizer: Optimizer of `s`, run for each task by itself. Default:
      `optax.adam(0.025)`, the rate that the GradNorm paper uses for such
      parameters.
    initial_log_vars: The first `s`, a number (default 0) or one for each task.
    bounds: `s` is clipped to this interval after each step.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: What the other leaves get: "sum", each task's own gradient, or
      "weighted", the same weights as the trunk.
    on_nonfinite: "propagate" a NaN or inf, or "drop" the task for this step,
      judged by what `update` gets: see `value_and_task_grads` on NaN.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: A length or a name is wrong, or the bounds are empty.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> kind = ["regression", "classification"]
    >>> tx = optax_mtl.uncertainty_weighting(2, kind)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [2.0, 5.0]])
    >>> updates, state = tx.update(grads, state, losses=jnp.array([2.0, 0.5]))
    >>> print(updates, state.weights)
    [2.5 5. ] [0.5 1. ]

  References:
    Kendall, Gal & Cipolla, `Multi-Task Learning Using Uncertainty to Weigh
    Losses <https://arxiv.org/abs/1705.07115>`_, CVPR 2018; Liebel & Körner,
    `Auxiliary Tasks in Multi-task Learning
    <https://arxiv.org/abs/1805.06334>`_, 2018.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  factors = _factors(kind, variant, num_tasks)
  low, high = bounds
  if all(map(_checks.is_python_number, bounds)) and low >= high:
    raise ValueError(f"bounds must be (low, high) with low < high: {bounds}.")
  inner = per_task(
    optax.adam(0.025) if optimizer is None else optimizer, num_tasks
  )

  def init():
    dtype = solver_dtype()
    log_vars = jnp.asarray(initial_log_vars, dtype)
    if log_vars.ndim == 0:
      log_vars = jnp.full((num_tasks,), log_vars, dtype)
    log_vars = _checks.task_vector(log_vars, num_tasks, "initial_log_vars")
    return UncertaintyWeightingState(
      weights=jnp.asarray(factors, dtype) * jnp.exp(-log_vars),
      log_vars=log_vars,
      log_var_optimizer=inner.init(jnp.zeros((), dtype)),
    )

  def weigh(step, state):
    dtype = solver_dtype()
    weights = jnp.asarray(factors, dtype) * jnp.exp(-state.log_vars)
    if variant == "liebel":
      prior = jax.nn.sigmoid(state.log_vars)
    else:
      prior = jnp.full((num_tasks,), 0.5, dtype)
    gradient = prior - weights * step.losses
    change, optimizer_state = inner.update(gradient, state.log_var_optimizer)
    log_vars = jnp.clip(state.log_vars + change, low, high).astype(dtype)
    learns = step.active & ~(step.losses < 0)
    hold = lambda new, old: step.hold(new, old, learns)  # noqa: E731
    return UncertaintyWeightingState(
      weights=weights,
      log_vars=hold(log_vars, state.log_vars),
      log_var_optimizer=hold(optimizer_state, state.log_var_optimizer),
    )

  return _base.weighted_combination(
    "uncertainty_weighting",
    num_tasks,
    init,
    weigh,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
