"""Convolutions that stay fast on CPU inside a loop or a branch.

XLA's CPU compiler brings convolutions into the layout of its fast kernel, but
only in a module's entry computation. The backward pass of a convolution has
another layout, so inside a `while` or a `cond` it runs on the naive kernel:
48 ms instead of 1.3 ms for a 3x3 kernel with 32 channels. Writing the
transposes out, as `canonicalize` does, gives every place the fast kernel.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

_INLINED = ("jit", "pjit", "closed_call", "core_call")
# Rebuilt around a canonical body: inlined, nothing would be rematerialized.
_REBUILT = ("remat2", "checkpoint")
_ENTERED = _INLINED + _REBUILT


def _conv(lhs: jax.Array, rhs: jax.Array, params: dict[str, Any]) -> jax.Array:
  """The same convolution as channels-last with a spatial-first kernel."""
  numbers = params["dimension_numbers"]
  batch, feature, *space = numbers.lhs_spec
  lhs = lax.transpose(lhs, (batch, *space, feature))
  out_feature, in_feature, *space = numbers.rhs_spec
  rhs = lax.transpose(rhs, (*space, in_feature, out_feature))
  last = len(space) + 1
  spatial = tuple(range(1, last))
  params = params | {
    "dimension_numbers": lax.ConvDimensionNumbers(
      (0, last, *spatial),
      (last, last - 1, *range(last - 1)),
      (0, last, *spatial),
    )
  }
  out = lax.conv_general_dilated_p.bind(lhs, rhs, **params)
  batch, feature, *space = numbers.out_spec
  axes = [0] * len(numbers.out_spec)
  axes[feature] = last
  for position, axis in enumerate(space):
    axes[axis] = position + 1
  return lax.transpose(out, axes)


def _has_conv(jaxpr: Any) -> bool:
  """Whether a convolution stands in the jaxpr or in one that is entered."""
  return any(
    eqn.primitive is lax.conv_general_dilated_p
    or (eqn.primitive.name in _ENTERED and _has_conv(_inner(eqn).jaxpr))
    for eqn in jaxpr.eqns
  )


def _inner(eqn: Any) -> Any:
  """The closed jaxpr that a call runs."""
  inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
  if hasattr(inner, "jaxpr"):
    return inner
  return jax.extend.core.ClosedJaxpr(inner, ())


def _run(closed: Any, args: Any) -> list[Any]:
  """Evaluates a closed jaxpr with canonical convolutions."""
  env = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
  env |= zip(closed.jaxpr.invars, args, strict=True)

  def read(var):
    return var.val if isinstance(var, jax.extend.core.Literal) else env[var]

  for eqn in closed.jaxpr.eqns:
    values = [read(var) for var in eqn.invars]
    if eqn.primitive is lax.conv_general_dilated_p:
      out = [_conv(*values, eqn.params)]
    elif eqn.primitive.name in _INLINED and _has_conv(_inner(eqn).jaxpr):
      out = _run(_inner(eqn), values)
    elif eqn.primitive.name in _REBUILT and _has_conv(_inner(eqn).jaxpr):
      body = jax.make_jaxpr(functools.partial(_run, _inner(eqn)))(values)
      out = eqn.primitive.bind(*values, **eqn.params | {"jaxpr": body.jaxpr})
    else:
      out = eqn.primitive.bind(*values, **eqn.params)
      out = out if eqn.primitive.multiple_results else [out]
    env |= zip(eqn.outvars, out, strict=True)
  return [read(var) for var in closed.jaxpr.outvars]


def canonicalize(
  fun: Callable[[Any], Any], example: Any
) -> Callable[[Any], Any]:
  """The same function of one pytree, with canonical convolutions.

  Convolutions inside the function's own loops and branches stay as they are.

  Args:
    fun: A function of one pytree of arrays that returns a pytree.
    example: A pytree of arrays or `ShapeDtypeStruct`, the argument's shapes.

  Returns:
    A function with the same values; `fun` itself where it has no convolution.
  """
  closed, out_shape = jax.make_jaxpr(fun, return_shape=True)(example)
  if not _has_conv(closed.jaxpr):
    return fun
  structure = jax.tree.structure(out_shape)

  def canonical(arg):
    return jax.tree.unflatten(structure, _run(closed, jax.tree.leaves(arg)))

  return canonical
