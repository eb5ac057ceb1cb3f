"""Two methods after each other: one weighs, the other combines."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl._dtypes import solver_dtype
from optax_mtl._rule import Rule, UpdateRule, WeightRule
from optax_mtl._step import RefusedArg, Step, WatchedArgs
from optax_mtl._transformation import Method, as_method
from optax_mtl.sources.scaled import ScaledTaskGradients
from optax_mtl.sources.stacked import as_task_gradients


class WeightedThenMemory(NamedTuple):
  """What two methods after each other remember.

  Attributes:
    first_weights: Array [T], the weights of the first method's last update.
    first: The memory of the first method's rule.
    second: The memory of the second method's rule.
  """

  first_weights: jax.Array
  first: Any
  second: Any


def weighted_then(
  first: optax.GradientTransformation, second: optax.GradientTransformation
) -> Method:
  """Weighs the losses by one method, and their gradients by another.

  The second method sees the gradients `w_i g_i`, with `w` the weights of the
  first: `weighted_then(dwa(...), pcgrad(T))` is gradient surgery on the
  gradients that DWA weighs, and `weighted_then(fixed_weighting(T, w), mgda(T))`
  MGDA with priorities of your own. The weights in the state are the products of
  both. The losses and other extra args that the second method reads are those
  that were given: only gradients are weighted.

  Args:
    first: A method that has weights, as its function returns it, or in
      `refresh_every`, `ema_weights` or `on_tasks`.
    second: Another, of as many tasks; it may be one without weights.

  Returns:
    A method: wrappers of both go around it. Its update takes the arguments of
    both.

  Raises:
    TypeError: One of them is no method, or stands in a wrapper that belongs
      around both; or the first has no weights.
    ValueError: The numbers of tasks differ, or the first limits the norm of an
      update that it never makes.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.weighted_then(
    ...   optax_mtl.fixed_weighting(2, [1.0, 0.5]), optax_mtl.mgda(2)
    ... )
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 4.0]]), state)
    >>> print(updates.round(3), state.weights.round(3))
    [0.8 0.4] [0.8 0.1]
  """
  one, two = _method(first), _method(second)
  if one.num_tasks != two.num_tasks:
    raise ValueError(
      f"weighted_then needs two methods of the same tasks: {one.name} is of "
      f"{one.num_tasks}, {two.name} of {two.num_tasks}."
    )
  if not isinstance(one.rule, WeightRule):
    raise TypeError(
      f"weighted_then weighs by its first method, and {one.name} has no "
      "weights: it makes its update from the gradients themselves. It can be "
      "the second."
    )
  if one.rule.max_norm is not None:
    raise ValueError(
      f"weighted_then makes no update with {one.name}, whose norm it could "
      f"limit: build {one.name} with max_norm=None."
    )
  name = f"weighted_then({one.name}, {two.name})"
  return as_method(name, one.num_tasks, _composed(one, one.rule, two))


def _method(tx: optax.GradientTransformation) -> Method:
  if not isinstance(tx, Method):
    raise TypeError(
      "weighted_then takes methods of optax_mtl themselves, got a "
      f"{type(tx).__name__}. Put what follows after it, in optax.chain, and "
      "wrappers such as skip_nonfinite and accumulate around it."
    )
  if tx.views:
    raise TypeError(
      f"weighted_then got {tx.name} in a wrapper that changes what a method "
      "sees (on_trunk, drop_nonfinite, log_losses). Both methods have to see "
      "the same: put that wrapper around weighted_then(...)."
    )
  return tx


def _composed(one: Method, first: WeightRule[Any], two: Method) -> Rule:
  """The rule of both; `first` is the first method's."""
  second = two.rule

  def first_memory() -> tuple[jax.Array, Any]:
    return jnp.zeros((one.num_tasks,), solver_dtype()), first.init()

  def begin(step: Step) -> tuple[Step, Step]:
    """The step as each method is named in errors."""
    return (
      dataclasses.replace(step, method=one.name),
      dataclasses.replace(step, method=two.name),
    )

  def weighted(step: Step, weights: jax.Array) -> Step:
    """The step in which each gradient is weighted."""
    extra = step.extra
    # Not by `step.second_grads`: to read it is to need it.
    second_batch = dict(extra.items()).get("second_grads")
    if second_batch is not None and not isinstance(second_batch, RefusedArg):
      second_grads = ScaledTaskGradients(
        as_task_gradients(second_batch, one.num_tasks), weights
      )
      extra = WatchedArgs.changed(extra, second_grads=second_grads)
    return dataclasses.replace(
      step,
      gradients=ScaledTaskGradients(step.gradients, weights),
      extra=extra,
    )

  def weigh_first(step: Step, memory: Any) -> tuple[jax.Array, Any]:
    weights, memory = first.weigh(step, memory)
    return step.only_active(weights.astype(solver_dtype())), memory

  if isinstance(second, UpdateRule):

    def init_both(params: Any) -> WeightedThenMemory:
      return WeightedThenMemory(*first_memory(), second.init(params))

    def update(
      step: Step, memory: WeightedThenMemory
    ) -> tuple[Any, WeightedThenMemory]:
      now, then = begin(step)
      weights, kept = weigh_first(now, first.observe(now, memory.first))
      new, others = second.update(weighted(then, weights), memory.second)
      return new, WeightedThenMemory(weights, kept, others)

    return UpdateRule(update, init_both)

  def init() -> WeightedThenMemory:
    return WeightedThenMemory(*first_memory(), second.init())

  def observe(step: Step, memory: WeightedThenMemory) -> WeightedThenMemory:
    now, then = begin(step)
    return memory._replace(
      first=first.observe(now, memory.first),
      second=second.observe(then, memory.second),
    )

  def weigh(
    step: Step, memory: WeightedThenMemory
  ) -> tuple[jax.Array, WeightedThenMemory]:
    now, then = begin(step)
    weights, kept = weigh_first(now, memory.first)
    factors, others = second.weigh(weighted(then, weights), memory.second)
    both = weights * step.only_active(factors.astype(weights.dtype))
    return both, WeightedThenMemory(weights, kept, others)

  return WeightRule(weigh, init, observe, second.max_norm)
