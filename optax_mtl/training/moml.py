"""MOML: weights that lower every validation loss, by MGDA one level up."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.methods.gram.mgda import mgda
from optax_mtl.sources.stacked import StackedTaskGradients
from optax_mtl.training._method import (
  LossFunction,
  Rate,
  Source,
  TrainingMethod,
  check_rate,
  moved,
  network_optimizer,
  rate_at,
  softmax_slope,
  take_step,
  weight_learner,
  where_finite,
)


class MomlState(NamedTuple):
  """The state of `moml`.

  Attributes:
    weights: Array [T], the weights of the last step, which sum to 1.
    logits: Array [T], of which the weights are the softmax.
    losses: Array [T], the training losses of the last step, before it.
    validation_losses: Array [T], the validation losses after the virtual step.
    upper_method: State of the method that combines the hypergradients.
    weight_optimizer: State of the logits' optimizer.
    optimizer: State of the params' optimizer.
    training_step: Scalar int32, the number of steps so far.
  """

  weights: jax.Array
  logits: jax.Array
  losses: jax.Array
  validation_losses: jax.Array
  upper_method: Any
  weight_optimizer: Any
  optimizer: Any
  training_step: jax.Array


def moml(
  num_tasks: int,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  *,
  virtual_rate: Rate,
  method: optax.GradientTransformation | None = None,
  weight_optimizer: optax.GradientTransformation | None = None,
  source: Source = "stacked",
  has_aux: bool = False,
) -> TrainingMethod:
  """MOML: weights that lower every task's validation loss, not only their sum.

  With the weights `w = softmax(a)` of the training losses `L`, and validation
  losses `F`:

  * a virtual step, `θ' = θ - α Σ w_i ∇L_i(θ)`;
  * a hypergradient of each validation loss, the derivative of `F_k(θ')` by `a`;
  * `method`, MGDA in the paper, combines these T hypergradients to one, along
    which `weight_optimizer` steps: no validation loss gains at the expense of
    another;
  * a step of `optimizer` along `Σ w_i ∇L_i(θ)` with the new weights, on the
    same batch.

  `θ'` is linear in the weights, so the derivative of `F_k(θ')` by `w_i` is
  `-α ∇F_k(θ') . ∇L_i(θ)`: a matrix [T, T] of products of gradients, and no
  second derivative. It costs T backward passes on each batch.

  MGDA and any other method of this package can stand one level up; so
  `method=optax_mtl.equal_weighting(T)` is Auto-Lambda with weights that sum to
  1. The authors' code also normalises the hypergradients, by their lengths on
  one data set and by the losses on another (`mgda(T, normalize="l2")`), but
  applies MGDA's shares to the raw ones; here they are applied to the normalised
  ones, as `optax_mtl.mgda` says. It draws a third batch, from training and
  validation data together, for the step of the params; here that step is on the
  training batch.

  Where the combined hypergradient is not finite the weights stand still. The
  loss that is not finite shows in the params and in `losses`, unless the
  optimizer skips it (`optax.apply_if_finite`).

  Args:
    num_tasks: The number of tasks `T`.
    loss_fn: Function `(params, batch) -> losses`, as for `auto_lambda`.
    optimizer: Steps the params: any optax transformation of one gradient.
    virtual_rate: `α > 0`, or a schedule of it by the number of the step. The
      authors' code has the learning rate of `optimizer`; there is no default.
    method: Combines the hypergradients, whose updates it gets with the
      validation losses as `losses=`. None: `optax_mtl.mgda(num_tasks)`.
    weight_optimizer: Steps the logits `a`. None: `optax.adam(1e-3)`, as in the
      authors' code for Office-31 (1e-4 for NYUv2).
    source: "stacked" or "implicit", as for `value_and_task_grads`: whether 2 T
      gradients are stored, or computed again where they are needed.
    has_aux: Whether `loss_fn` returns a pair `(losses, aux)`.

  Returns:
    A `TrainingMethod`: `init(params)`, and `update(params, state, batch,
    validation_batch, **extra_args)`, which returns the new params and the new
    `MomlState`, and with `has_aux` what the training batch's aux was.
    `extra_args` are the optimizer's.

  Raises:
    TypeError: `loss_fn` is no function, an optimizer is none, or holds a method
      of this package; a param or loss is not floating point.
    ValueError: A number is out of range, `source` is unknown, or `loss_fn`
      returns another number of losses.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax
    >>> from optax_mtl import training
    >>> def loss_fn(params, target):
    ...   return [(params - target) ** 2, 10 * (params - target - 1.0) ** 2]
    >>> method = training.moml(
    ...   2, loss_fn, optax.sgd(0.01), virtual_rate=0.01,
    ...   weight_optimizer=optax.sgd(1.0),
    ... )
    >>> params = jnp.array(0.0)
    >>> state = method.init(params)
    >>> for _ in range(3):
    ...   params, state = method.update(params, state, 1.0, 1.0)
    >>> print(np.asarray(state.weights).round(2))  # Both want to go right.
    [0.36 0.64]

  References:
    Ye, Lin, Yue, Guo, Xiao & Zhang, `Multi-Objective Meta Learning
    <https://arxiv.org/abs/2102.07121>`_, NeurIPS 2021.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  loss = LossFunction(loss_fn, num_tasks, has_aux, "moml")
  tx = network_optimizer(optimizer, "moml")
  check_rate("virtual_rate", virtual_rate)
  _checks.check_choice("source", source, ("stacked", "implicit"))
  upper = mgda(num_tasks) if method is None else method
  _checks.check_transformation("method", upper)
  upper = optax.with_extra_args_support(upper)
  learner = weight_learner(weight_optimizer, 1e-3)

  def init(params: Any) -> MomlState:
    _checks.check_inexact(params, "the params")
    logits = jnp.zeros((num_tasks,), solver_dtype())
    return MomlState(
      weights=jnp.full((num_tasks,), 1 / num_tasks, solver_dtype()),
      logits=logits,
      losses=jnp.zeros_like(logits),
      validation_losses=jnp.zeros_like(logits),
      upper_method=upper.init(logits),
      weight_optimizer=learner.init(logits),
      optimizer=tx.init(params),
      training_step=jnp.zeros((), jnp.int32),
    )

  def update(
    params: Any,
    state: MomlState,
    batch: Any,
    validation_batch: Any,
    **extra_args: Any,
  ) -> Any:
    rate = rate_at(virtual_rate, state.training_step)
    seen = loss.run(params, batch, source)
    shares = jax.nn.softmax(state.logits)
    there = moved(params, seen.grads.combine(shares), -rate)
    validation = loss.run(there, validation_batch, source)
    # Row k is the derivative of validation loss k.
    by_share = -rate * validation.grads.cross_gram(seen.grads)
    names = validation.grads.names
    rows = StackedTaskGradients(
      softmax_slope(shares[None], by_share), num_tasks, names=names
    )
    values = validation.losses
    with jax.numpy_dtype_promotion(
      "standard"
    ):  # For what optax has in a chain.
      slope, upper_state = upper.update(
        rows,
        state.upper_method,
        state.logits,
        losses=dict(zip(names, values, strict=True)) if names else values,
      )
    slope = cast(jax.Array, slope)
    logits, weight_state = where_finite(
      slope,
      take_step(learner, slope, state.weight_optimizer, state.logits, {}),
      (state.logits, state.weight_optimizer),
    )
    weights = jax.nn.softmax(logits)
    params, optimizer_state = take_step(
      tx, seen.grads.combine(weights), state.optimizer, params, extra_args
    )
    new = MomlState(
      weights=weights,
      logits=logits,
      losses=seen.losses,
      validation_losses=values,
      upper_method=where_finite(slope, upper_state, state.upper_method),
      weight_optimizer=weight_state,
      optimizer=optimizer_state,
      training_step=state.training_step + 1,
    )
    return loss.result(params, new, seen.aux)

  return TrainingMethod(init, update)
