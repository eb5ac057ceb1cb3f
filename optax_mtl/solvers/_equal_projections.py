"""The least-norm, least-squares solution of equal projections.

How far it can be trusted: an entry of a Gram matrix formed in float32 is off by
half a rounding, `eps / 2` of the product of two lengths, at least. That moves
the coefficients of the unit gradients by up to `eps / 2 T` over the smallest
eigenvalue of the matrix of cosines, in relative terms, and no solver can take
it back. Two rows with a cosine of `c` are moved by `eps / (1 + c)`. The solver
adds one rounding of the weights to this.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _compensated, _unit_gram
from optax_mtl.solvers._compensated import Pair

# Each step of refinement adds the digits that the condition number leaves: with
# two, four times the digits of a half-way decent start.
_REFINEMENTS = 2
# Up to so many tasks an eigendecomposition costs less than a choice.
_FEW = 16


class Spectrum(NamedTuple):
  """Eigenpairs, and which of them count."""

  values: jax.Array  # [T], 1 where not kept
  vectors: jax.Array  # [T, T], one eigenvector per column
  kept: jax.Array  # [T] bool


class EqualProjections(NamedTuple):
  """The solution of `M x = n`, with `n` the lengths, on the range of `M`."""

  binary: _compensated.BinaryGram
  solution: Pair  # [T], x, of the gradients over their powers of two
  square: jax.Array  # scalar, x M x
  rest: jax.Array  # [T], the part of the ones vector that M sends to zero
  count: jax.Array  # scalar, how many tasks take part
  eps: float


def among(unit: _unit_gram.UnitGram, matrix: jax.Array) -> jax.Array:
  """Zeros the rows and columns of absent tasks, so that they have rank 0."""
  both = unit.present[:, None] & unit.present[None, :]
  return jnp.where(both, matrix, 0.0)


def number(unit: _unit_gram.UnitGram) -> jax.Array:
  """Number of tasks that take part, at least 1."""
  count = jnp.sum(unit.present.astype(unit.gram.dtype))
  return jnp.maximum(count, 1.0)


def with_rank(
  values: jax.Array, vectors: jax.Array, count: jax.Array
) -> Spectrum:
  """Decides the rank: eigenvalues below rounding are zero."""
  eps = float(jnp.finfo(values.dtype).eps)
  kept = values > jnp.max(values) * count * eps
  return Spectrum(jnp.where(kept, values, 1.0), vectors, kept)


def _refine(solve, matrix, target: Pair) -> Pair:
  """Solves `matrix x = target` with an approximate `solve`, to full precision.

  The residual is what has to be exact: it is the difference of numbers that
  agree in all the digits that `x` has already.
  """
  start = solve(target.high)
  x = Pair(start, jnp.zeros_like(start))
  for _ in range(_REFINEMENTS):
    product = _compensated.times(matrix, x)
    step = solve((target.high - product.high) + (target.low - product.low))
    moved = _compensated.two_sum(x.high, step)
    x = _compensated.two_sum(moved.high, moved.low + x.low)
  return x


def solve_equal_projections(
  gram: jax.Array, unit: _unit_gram.UnitGram
) -> EqualProjections:
  """Solves `M x = n` on the range of the unit-diagonal Gram matrix.

  By Cholesky's decomposition where that shows that no eigenvalue is near
  rounding, else by the eigendecomposition of the matrix of cosines.

  Args:
    gram: `[T, T]`, what `unit` was made of.
    unit: The checked matrix.

  Returns:
    The solution, and what else the decomposition tells.
  """
  binary = _compensated.binary_gram(gram, unit)
  dtype = binary.gram.dtype
  count = number(unit)
  eps = float(jnp.finfo(dtype).eps)
  ones = unit.present.astype(dtype)
  target = Pair(*(jnp.where(unit.present, v, 0.0) for v in binary.lengths))

  def by_eigenvalues():
    values, vectors = jnp.linalg.eigh(among(unit, unit.gram))
    spectrum = with_rank(values, vectors, count)
    wanted = jnp.matmul(ones, vectors, precision="highest")
    # What rounding leaves of a component that is zero must not be normalised
    # to one: two opposite gradients have no projection in common but zero.
    # Where gradients are independent every component is meant.
    floor = 4.0 * eps * count * jnp.sqrt(count)
    full = jnp.sum(spectrum.kept.astype(dtype)) >= count
    used = spectrum.kept & (full | (jnp.abs(wanted) > floor))
    rest = ones - jnp.matmul(
      vectors, jnp.where(used, wanted, 0.0), precision="highest"
    )
    rows = vectors.T / binary.lengths.high[None, :]
    return rows, jnp.where(used, 1.0 / spectrum.values, 0.0), rest * ones

  if len(ones) <= _FEW:
    rows, weights, rest = by_eigenvalues()
  else:
    factor = lax.linalg.cholesky(binary.gram, symmetrize_input=False)
    # A pivot is no smaller than the smallest eigenvalue; NaN where there is
    # none.
    pivot = jnp.min(jnp.diagonal(factor))
    positive = jnp.square(pivot) > 16.0 * eps * count

    def invert():
      eye = jnp.eye(len(ones), dtype=dtype)
      return lax.linalg.triangular_solve(
        factor, eye, left_side=True, lower=True
      )

    inverse = lax.cond(positive, invert, lambda: jnp.zeros_like(factor))
    # Row sums bound the eigenvalues of the matrix and of its inverse; the
    # factor of 16 stands for the scaling, and for the rounding of the bound.
    sizes = jnp.abs(inverse)
    largest = jnp.max(jnp.sum(jnp.abs(binary.gram), axis=0))
    sums = jnp.sum(sizes * jnp.sum(sizes, axis=1)[:, None], axis=0)
    regular = 16.0 * eps * count * largest * jnp.max(sums) < 1.0
    regular &= positive
    rows, weights, rest = lax.cond(
      regular,
      lambda: (inverse, ones, jnp.zeros_like(ones)),
      by_eigenvalues,
    )

  def solve(vector):
    found = jnp.matmul(rows, vector * ones, precision="highest") * weights
    return jnp.matmul(found, rows, precision="highest") * ones

  solution = _refine(solve, binary.gram, target)
  square = jnp.sum(solution.high * target.high)
  return EqualProjections(binary, solution, square, rest, count, eps)


def spread(parts: EqualProjections, present, x: Pair) -> jax.Array:
  """How far the projections are from equal, relative to all their terms."""
  product = _compensated.times(parts.binary.gram, x)
  projections = _compensated.divide(product, parts.binary.lengths)
  on = present.astype(product.high.dtype)
  middle = jnp.sum(projections.high * on) / parts.count
  apart = jnp.abs((projections.high - middle) + projections.low) * on
  size = jnp.sum(jnp.abs(x.high) * parts.binary.lengths.high * on)
  return jnp.max(apart) / jnp.where(size > 0, size, 1.0)
