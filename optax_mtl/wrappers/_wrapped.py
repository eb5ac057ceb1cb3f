"""How wrappers nest: each says how to build itself around something else."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks, _placement
from optax_mtl._rule import Rule, WeightRule
from optax_mtl._transformation import Method, View
from optax_mtl.sources.stacked import as_task_gradients

_Transformation = TypeVar("_Transformation", bound=optax.GradientTransformation)


class Wrapped(optax.GradientTransformationExtraArgs):
  """A transformation around another one, which can be put around a third.

  So a wrapper that changes a method's rule finds the method however deep it
  stands, and wrappers nest in any order.

  Attributes:
    inner: What is wrapped.
    rebuild: Function from another inner transformation to the same wrapper
      around that.
    translates: Whether it says where the arguments of an update are to be found
      at all. Then it stays outermost, whatever is put around it: wrappers read
      what it translates.
  """

  inner: optax.GradientTransformation
  rebuild: Callable[[optax.GradientTransformation], "Wrapped"]
  translates: bool


def wrapped(
  init: Callable[..., Any],
  update: Callable[..., Any],
  inner: optax.GradientTransformation,
  rebuild: Callable[[optax.GradientTransformation], Wrapped],
  *,
  translates: bool = False,
) -> Wrapped:
  """The transformation, knowing what it is around."""
  self = Wrapped(init, update)
  self.inner, self.rebuild, self.translates = inner, rebuild, translates
  return self


def method_in(tx: Any) -> Method | None:
  """The method, if it is one or wrappers around one; a chain hides its own."""
  while isinstance(tx, Wrapped):
    tx = tx.inner
  return tx if isinstance(tx, Method) else None


def init_around(
  wrapper: str, inner: optax.GradientTransformation, params: Any
) -> Any:
  """The first state of what a wrapper gives task gradients to.

  Args:
    wrapper: What errors call the wrapper.
    inner: A method, or anything that begins with one.
    params: The params.

  Returns:
    The state.

  Raises:
    TypeError: There is no method in it.
  """
  with _placement.looking_on() as place:
    state = inner.init(params)
  if not place.reached:
    raise TypeError(
      f"{wrapper} goes around a method of optax_mtl, or a chain that begins "
      f"with one: {wrapper}(optax.chain(optax_mtl.mgda(num_tasks), "
      "optax.adam(1e-3)), ...). What it was given holds no method, and could "
      "not take the gradients of several tasks."
    )
  return state


def update_around(
  wrapper: str,
  inner: optax.GradientTransformationExtraArgs,
  updates: Any,
  state: Any,
  params: Any,
  extra_args: Mapping[str, Any],
) -> tuple[Any, Any]:
  """The update of what may also be something that follows a method.

  Args:
    wrapper: What errors call the wrapper.
    inner: A method, or a transformation of whatever comes.
    updates: What came.
    state: The state of `inner`.
    params: The params, if known.
    extra_args: The extra args.

  Returns:
    The new updates and the new state.

  Raises:
    TypeError: It made updates with a task axis of stacked gradients: optimizers
      and `apply_updates` would broadcast the params to them in silence.
  """
  with _placement.looking_on() as place:
    new, state = inner.update(updates, state, params, **extra_args)
  if params is None or place.reached:
    return new, state
  pairs = zip(jax.tree.leaves(new), jax.tree.leaves(params), strict=False)
  for leaf, param in pairs:
    shape = jnp.shape(leaf)
    if len(shape) > jnp.ndim(param) and shape[1:] == jnp.shape(param):
      raise TypeError(
        f"{wrapper} was given stacked gradients, of shape {list(shape)} for a "
        f"param of shape {list(jnp.shape(param))}, and holds no method that "
        f"combines them. Put a method first in it: {wrapper}(optax.chain("
        "optax_mtl.mgda(num_tasks), optax.adam(1e-3)), ...)."
      )
  return new, state


def within_translators(
  wrap: Callable[[optax.GradientTransformation], _Transformation],
  tx: optax.GradientTransformation,
) -> _Transformation:
  """`wrap(tx)`, where wrappers that translate stay outside of it."""
  if isinstance(tx, Wrapped) and tx.translates:
    return cast(_Transformation, tx.rebuild(within_translators(wrap, tx.inner)))
  return wrap(tx)


def change_rule(
  tx: _Transformation, change: Callable[[Method], Rule], wrapper: str
) -> _Transformation:
  """The same transformation, in which a method's rule has been changed.

  Args:
    tx: A method, or wrappers around one.
    change: Function from the method to another rule.
    wrapper: What errors call the wrapper.

  Returns:
    The transformation.

  Raises:
    TypeError: There is no method.
  """
  if isinstance(tx, Wrapped):
    inner = change_rule(tx.inner, change, wrapper)
    return cast(_Transformation, tx.rebuild(inner))
  if not isinstance(tx, Method):
    raise TypeError(
      f"{wrapper} wraps a method of optax_mtl itself, got "
      f"{type(tx).__name__}. Put it inside the chain, "
      f"optax.chain({wrapper}(method, ...), optax.adam(...)), and inside of "
      f"hyperparameters, inject_hyperparams(lambda ...: {wrapper}(method))."
    )
  return cast(_Transformation, tx.with_rule(change(tx)))


def change_weights(
  tx: _Transformation,
  change: Callable[[int, WeightRule[Any]], WeightRule[Any]],
  wrapper: str,
) -> _Transformation:
  """As `change_rule`, for what changes how weights come about.

  Args:
    tx: A method, or wrappers around one.
    change: Function from the number of tasks and the method's rule to another.
    wrapper: What errors call the wrapper.

  Returns:
    The transformation.

  Raises:
    TypeError: There is no method, or it has no weights.
  """

  def of_weights(method: Method) -> Rule:
    if not isinstance(method.rule, WeightRule):
      raise TypeError(
        f"{wrapper} changes how weights come about, and {method.name} has "
        "none: it makes its update from the gradients themselves."
      )
    return change(method.num_tasks, method.rule)

  return change_rule(tx, of_weights, wrapper)


def seen_through(
  tx: _Transformation, view: View, wrapper: str
) -> _Transformation:
  """What begins with a method, shown another view of the update's arguments.

  Args:
    tx: A method, wrappers around one, or any transformation that begins with
      one, as a chain.
    view: The view.
    wrapper: What errors call the wrapper.

  Returns:
    A method for a method, else a transformation of the same state.
  """
  if isinstance(tx, Method):
    return cast(_Transformation, tx.with_view(view))
  if isinstance(tx, Wrapped) and tx.translates:
    return cast(
      _Transformation,
      within_translators(lambda inner: seen_through(inner, view, wrapper), tx),
    )
  _checks.check_transformation("inner", tx)
  inner = optax.with_extra_args_support(tx)

  def init(params: Any) -> Any:
    view.check(params)
    return init_around(wrapper, inner, params)

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    active: Any = None,
    **extra_args: Any,
  ) -> tuple[Any, Any]:
    gradients = as_task_gradients(updates, None, params)
    gradients, active, seen = view(gradients, active, extra_args)
    if active is not None:
      seen = {**seen, "active": active}
    # optax hands updates on untouched, whatever they are.
    return inner.update(cast(Any, gradients), state, params, **seen)

  return cast(
    _Transformation,
    wrapped(
      init,
      update,
      tx,
      lambda other: cast(Wrapped, seen_through(other, view, wrapper)),
    ),
  )
