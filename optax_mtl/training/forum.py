"""FORUM: the validation losses under a first-order constraint on training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype, wide
from optax_mtl.training import _barrier
from optax_mtl.training._method import (
  LossFunction,
  Rate,
  Source,
  TrainingMethod,
  check_rate,
  inverse_length,
  moved,
  network_optimizer,
  rate_at,
  softmax_slope,
  squared_norm,
  take_step,
  weight_learner,
  where_finite,
)


class ForumState(NamedTuple):
  """The state of `forum`.

  Attributes:
    weights: Array [T], the weights of the training losses, which sum to 1.
    logits: Array [T], of which the weights are the softmax.
    multipliers: Array [T], the averaged weights of the validation gradients.
    constraint_weight: Scalar, `ν`, the weight of the constraint's gradient.
    losses: Array [T], the training losses of the last step, before it.
    validation_losses: Array [T], the validation losses at the same params.
    weight_optimizer: State of the logits' optimizer.
    optimizer: State of the params' optimizer.
    training_step: Scalar int32, the number of steps so far.
  """

  weights: jax.Array
  logits: jax.Array
  multipliers: jax.Array
  constraint_weight: jax.Array
  losses: jax.Array
  validation_losses: jax.Array
  weight_optimizer: Any
  optimizer: Any
  training_step: jax.Array


def forum(
  num_tasks: int,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  *,
  inner_rate: Rate,
  inner_steps: int = 5,
  steps_per_epoch: ArrayLike,
  barrier: ArrayLike = 0.1,
  weight_optimizer: optax.GradientTransformation | None = None,
  source: Source = "stacked",
  has_aux: bool = False,
) -> TrainingMethod:
  """FORUM: all validation losses, where the weighted training loss is least.

  With the weights `w = softmax(a)` of the training losses `L`, their sum
  `f(a, θ) = Σ w_i L_i(θ)`, and validation losses `F`: minimise all of `F`
  over `a` and `θ` together, under the constraint that no other params make `f`
  smaller, `q(a, θ) = f(a, θ) - min f(a, .) <= 0`. In a step

  * `inner_steps` steps of gradient descent on `f(a, .)` from `θ` estimate its
    minimum, at `θ*`; no derivative is taken through them, and the gradient of
    `q` is `(∂f/∂a (a, θ) - ∂f/∂a (a, θ*), ∂f/∂θ (a, θ))`;
  * multipliers `λ` on the simplex and `ν >= 0` are those of the direction
    `d = Σ λ_i ∇F_i / ‖∇F_i‖ + ν ∇q` that descends the `F_i` best while
    `∇q . d >= ρ ‖∇q‖²`; the `λ` are averaged over steps,
    `λ <- λ + β (λ_now - λ)` with `β = (1 + epoch)^(-3/4)`, and `ν` follows
    from the average;
  * `optimizer` steps `θ` along its part of `d`, `weight_optimizer` steps `a`.

  So the params follow the validation gradients as much as the training ones:
  the "validation" data are trained on. The authors take every other training
  batch for it; a set that is to tell when to stop has to be another one.

  Everything is of first order. A step costs T backward passes on the validation
  batch, and `inner_steps` on the training batch.

  What follows the authors' code, since we could not establish the paper's form:
  validation gradients of length 1, the bound `ρ ‖∇q‖²`, `β` by the epoch,
  `ρ = 0.1` and 5 inner steps. Two things differ from the code. Its dual problem
  has `ν ρ ‖∇q‖²` where the derivation has twice that; here it is the dual of
  the problem as stated. And it leaves the inner loop where the loss exceeds
  1e5; here the least `f` on the way counts, so that with a rate that is too
  large the estimate is `f` itself, and the weights stand still.

  Where a multiplier is not finite, `λ` stands still, and so do the weights
  where their gradient is not. The loss that is not finite shows in the params
  and in `losses`, unless the optimizer skips it (`optax.apply_if_finite`).

  Args:
    num_tasks: The number of tasks `T`.
    loss_fn: Function `(params, batch) -> losses`, as for `auto_lambda`.
    optimizer: Steps the params: any optax transformation of one gradient.
    inner_rate: The learning rate of the inner steps, positive, or a schedule of
      it by the number of the (outer) step. 0.1 in the authors' code, with Adam
      at 1e-4 outside; it depends on the model, so there is no default.
    inner_steps: How many inner steps, at least 1. Default 5.
    steps_per_epoch: How many steps make an epoch, by which `β` falls, at least
      1. Within the first epoch `λ` is not averaged at all.
    barrier: `ρ`, not negative: how fast the constraint is to be approached.
      Default 0.1.
    weight_optimizer: Steps the logits `a`. None: `optax.adam(1e-3)`, as in the
      authors' code.
    source: "stacked" or "implicit", as for `value_and_task_grads`: whether the
      T validation gradients are stored, or computed again where needed.
    has_aux: Whether `loss_fn` returns a pair `(losses, aux)`.

  Returns:
    A `TrainingMethod`: `init(params)`, and `update(params, state, batch,
    validation_batch, **extra_args)`, which returns the new params and the new
    `ForumState`, and with `has_aux` what the training batch's aux was.
    `extra_args` are the optimizer's.

  Raises:
    TypeError: `loss_fn` is no function, an optimizer is none, or holds a method
      of this package; a param or loss is not floating point; `inner_steps` is
      no Python int.
    ValueError: A number is out of range, `source` is unknown, or `loss_fn`
      returns another number of losses.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from optax_mtl import training
    >>> def loss_fn(params, target):
    ...   return [(params - target) ** 2, 10 * (params - target - 1.0) ** 2]
    >>> method = training.forum(
    ...   2, loss_fn, optax.sgd(0.1), inner_rate=0.01, steps_per_epoch=1
    ... )
    >>> params = jnp.array(0.0)
    >>> state = method.init(params)
    >>> for _ in range(30):
    ...   params, state = method.update(params, state, 1.0, 1.0)
    >>> print(bool(1.0 < params < 2.0), state.multipliers.shape)
    True (2,)

  References:
    Ye, Lin, Cao, Zhang & Tsang, `A First-Order Multi-Gradient Algorithm for
    Multi-Objective Bi-Level Optimization <https://arxiv.org/abs/2401.09257>`_,
    ECAI 2024.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  loss = LossFunction(loss_fn, num_tasks, has_aux, "forum")
  tx = network_optimizer(optimizer, "forum")
  check_rate("inner_rate", inner_rate)
  # Each is a forward and a backward pass: a thousand is a mistake.
  _checks.check_int("inner_steps", inner_steps, 1, 1000)
  _checks.check_whole("steps_per_epoch", steps_per_epoch, 1)
  _checks.check_range("barrier", barrier, 0)
  _checks.check_choice("source", source, ("stacked", "implicit"))
  learner = weight_learner(weight_optimizer, 1e-3)

  def init(params: Any) -> ForumState:
    _checks.check_inexact(params, "the params")
    logits = jnp.zeros((num_tasks,), solver_dtype())

    def equal() -> jax.Array:
      return jnp.full((num_tasks,), 1 / num_tasks, solver_dtype())

    return ForumState(
      weights=equal(),
      logits=logits,
      multipliers=equal(),
      constraint_weight=jnp.zeros((), solver_dtype()),
      losses=jnp.zeros_like(logits),
      validation_losses=jnp.zeros_like(logits),
      weight_optimizer=learner.init(logits),
      optimizer=tx.init(params),
      training_step=jnp.zeros((), jnp.int32),
    )

  def least(
    params: Any, batch: Any, shares: jax.Array, first: Any, rate: jax.Array
  ) -> jax.Array:
    """The losses [T] where the inner steps make their weighted sum least.

    `first` are the losses at the params, and the gradient of their sum.
    """
    start, slope = first

    def lower(losses: jax.Array, best: jax.Array) -> jax.Array:
      # False for NaN, so that what diverges does not count.
      better = jnp.sum(shares * losses) < jnp.sum(shares * best)
      return jnp.where(better, losses, best)

    def step(carry: Any, _: None) -> tuple[Any, None]:
      point, best = carry
      seen = loss.run(point, batch)
      best = lower(seen.losses, best)
      return (moved(point, seen.grads.combine(shares), -rate), best), None

    carry = moved(params, slope, -rate), start
    if inner_steps > 1:
      carry, _ = jax.lax.scan(step, carry, length=inner_steps - 1)
    point, best = carry
    return lower(loss.values(point, batch), best)

  def update(
    params: Any,
    state: ForumState,
    batch: Any,
    validation_batch: Any,
    **extra_args: Any,
  ) -> Any:
    rate = rate_at(inner_rate, state.training_step)
    bound = jnp.asarray(barrier, solver_dtype())
    shares = jax.nn.softmax(state.logits)
    seen = loss.run(params, batch)
    slope = seen.grads.combine(shares)
    best = least(params, batch, shares, (seen.losses, slope), rate)
    by_logits = softmax_slope(shares, seen.losses - best)

    validation = loss.run(params, validation_batch, source)
    gram = validation.grads.gram()
    scales = inverse_length(jnp.diagonal(gram))
    square = squared_norm(slope) + jnp.sum(by_logits * by_logits)
    length, unit = jnp.sqrt(square), inverse_length(square)
    products = validation.grads.project(slope) * scales * unit
    now = _barrier.multipliers(
      gram * scales[:, None] * scales[None, :], products, bound * length
    )
    epoch = state.training_step // jnp.asarray(steps_per_epoch, jnp.int32)
    fading = (1 + epoch).astype(solver_dtype()) ** -0.75
    multipliers = where_finite(
      now,
      state.multipliers + fading * (now - state.multipliers),
      state.multipliers,
    )
    lacking = bound - jnp.sum(multipliers * products) * unit
    weight = jnp.maximum(lacking, 0.0)

    logits, weight_state = where_finite(
      weight * by_logits,
      take_step(
        learner, weight * by_logits, state.weight_optimizer, state.logits, {}
      ),
      (state.logits, state.weight_optimizer),
    )
    gradient = jax.tree.map(
      lambda f, q: (wide(f) + weight * wide(q)).astype(f.dtype),
      validation.grads.combine(multipliers * scales),
      slope,
    )
    params, optimizer_state = take_step(
      tx, gradient, state.optimizer, params, extra_args
    )
    new = ForumState(
      weights=jax.nn.softmax(logits),
      logits=logits,
      multipliers=multipliers,
      constraint_weight=weight,
      losses=seen.losses,
      validation_losses=validation.losses,
      weight_optimizer=weight_state,
      optimizer=optimizer_state,
      training_step=state.training_step + 1,
    )
    return loss.result(params, new, seen.aux)

  return TrainingMethod(init, update)
