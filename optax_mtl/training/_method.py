"""What the functions around a training step have in common."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks, linalg
from optax_mtl._dtypes import solver_dtype, wide
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import value_and_task_grads
from optax_mtl.sources.stacked import StackedTaskGradients
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.wrappers.per_task import each_by_itself

Source = Literal["stacked", "implicit"]

#: A number, or a function from the number of the step to one.
Rate = ArrayLike | optax.Schedule


class TrainingMethod(NamedTuple):
  """A multi-task method that needs the loss function: a pair of functions.

  What `optax.GradientTransformation` is to gradients, this is to a whole
  training step. Both functions are pure; they can be jitted, scanned and
  vmapped, and their arguments be donated.

  Attributes:
    init: Function `params -> state`.
    update: Function `(params, state, batch, ...) -> (params, state)`, and with
      `has_aux` `(params, state, aux)`.
  """

  init: Callable[[Any], Any]
  update: Callable[..., Any]


class Seen(NamedTuple):
  """What one run of the loss function gave.

  Attributes:
    losses: Array [T] in the solver's dtype.
    aux: What else the function returned, None without `has_aux`.
    grads: The task gradients, which know the tasks' names.
  """

  losses: jax.Array
  aux: Any
  grads: TaskGradients


@dataclasses.dataclass(frozen=True)
class LossFunction:
  """The user's loss function `(params, batch) -> losses`, checked when it runs.

  Attributes:
    fun: The function.
    num_tasks: How many losses it has to return.
    has_aux: Whether it returns a pair `(losses, aux)`.
    method: Who calls it, for errors.
  """

  fun: Callable[..., Any]
  num_tasks: int
  has_aux: bool
  method: str

  def __post_init__(self) -> None:
    """Raises unless it is a function."""
    if not callable(self.fun):
      raise TypeError(
        "loss_fn must be a function (params, batch) -> losses, got a "
        f"{type(self.fun).__name__}."
      )

  def run(self, params: Any, batch: Any, source: Source = "implicit") -> Seen:
    """The losses on a batch and their gradients, from one forward pass."""
    value, grads = value_and_task_grads(
      self.fun, has_aux=self.has_aux, source=source
    )(params, batch)
    losses, aux = value if self.has_aux else (value, None)
    names = _checks.task_names(losses)
    losses = self.vector(losses)
    if not isinstance(grads, TaskGradients):
      grads = StackedTaskGradients(grads, self.num_tasks, names=names)
    return Seen(losses, aux, grads)

  def values(self, params: Any, batch: Any) -> jax.Array:
    """The losses [T] alone, in the solver's dtype."""
    value = self.fun(params, batch)
    value, _ = losses_lib.split(value, self.has_aux, "loss_fn")
    return self.vector(losses_lib.stack(value))

  def vector(self, losses: Any) -> jax.Array:
    """The losses as an array [T] in the solver's dtype, if they are T."""
    array = _checks.stack_scalars(losses, "losses")
    if array.shape[0] != self.num_tasks:
      names = _checks.task_names(losses)
      raise ValueError(
        f"{self.method} was built with num_tasks={self.num_tasks}, but loss_fn "
        f"returned {array.shape[0]} losses"
        f"{' (' + ', '.join(names) + ')' if names else ''}: give it the number "
        "of losses that loss_fn returns."
      )
    return array.astype(solver_dtype())

  def result(self, params: Any, state: Any, aux: Any) -> Any:
    """What `update` returns."""
    return (params, state, aux) if self.has_aux else (params, state)


def network_optimizer(
  optimizer: Any, method: str
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of the params, which gets one gradient for all tasks.

  Raises:
    TypeError: It is no optax transformation, or there is a method in it.
  """
  _checks.check_transformation("optimizer", optimizer)
  return each_by_itself(
    optimizer,
    f"combines the gradients of all tasks, and {method} hands its optimizer "
    "one gradient, which it has combined itself: give it an optimizer of "
    "optax, such as optax.adam(1e-3).",
  )


def weight_learner(
  optimizer: Any, default: float
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of the weights; None: `optax.adam(default)`.

  Raises:
    TypeError: It is no optax transformation, or there is a method in it.
  """
  inner = optax.adam(default) if optimizer is None else optimizer
  _checks.check_transformation("weight_optimizer", inner)
  return each_by_itself(
    inner,
    "combines the gradients of all tasks, and weight_optimizer= is what learns "
    "the weights from one gradient: give it an optimizer of optax, such as "
    f"optax.adam({default:g}).",
  )


def check_rate(name: str, rate: Rate) -> None:
  """Raises where a rate is a number that is not positive, or no number."""
  if rate is None:
    raise TypeError(f"{name} must be a number or a schedule, got None.")
  if not callable(rate):
    _checks.check_range(name, rate, 0, open_low=True)


def rate_at(rate: Rate, step: jax.Array) -> jax.Array:
  """The rate in a step, a scalar in the solver's dtype."""
  with jax.numpy_dtype_promotion("standard"):  # For schedules, as of optax.
    value = rate(step) if callable(rate) else rate
  return jnp.asarray(value).astype(solver_dtype())


def moved(params: Any, gradient: Any, length: jax.Array) -> Any:
  """The params, `length` times a gradient further uphill.

  JAX's gradient of a complex leaf is the conjugate of the way uphill.
  """

  def move(param: jax.Array, slope: jax.Array) -> jax.Array:
    slope = wide(slope)
    if jnp.iscomplexobj(slope):
      slope = jnp.conj(slope)
    return (wide(param) + length * slope).astype(param.dtype)

  return jax.tree.map(move, jax.tree.map(jnp.asarray, params), gradient)


def squared_norm(tree: Any) -> jax.Array:
  """The squared length of one gradient, a scalar in the solver's dtype."""
  leaves = [jnp.asarray(leaf)[None] for leaf in jax.tree.leaves(tree)]
  return linalg.squared_norms(leaves, 1)[0]


def inverse_length(square: jax.Array) -> jax.Array:
  """One over the root of squared lengths, 0 for 0: what is zero stays so."""
  zero = square == 0
  return jnp.where(zero, 0.0, 1 / jnp.sqrt(jnp.where(zero, 1.0, square)))


def take_step(
  optimizer: optax.GradientTransformationExtraArgs,
  gradient: Any,
  state: Any,
  params: Any,
  extra_args: dict[str, Any],
) -> tuple[Any, Any]:
  """The params after a step of an optimizer, and its state.

  optax's own transformations mix dtypes: a user's strict setting, which this
  package obeys, would fail in them.
  """
  with jax.numpy_dtype_promotion("standard"):
    updates, state = optimizer.update(gradient, state, params, **extra_args)
    return optax.apply_updates(params, updates), state


def where_finite(gradient: jax.Array, new: Any, old: Any) -> Any:
  """`new` if all of a gradient [T] is finite, else `old`."""
  finite = jnp.all(jnp.isfinite(gradient))
  return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def softmax_slope(shares: jax.Array, slope: jax.Array) -> jax.Array:
  """What a softmax makes of the slope on its values.

  Args:
    shares: Array [T], the softmax.
    slope: Array [..., T], derivatives by the shares.

  Returns:
    Array [..., T], derivatives by the softmax's arguments.
  """
  mean = jnp.sum(slope * shares, axis=-1, keepdims=True)
  return (slope - mean) * shares
