"""Convolutions that stay fast on CPU inside a loop or a branch.

XLA's CPU compiler brings convolutions into the layout of its fast kernel, but
only in a module's entry computation. The backward pass of a convolution has
another layout, so inside a `while` or a `cond` it runs on the naive kernel:
48 ms instead of 1.3 ms for a 3x3 kernel with 32 channels. Writing the
transposes out, as `canonicalize` does, gives every place the fast kernel. It
does so in programs for CPU alone: other compilers choose layouts by themselves.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from optax_mtl import _jax_programs


def _canonical(
  lhs: jax.Array, rhs: jax.Array, params: dict[str, Any]
) -> jax.Array:
  """A convolution as channels-last with a spatial-first kernel."""
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
  out = lax.conv_general_dilated(lhs, rhs, **params)
  batch, feature, *space = numbers.out_spec
  axes = [0] * len(numbers.out_spec)
  axes[feature] = last
  for position, axis in enumerate(space):
    axes[axis] = position + 1
  return lax.transpose(out, axes)


def _by_platform(
  lhs: jax.Array, rhs: jax.Array, params: dict[str, Any]
) -> jax.Array:
  """The same convolution, canonical in programs for CPU."""
  return lax.platform_dependent(
    lhs,
    rhs,
    cpu=lambda lhs, rhs: _canonical(lhs, rhs, params),
    default=lambda lhs, rhs: lax.conv_general_dilated(lhs, rhs, **params),
  )


def canonical_program(
  program: _jax_programs.Program,
) -> Callable[[Any], Any]:
  """The function of a traced program, as `canonicalize` returns it."""
  return _jax_programs.replace_convolutions(program, _by_platform)


def canonicalize(
  fun: Callable[[Any], Any], example: Any
) -> Callable[[Any], Any]:
  """The same function of one pytree, with convolutions canonical on CPU.

  Convolutions inside the function's own loops and branches stay as they are.

  Args:
    fun: A function of one pytree of arrays that returns a pytree.
    example: A pytree of arrays or `ShapeDtypeStruct`, the argument's shapes.

  Returns:
    A function with the same values; `fun` itself where it has no convolution.
  """
  return canonical_program(_jax_programs.trace(fun, example))
