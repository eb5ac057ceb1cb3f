"""What a rule becomes: a gradient transformation."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks, _placement, _state_checks, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._rule import Rule, UpdateRule
from optax_mtl._step import Step, WatchedArgs, near_name
from optax_mtl.sources.stacked import as_task_gradients
from optax_mtl.sources.task_gradients import TaskGradients


class _WeightStateFields(NamedTuple):
  """The fields of `WeightState`."""

  weights: jax.Array
  memory: Any


class WeightState(_WeightStateFields):
  """State of every method that weighs tasks.

  Attributes:
    weights: Array [T], the weights of the last update; 0 before the first. They
      are an output: no update reads them, and they cannot be set.
    memory: What the method's rule remembers.
  """

  __slots__ = ()

  # Final to a type checker, for which it only sets fields.
  def _replace(  # pyright: ignore[reportIncompatibleMethodOverride]
    self, **changes: Any
  ) -> "WeightState":
    """As of every `NamedTuple`, for anything but other weights.

    `optax.tree.set` replaces fields by this, and hands over those that stay.

    Raises:
      TypeError: Weights would be set, which the next update would not see.
    """
    if changes.get("weights", self.weights) is not self.weights:
      raise TypeError(
        "The weights in a state are those of the last update. The next update "
        "does not read them, so setting them would change nothing. For weights "
        "of your own build optax_mtl.fixed_weighting(num_tasks) and call "
        "tx.update(grads, state, params, weights=weights). A hyperparameter of "
        "optax.inject_hyperparams that is called weights is set in "
        "state.hyperparams alone; what a method learns is in state.memory."
      )
    return WeightState(**(self._asdict() | changes))

  #: What `copy.replace` calls, from Python 3.13 on.
  __replace__ = _replace


@dataclasses.dataclass(frozen=True)
class View:
  """What stands between the arguments of an update and what begins with a rule.

  Attributes:
    look: Function `(gradients, active, extra_args) -> (gradients, active)`,
      where `active` is an array [T] of bool, or None for all.
    check: Function from params that raises if the view does not fit them.
    rewrite: Function of the same arguments as `look`, as that was given them,
      to the extra args of what comes next.
  """

  look: Callable[
    [TaskGradients, jax.Array | None, Mapping[str, Any]],
    tuple[TaskGradients, jax.Array | None],
  ]
  check: Callable[[Any], None] = lambda params: None
  rewrite: Callable[
    [TaskGradients, jax.Array | None, Mapping[str, Any]], Mapping[str, Any]
  ] = lambda gradients, active, extra_args: extra_args

  def __call__(
    self,
    gradients: TaskGradients,
    active: jax.Array | None,
    extra_args: Mapping[str, Any],
  ) -> tuple[TaskGradients, jax.Array | None, Mapping[str, Any]]:
    """What comes next sees: gradients, active tasks and extra args."""
    seen = self.look(gradients, active, extra_args)
    return *seen, self.rewrite(gradients, active, extra_args)


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
    _placement.reach(name)
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
    _placement.reach(name)
    gradients = as_task_gradients(updates, num_tasks, params)
    named = {"the task gradients": gradients.names}
    named["active="] = _checks.task_names(active)
    given, active = active, gradients.taking_part(active)
    seen: Mapping[str, Any] = extra_args
    for view in views:
      gradients, active, seen = view(gradients, active, seen)
    args = WatchedArgs(seen)
    step = Step(name, gradients, active, args)
    _checks.common_names(named | {"the extra args": step.names})
    if isinstance(rule, UpdateRule):
      _refuse_weighted_heads(name, gradients)
      # Its memory may be shaped like the params; without them nobody can tell.
      if params is not None:
        wanted = jax.eval_shape(rule.init, params)
        _state_checks.check_memory(name, state, wanted)
      new, state = rule.update(step, state)
      new = gradients.with_heads(new, active)
    else:
      if not isinstance(state, WeightState):
        _state_checks.refuse(name, state, WeightState)
      _state_checks.check_memory(name, state.memory, own_memory())
      _check_number(name, num_tasks, state)
      memory = rule.observe(step, state.memory)
      weights, memory = rule.weigh(step, memory)
      weights = step.only_active(weights.astype(solver_dtype()))
      state = WeightState(weights, memory)
      new = gradients.combine(weights, keep=active)
      if rule.max_norm is not None:
        new = _limit_norm(new, rule.max_norm, gradients.shared)
    _refuse_unread_weights(name, args)
    warn_of_slips(
      name, {**extra_args, "active": given}, {"active", *args.asked}
    )
    return like_params(new, params), state

  @functools.cache
  def own_memory() -> Any:
    """A memory of this rule, as far as it can be told without computing it."""
    return jax.eval_shape(rule.init)

  self = Method(init, update)
  self.name, self.num_tasks = name, num_tasks
  self.rule, self.views = rule, views
  return self


def _check_number(method: str, num_tasks: int, state: WeightState) -> None:
  """Raises if a state is that of another number of tasks."""
  if jnp.shape(state.weights) != (num_tasks,):
    raise ValueError(
      f"{method} was built with num_tasks={num_tasks}, but its state has "
      f"weights of shape {list(jnp.shape(state.weights))}: it is that of "
      "another number of tasks. Start with init."
    )


def _refuse_weighted_heads(method: str, gradients: TaskGradients) -> None:
  """Raises if heads are to get the weights of a method that has none."""
  if gradients.shared is not None and gradients.heads == "weighted":
    raise ValueError(
      'heads="weighted" asks for the trunk\'s weights on the heads, and '
      f"{method} has none: it makes its update from the gradients themselves. "
      'Leave heads= at "sum": each head gets its own gradient.'
    )


def _refuse_unread_weights(method: str, args: WatchedArgs) -> None:
  """Raises if `weights=` came with an update whose rule did not look at them.

  Any other extra arg may be meant for what follows in the chain. Weights that
  are given to a method are meant for the method, and trained without in
  silence.
  """
  if args.args.get("weights") is None or "weights" in args.asked:
    return
  raise TypeError(
    f"{method} computes its weights itself, and does not read weights=. For "
    "weights of your own use optax_mtl.fixed_weighting(num_tasks), which takes "
    f"them with each update; for their product with those of {method}, "
    "optax_mtl.weighted_then(fixed_weighting(num_tasks), method). Where they "
    "are meant for another transformation of the chain, give that one another "
    "name for them: optax_mtl.rename_args(tx, weights='other_weights')."
  )


def warn_of_slips(
  owner: str, given: Mapping[str, Any], asked: set[str]
) -> None:
  """Warns of extra args that have all but the name of one that is not there.

  Any name may be meant for what follows in the chain. One that is nearly that
  of an argument which the method would use is most likely meant for it.

  Args:
    owner: The name of the method, or of what else takes some.
    given: The extra args of the update, as they came.
    asked: Which of them it looked for.
  """
  others = [name for name in given if name not in asked]
  for wanted in sorted(asked):
    near = near_name(wanted, others)
    if given.get(wanted) is None and near is not None:
      warnings.warn(
        f"{owner} takes {wanted}=, and this update has {near}= in its place, "
        f"which no method reads. If it is meant for another transformation of "
        "the chain, optax_mtl.rename_args gives it another name.",
        stacklevel=2,
      )


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


def _square_in(leaf: jax.Array, unit: jax.Array) -> jax.Array:
  """The squares of a leaf's entries, in units of another size."""
  return jnp.square(jnp.abs(leaf).astype(unit.dtype) / unit)


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
  limit = jnp.asarray(max_norm, solver_dtype())
  # So that no square overflows below 1e28 limits, and what underflows, entries
  # of 1e-10 limits, is nothing beside a norm that is to be limited. The largest
  # entry would do as well, and take another pass over the update.
  unit = jnp.minimum(limit, 2.0**30) * 2.0**30
  square = linalg.total(
    _square_in,
    [leaf for leaf, on in zip(leaves, trunk, strict=True) if on],
    numbers=[unit],
  )
  norm = unit * jnp.sqrt(square)
  # Written so that a norm that is not finite gives a NaN update, and shows.
  shrink = jnp.where(jnp.isfinite(norm), limit / norm, jnp.nan)
  factor = jnp.where(norm <= limit, jnp.ones_like(norm), shrink)

  def scale(leaf: jax.Array, in_trunk: bool) -> jax.Array:
    if not in_trunk:
      return leaf
    return linalg.scaled(leaf, factor)

  return jax.tree.unflatten(
    structure, [scale(*pair) for pair in zip(leaves, trunk, strict=True)]
  )
