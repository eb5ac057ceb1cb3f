"""Products with a Gram matrix in twice the working precision.

The entries of a Gram matrix are given to one rounding each, and a solver that
adds none of its own loses nothing more. Here are the means: scaling by powers
of two, which rounds nothing; numbers carried as a sum of two; and products of a
matrix and a vector from pieces so short that their products are exact. Nothing
depends on whether a compiler contracts `a * b + c` into one operation: wherever
that would matter, the product is exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _unit_gram


class Pair(NamedTuple):
  """The number `high + low`, with `low` at most half a rounding of `high`."""

  high: jax.Array
  low: jax.Array


class BinaryGram(NamedTuple):
  """A Gram matrix scaled to a diagonal near 1, exactly.

  Attributes:
    gram: `[T, T]`, symmetric, entries of at most 2.25. The identity in the rows
      and columns of tasks that take no part, or everywhere if an active entry
      was not finite.
    powers: `[T]`, the powers of two nearest to the gradients' lengths, which
      the rows and columns were divided by.
    lengths: `[T]` pair, the square root of `gram`'s diagonal, between 0.75 and
      1.5.
  """

  gram: jax.Array
  powers: jax.Array
  lengths: Pair


def power_of_two(x: jax.Array) -> jax.Array:
  """The power of two nearest to positive, normal numbers; 0 for 0."""
  return lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, 0)


def two_sum(a: jax.Array, b: jax.Array) -> Pair:
  """`a + b`, exactly."""
  total = a + b
  part = total - a
  return Pair(total, (a - (total - part)) + (b - part))


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`x` as a sum of two numbers with half the digits each."""
  info = jnp.finfo(x.dtype)
  high = lax.reduce_precision(x, info.nexp, (info.nmant + 1) // 2 - 1)
  return high, x - high


def multiply(a: jax.Array, b: jax.Array) -> Pair:
  """`a * b`, to one and a half times the digits of either."""
  (a1, a2), (b1, b2) = _halves(a), _halves(b)
  lead = two_sum(a1 * b1, a1 * b2 + a2 * b1)
  return two_sum(lead.high, lead.low + a2 * b2)


def scale(x: Pair, factor: jax.Array) -> jax.Array:
  """`x * factor`, with a single rounding."""
  product = multiply(x.high, factor)
  return product.high + (product.low + x.low * factor)


def divide(x: Pair, y: Pair) -> Pair:
  """`x / y`."""
  quotient = x.high / y.high
  back = multiply(quotient, y.high)
  rest = (x.high - back.high) - back.low + (x.low - quotient * y.low)
  return two_sum(quotient, rest / y.high)


def total(x: Pair) -> Pair:
  """The sum of the entries of a vector."""
  digits = jnp.finfo(x.high.dtype).nmant + 1
  # On a grid so coarse that the sum has no more digits than a number can have.
  grid = _grid(x.high, digits - (2 * x.high.size - 1).bit_length())
  coarse = jnp.round(x.high / grid) * grid
  return two_sum(jnp.sum(coarse), jnp.sum((x.high - coarse) + x.low))


def _grid(x: jax.Array, bits: int) -> jax.Array:
  """The grid on which the largest entry has at most so many bits."""
  # The power of two may lie below the largest entry by a factor of 1.5.
  top = power_of_two(jnp.max(jnp.abs(x)))
  return jnp.where(top > 0, top, 1.0) * 2.0 ** (1 - bits)


def binary_gram(gram: jax.Array, unit: _unit_gram.UnitGram) -> BinaryGram:
  """Scales a Gram matrix by powers of two.

  Args:
    gram: `[T, T]`, what `unit` was made of.
    unit: The checked matrix.

  Returns:
    The scaled matrix, in the dtype of `unit.gram`.
  """
  dtype = unit.gram.dtype
  powers = power_of_two(unit.norms)
  inverse = 1.0 / powers
  matrix = jnp.asarray(gram).astype(dtype)
  # Halves first: the sum of two entries may overflow.
  matrix = 0.5 * matrix + 0.5 * matrix.T
  matrix = matrix * inverse[:, None] * inverse[None, :]
  both = unit.present[:, None] & unit.present[None, :]
  matrix = jnp.where(both, matrix, jnp.eye(len(powers), dtype=dtype))
  lengths = unit.norms * inverse
  square = multiply(lengths, lengths)
  rest = (jnp.diagonal(matrix) - square.high) - square.low
  return BinaryGram(matrix, powers, Pair(lengths, 0.5 * rest / lengths))


def times(matrix: jax.Array, x: Pair) -> Pair:
  """The product of a symmetric matrix with a vector.

  Matrix and vector are cut into pieces with so few digits, on grids so coarse,
  that the products of the leading ones and their sums are exact, in any order.
  Off by some `T eps ** 1.6 |matrix| max |x|`, and never by more than a plain
  product is.

  Args:
    matrix: `[T, T]`, symmetric, entries of at most 4.
    x: `[T]` pair.

  Returns:
    `[T]` pair.
  """
  size = len(matrix)
  digits = jnp.finfo(matrix.dtype).nmant + 1
  # 2 T products of two factors each, one factor with two bits in front of the
  # point, make no more digits than a number has.
  bits = (digits - (2 * size - 1).bit_length()) // 2

  def cut(values, grid):
    first = jnp.round(values / grid) * grid
    second = jnp.round((values - first) / (grid * 2.0**-bits))
    second = second * (grid * 2.0**-bits)
    return first, second, (values - first) - second

  m1, m2, m3 = cut(matrix, 2.0 ** (3 - bits))
  # Rows instead of columns: the sum then runs over the leading axis.
  x1, x2, x3 = (v[:, None] for v in cut(x.high, _grid(x.high, bits)))
  x3 = x3 + x.low[:, None]
  first = jnp.sum(m1 * x1, axis=0)
  second = jnp.sum(m1 * x2 + m2 * x1, axis=0)
  third = jnp.sum(m1 * x3 + m2 * (x2 + x3) + m3 * x.high[:, None], axis=0)
  lead = two_sum(first, second)
  return two_sum(lead.high, lead.low + third)


def combined_products(gram: jax.Array, weights: jax.Array) -> jax.Array:
  """The inner products of a combined gradient with the gradients.

  Args:
    gram: `[T, T]`, in the solver's dtype; rows of tasks that take no part are
      zeros.
    weights: `[T]`, in the solver's dtype.

  Returns:
    `[T]`, to a rounding where the combination does not cancel altogether.
  """
  norms = jnp.sqrt(jnp.diagonal(gram))
  powers = jnp.where(norms > 0, power_of_two(norms), 1.0)
  unit = gram / powers[:, None] / powers[None, :]
  lengths = weights * powers
  return times(unit, Pair(lengths, jnp.zeros_like(lengths))).high * powers
