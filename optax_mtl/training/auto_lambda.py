"""Auto-Lambda: weights that lower the validation losses, by one step ahead."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.training._method import (
  LossFunction,
  Rate,
  TrainingMethod,
  check_rate,
  moved,
  network_optimizer,
  rate_at,
  squared_norm,
  take_step,
  weight_learner,
)
from optax_mtl.wrappers.per_task import per_task

#: Half of the distance between the two points of the finite difference, along
#: the gradient of length 1: the authors' code and DARTS have 0.01.
_DISTANCE = 0.01


class AutoLambdaState(NamedTuple):
  """The state of `auto_lambda`.

  Attributes:
    weights: Array [T], the weights of the last step.
    losses: Array [T], the training losses of the last step, before it.
    validation_losses: Array [T], the validation losses after the virtual step.
    weight_optimizer: State of the weights' optimizer, one a task.
    optimizer: State of the params' optimizer.
    training_step: Scalar int32, the number of steps so far.
  """

  weights: jax.Array
  losses: jax.Array
  validation_losses: jax.Array
  weight_optimizer: Any
  optimizer: Any
  training_step: jax.Array


def auto_lambda(
  num_tasks: int,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  *,
  virtual_rate: Rate,
  primary: _checks.TaskValues | None = None,
  initial_weights: _checks.TaskValues = 0.1,
  weight_optimizer: optax.GradientTransformation | None = None,
  hypergradient: Literal["exact", "finite_difference"] = "exact",
  has_aux: bool = False,
) -> TrainingMethod:
  """Auto-Lambda: weights that lower the validation losses, learnt step by step.

  With the weights `λ` of the training losses `L`, and validation losses `F`:

  * a virtual step, `θ' = θ - α Σ λ_i ∇L_i(θ)`;
  * the hypergradient, the derivative of `Σ_k p_k F_k(θ')` by `λ`, moves the
    weights: one step of `weight_optimizer`;
  * a step of `optimizer` along `Σ λ_i ∇L_i(θ)` with the new weights, on the
    same batch.

  `θ'` is linear in the weights, so the hypergradient is
  `-α ∇L_i(θ) . Σ_k p_k ∇F_k(θ')`: no second derivative, and for all tasks one
  pass in forward mode on the training batch. That is the default. The paper and
  the authors' code take a finite difference, `(L_i(θ + εv) - L_i(θ - εv)) / 2ε`
  with `v` the validation gradient and `ε = 0.01/‖v‖`: two more forward passes,
  which is more than the pass that they approximate; `"finite_difference"` is
  there to repeat results.

  A task that helps no primary task on validation loses weight, so this is a
  method for auxiliary tasks: `primary={"main": 1.0, "helper": 0.0}`. Weights
  are not bounded, as in the authors' code: with a large rate they may turn
  negative, and ascend a task.

  As the paper has it, the virtual step is plain gradient descent. The authors'
  code adds the momentum and the weight decay of its SGD to `θ'`.

  Weights are learnt from hypergradients that are finite; those of other tasks
  stand still. The loss that is not finite shows in the params and in `losses`,
  unless the optimizer skips it (`optax.apply_if_finite`).

  Args:
    num_tasks: The number of tasks `T`.
    loss_fn: Function `(params, batch) -> losses`: an array [T], or a sequence
      or dict of T scalars (the order is that of a dict's sorted keys). With
      `has_aux`, a pair of that and any pytree. It is called with training and
      with validation batches.
    optimizer: Steps the params: any optax transformation of one gradient.
    virtual_rate: `α > 0`, or a schedule of it by the number of the step. The
      paper takes the learning rate of `optimizer`, so there is no default.
    primary: How much each validation loss counts, `p`: an array [T], a
      sequence, or a dict by the tasks' names. None: 1 each, as for multi-task
      learning in the paper.
    initial_weights: One number, or one a task. Default 0.1, as in the paper.
    weight_optimizer: Steps each task's weight by itself. None:
      `optax.adam(1e-4)`, as in the authors' code for dense prediction. That is
      slow: for runs of a few thousand steps take a larger rate.
    hypergradient: "exact" or "finite_difference".
    has_aux: Whether `loss_fn` returns a pair `(losses, aux)`.

  Returns:
    A `TrainingMethod`: `init(params)`, and `update(params, state, batch,
    validation_batch, **extra_args)`, which returns the new params and the new
    `AutoLambdaState`, and with `has_aux` what the training batch's aux was.
    `extra_args` are the optimizer's.

  Raises:
    TypeError: `loss_fn` is no function, an optimizer is none, or holds a method
      of this package; a param or loss is not floating point.
    ValueError: A number is out of range, `loss_fn` returns another number of
      losses, or names differ from those of `primary`.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax
    >>> from optax_mtl import training
    >>> def loss_fn(params, target):
    ...   return {"main": (params - target) ** 2, "wrong": (params + 9.0) ** 2}
    >>> method = training.auto_lambda(
    ...   2, loss_fn, optax.sgd(0.1), virtual_rate=0.1,
    ...   primary={"main": 1.0, "wrong": 0.0},
    ...   weight_optimizer=optax.sgd(0.01),
    ... )
    >>> params = jnp.array(0.0)
    >>> state = method.init(params)
    >>> for _ in range(3):
    ...   params, state = method.update(params, state, 1.0, 1.0)
    >>> print(np.asarray(state.weights).round(2))  # The wrong one falls.
    [ 0.11 -0.02]

  References:
    Liu, James, Davison & Johns, `Auto-Lambda: Disentangling Dynamic Task
    Relationships <https://arxiv.org/abs/2202.03091>`_, TMLR 2022.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  loss = LossFunction(loss_fn, num_tasks, has_aux, "auto_lambda")
  tx = network_optimizer(optimizer, "auto_lambda")
  check_rate("virtual_rate", virtual_rate)
  _checks.check_choice(
    "hypergradient", hypergradient, ("exact", "finite_difference")
  )
  counted = _checks.number_or_task_argument(
    1.0 if primary is None else primary, num_tasks, "primary"
  )
  initial = _checks.number_or_task_argument(
    initial_weights, num_tasks, "initial_weights"
  )
  learner = per_task(weight_learner(weight_optimizer, 1e-4), num_tasks)

  def init(params: Any) -> AutoLambdaState:
    _checks.check_inexact(params, "the params")
    return AutoLambdaState(
      weights=jnp.array(initial.values),
      losses=jnp.zeros((num_tasks,), solver_dtype()),
      validation_losses=jnp.zeros((num_tasks,), solver_dtype()),
      weight_optimizer=learner.init(jnp.zeros((), solver_dtype())),
      optimizer=tx.init(params),
      training_step=jnp.zeros((), jnp.int32),
    )

  def differences(params: Any, batch: Any, uphill: Any) -> jax.Array:
    """`∇L_i . uphill` [T] by a finite difference."""
    square = squared_norm(uphill)
    reach = _DISTANCE / jnp.sqrt(jnp.where(square == 0, 1.0, square))
    above = loss.values(moved(params, uphill, reach), batch)
    below = loss.values(moved(params, uphill, -reach), batch)
    return (above - below) / (2 * reach)

  def update(
    params: Any,
    state: AutoLambdaState,
    batch: Any,
    validation_batch: Any,
    **extra_args: Any,
  ) -> Any:
    rate = rate_at(virtual_rate, state.training_step)
    seen = loss.run(params, batch)
    for argument in (counted, initial):
      _checks.check_names(argument, seen.grads.names, "auto_lambda")
    there = moved(params, seen.grads.combine(state.weights), -rate)
    validation = loss.run(there, validation_batch)
    uphill = validation.grads.combine(counted.values)
    products = (
      seen.grads.project(uphill)
      if hypergradient == "exact"
      else differences(params, batch, uphill)
    )
    slope = -rate * products
    known = jnp.isfinite(slope)
    change, weight_state = learner.update(
      jnp.where(known, slope, 0.0), state.weight_optimizer, active=known
    )
    weights = state.weights + cast(jax.Array, change).astype(slope.dtype)
    params, optimizer_state = take_step(
      tx, seen.grads.combine(weights), state.optimizer, params, extra_args
    )
    new = AutoLambdaState(
      weights=weights,
      losses=seen.losses,
      validation_losses=validation.losses,
      weight_optimizer=weight_state,
      optimizer=optimizer_state,
      training_step=state.training_step + 1,
    )
    return loss.result(params, new, seen.aux)

  return TrainingMethod(init, update)
