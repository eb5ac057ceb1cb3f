"""The loss function, in any of the forms that a source takes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optax_mtl import sources
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources.terms import arguments_of

#: `(params, *batch) -> losses`; a dict of terms; or a trunk and its heads.
LossFunction = (
  Callable[..., Any]
  | Mapping[Any, Callable[..., Any]]
  | tuple[Callable[..., Any], Callable[..., Any]]
)
#: From which leaves are shared to a source's `(params, *batch) -> (losses,
#: task gradients)`.
Source = Callable[[Any], Callable[..., tuple[Any, Any]]]


@dataclasses.dataclass(frozen=True)
class Form:
  """One loss function, and the sources that take it.

  Attributes:
    losses: `(params, *batch) -> losses`, an array, a sequence or a dict.
    sources: By name; "representation" only where the trunk's function is known.
  """

  losses: Callable[..., Any]
  sources: Mapping[str, Source]


def _without_aux(
  source: Callable[..., Any], has_aux: bool
) -> Callable[..., tuple[Any, Any]]:
  def differentiated(params: Any, *batch: Any) -> tuple[Any, Any]:
    value, grads = source(params, *batch)
    return (value[0] if has_aux else value), grads

  return differentiated


def _stored_or_not(
  source: Callable[..., Any], fun: Any, has_aux: bool
) -> dict[str, Source]:
  """The two forms of a source that can store gradients or do without."""

  def of(kind: Literal["stacked", "implicit"]) -> Source:
    return lambda shared: _without_aux(
      source(fun, has_aux=has_aux, source=kind, shared=shared), has_aux
    )

  return {"stacked": of("stacked"), "implicit": of("implicit")}


def _of_terms(terms: Mapping[Any, Callable[..., Any]], has_aux: bool) -> Form:
  def loss(name: Any, params: Any, batch: Any) -> Any:
    if batch is None:
      return jnp.zeros(())
    value = terms[name](params, *arguments_of(batch))
    return losses_lib.split(value, has_aux, f"the function of {name}")[0]

  def losses(params: Any, batches: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: loss(name, params, batches.get(name)) for name in terms}

  source = sources.value_and_task_batch_grads
  return Form(losses, _stored_or_not(source, terms, has_aux))


def _of_function(fun: Callable[..., Any], has_aux: bool) -> Form:
  def losses(params: Any, *batch: Any) -> Any:
    value = fun(params, *batch)
    return losses_lib.split(value, has_aux, "loss_function")[0]

  source = sources.value_and_task_grads
  return Form(losses, _stored_or_not(source, fun, has_aux))


def _of_trunk_and_heads(
  trunk_fn: Callable[..., Any], heads_fn: Callable[..., Any], has_aux: bool
) -> Form:
  def fun(params: Any, *batch: Any) -> Any:
    z, _ = losses_lib.split(trunk_fn(params, *batch), has_aux, "trunk_fn")
    return heads_fn(params, z, *batch)

  def at_representation(shared: Any) -> Callable[..., tuple[Any, Any]]:
    return _without_aux(
      sources.value_and_representation_grads(
        trunk_fn, heads_fn, has_aux, shared=shared
      ),
      has_aux,
    )

  form = _of_function(fun, has_aux)
  return Form(
    form.losses, {**form.sources, "representation": at_representation}
  )


def form_of(loss_function: LossFunction, has_aux: bool) -> Form:
  """Tells the three forms apart.

  Raises:
    TypeError: It is none of them.
  """
  if isinstance(loss_function, Mapping):
    return _of_terms(loss_function, has_aux)
  if isinstance(loss_function, tuple):
    if len(loss_function) == 2 and all(map(callable, loss_function)):
      return _of_trunk_and_heads(*loss_function, has_aux)
  elif callable(loss_function):
    return _of_function(loss_function, has_aux)
  raise TypeError(
    "loss_function must be a function from (params, *batch) to the losses, a "
    "dict of functions by the tasks' names, or a pair (trunk_fn, heads_fn); "
    f"got {loss_function!r}."
  )


def as_args(batches: Sequence[Any]) -> list[tuple[Any, ...]]:
  """Each batch as the arguments after the params.

  Raises:
    TypeError: `batches` is no list.
    ValueError: There is none.
  """
  if not isinstance(batches, list | tuple):
    raise TypeError(
      "batches must be a list of batches, each a tuple of the arguments after "
      f"the params, or one argument; got {type(batches).__name__}. A single "
      "batch goes into a list of one."
    )
  if not batches:
    raise ValueError("batches is empty: at least one is needed.")
  return [arguments_of(batch) for batch in batches]


def task_names(form: Form, params: Any, args: tuple[Any, ...]) -> list[str]:
  """The tasks' names, sorted; "task 0" and so on where losses have none."""
  losses = jax.eval_shape(form.losses, params, *args)
  if isinstance(losses, Mapping):
    return [str(name) for name in sorted(losses)]
  (count,) = jax.eval_shape(losses_lib.stack, losses).shape
  return [f"task {number}" for number in range(count)]
