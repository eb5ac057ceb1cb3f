"""What a rule becomes: a gradient transformation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._rule import Rule, UpdateRule
from optax_mtl._step import Step
from optax_mtl.sources.stacked import as_task_gradients
from optax_mtl.sources.task_gradients import TaskGradients


class WeightState(NamedTuple):
  """State of every method that weighs tasks.

  Attributes:
    weights: Array [T], the weights of the last update; 0 before the first.
    memory: What the method's rule remembers.
  """

  weights: jax.Array
  memory: Any


@dataclasses.dataclass(frozen=True)
class View:
  """What stands between the arguments of an update and what begins with a rule.

  Attributes:
    look: Function `(gradients, active, extra_args) -> (gradients, active)`,
      where `active` is an array [T] of bool, or None for all.
    check: Function from params that raises if the view does not fit them.
  """

  look: Callable[
    [TaskGradients, jax.Array | None, Mapping[str, Any]],
    tuple[TaskGradients, jax.Array | None],
  ]
  check: Callable[[Any], None] = lambda params: None


class Method(optax.GradientTransformationExtraArgs):
  """The gradient transformation that a rule becomes, and its parts.

  Who trains uses `init` and `update`. A wrapper changes one part: the rule, or
  what the rule sees of an update.

  Attributes:
    name: The method's name.
    num_tasks: The number of tasks `T`.
    rule: How a step is turned into weights or an update.
    views: What the rule sees of an update, outermost first.
  """

  name: str
  num_tasks: int
  rule: Rule
  views: tuple[View, ...]

  def with_rule(self, rule: Rule) -> "Method":
    """The same method with another rule."""
    return as_method(self.name, self.num_tasks, rule, self.views)

  def with_view(self, view: View) -> "Method":
    """The same method, seen through one more view."""
    return as_method(self.name, self.num_tasks, self.rule, (view, *self.views))


def as_method(
  name: str, num_tasks: int, rule: Rule, views: tuple[View, ...] = ()
) -> Method:
  """The transformation that checks, looks, weighs and combines.

  Args:
    name: What errors call the method.
    num_tasks: The number of tasks `T`.
    rule: The rule.
    views: As in `Method`.

  Returns:
    The method.
  """

  def init(params: Any) -> Any:
    for view in views:
      view.check(params)
    if isinstance(rule, UpdateRule):
      return own_buffers(rule.init(params))
    weights = jnp.zeros((num_tasks,), solver_dtype())
    return WeightState(weights, own_buffers(rule.init()))

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    active: Any = None,
    **extra_args: Any,
  ) -> tuple[Any, Any]:
    gradients = as_task_gradients(updates, num_tasks, params)
    named = {"the task gradients": gradients.names}
    named["active="] = _checks.task_names(active)
    active = gradients.taking_part(active)
    for view in views:
      gradients, active = view.look(gradients, active, extra_args)
    step = Step(name, gradients, active, extra_args)
    _checks.common_names(named | {"the extra args": step.names})
    if isinstance(rule, UpdateRule):
      new, state = rule.update(step, state)
      new = gradients.with_heads(new, active)
    else:
      memory = rule.observe(step, state.memory)
      weights, memory = rule.weigh(step, memory)
      weights = step.only_active(weights.astype(solver_dtype()))
      state = WeightState(weights, memory)
      new = gradients.combine(weights, keep=active)
      if rule.max_norm is not None:
        new = _limit_norm(new, rule.max_norm, gradients.shared)
    return like_params(new, params), state

  self = Method(init, update)
  self.name, self.num_tasks = name, num_tasks
  self.rule, self.views = rule, views
  return self


def own_buffers(state: Any) -> Any:
  """The state with a buffer for each leaf, so that all can be donated.

  An array in two fields, or one that the caller keeps, would be donated twice,
  or deleted under the caller. Types are no longer weak either, as a Python
  number in `init` makes them: a state that changes its type breaks `scan`.
  """
  return jax.tree.map(
    lambda x: jnp.array(x, dtype=jnp.result_type(x), copy=True), state
  )


def like_params(update: Any, params: Any) -> Any:
  """The update in the params' dtypes, if these are known."""
  if params is None:
    return update
  return jax.tree.map(lambda u, p: u.astype(jnp.result_type(p)), update, params)


def _limit_norm(update: Any, max_norm: ArrayLike, shared: Any) -> Any:
  """The update, its shared leaves scaled down to a norm of `max_norm`.

  Args:
    update: Tree of arrays.
    max_norm: Scalar, positive.
    shared: Tree of bools, or None: all leaves are shared.

  Returns:
    The tree, in the same dtypes.
  """
  leaves, structure = jax.tree.flatten(update)
  trunk = [True] * len(leaves)
  if shared is not None:
    trunk = jax.tree.leaves(shared)
  dtype = solver_dtype()
  sizes = [
    jnp.abs(leaf).astype(dtype)
    for leaf, in_trunk in zip(leaves, trunk, strict=True)
    if in_trunk and leaf.size
  ]
  if not sizes:
    return update
  # Relative to the largest entry, so that no square over- or underflows.
  largest = jnp.max(jnp.stack([jnp.max(size) for size in sizes]))
  unit = jnp.where(largest > 0, largest, jnp.ones_like(largest))
  norm = unit * jnp.sqrt(sum(jnp.sum(jnp.square(s / unit)) for s in sizes))
  limit = jnp.asarray(max_norm, dtype)
  # Written so that a NaN norm gives a NaN update, and shows.
  factor = jnp.where(norm <= limit, jnp.ones_like(norm), limit / norm)

  def scale(leaf: jax.Array, in_trunk: bool) -> jax.Array:
    if not in_trunk:
      return leaf
    return _scaled(leaf, factor)

  return jax.tree.unflatten(
    structure, [scale(*pair) for pair in zip(leaves, trunk, strict=True)]
  )


def _scaled(leaf: jax.Array, factor: jax.Array) -> jax.Array:
  """`leaf * factor` computed in float32 at least, in the leaf's dtype."""
  with jax.numpy_dtype_promotion("standard"):
    return (leaf * factor).astype(leaf.dtype)
