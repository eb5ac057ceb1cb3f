"""Conjugate gradients with bounds, for many vectors and one matrix.

MPRGP (Dostál & Schöberl 2005): conjugate gradients on the entries with `z > 0`;
if that would leave `z >= 0`, up to the bound, and then one projected gradient
step. Entries at the bound are let go once their gradient is longer than that of
the others. A step is products of `[K, T]` with one `[T, T]` that all rows share,
where an active-set method needs a factor of its own for every row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _nonneg_qp, _prepare
from optax_mtl.solvers._prepare import dot, over

# Most steps, in units of T, before the driver takes over. They are many only
# where gradients are linearly dependent; 1 is typical.
_MOST = 5
# Once all rows are solved, up to so many steps more, towards so much less: each
# takes off a digit's part, and where the problem is well conditioned the answer
# is then as exact as that of the driver.
_EXTRA = 16
_AIM = 1 / 64
# What the preconditioner adds to the unit diagonal. Saves half of the steps
# where gradients nearly cancel; the count is flat from 0.03 to 0.3.
_SHIFT = 0.1
# Length of the projected gradient steps, over the largest eigenvalue. They
# descend below 2; the rest is for the rounding of the eigenvalue's bound.
_LENGTH = 1.9


class Block(NamedTuple):
  """A block of `K` solves.

  Attributes:
    count: Scalar int32, steps so far.
    solved: Scalar int32, steps until all rows were solved.
    z: `[K, T]`, not negative.
    slopes: `[K, T]`, products with the matrix of `start + z`.
    best: `[K, T]`, of all `z` so far the ones of least residual.
    residual: `[K]`, their residuals.
    direction: `[K, T]`, the last one.
    image: `[K, T]`, the matrix times the direction.
    curvature: `[K, 1]`, the product of the two.
    conjugate: `[K, 1]` bool, the next direction is to be conjugate to it.
  """

  count: jax.Array
  solved: jax.Array
  z: jax.Array
  slopes: jax.Array
  best: jax.Array
  residual: jax.Array
  direction: jax.Array
  image: jax.Array
  curvature: jax.Array
  conjugate: jax.Array


def solve(
  matrix: jax.Array,
  start: jax.Array,
  free: jax.Array,
  tol: jax.Array,
  max_iter: jax.Array,
) -> Block:
  """Minimises `v' matrix v` over `v >= start`, for each row of `start`.

  Args:
    matrix: `[T, T]`, a Gram matrix with unit diagonal.
    start: `[K, T]`.
    free: `[K, T]` bool, the entries that take part.
    tol: Scalar, the residual at which a row is solved.
    max_iter: Scalar int32, most steps.

  Returns:
    The last block; `best` is the answer less `start`.
  """
  zeros, none = jnp.zeros_like(start), jnp.zeros((), jnp.int32)
  slopes = dot(start, matrix)
  length = _LENGTH / _norm_bound(matrix)
  # One for all rows and supports.
  eye = jnp.eye(len(matrix), dtype=matrix.dtype)
  inverse = _prepare.solve_positive(matrix + _SHIFT * eye, eye)
  first = Block(
    count=none,
    solved=none,
    z=zeros,
    slopes=slopes,
    best=zeros,
    residual=residual_of(start, zeros, slopes, free),
    direction=zeros,
    image=zeros,
    curvature=zeros[:, :1],
    conjugate=jnp.zeros_like(zeros[:, :1], bool),
  )
  limit = jnp.minimum(max_iter, _MOST * start.shape[1])

  def proceed(at: Block) -> jax.Array:
    # Until all are solved, and a little longer: `solved` stands still then.
    unsolved = jnp.any(at.residual > _AIM * tol)
    return unsolved & (at.count < jnp.minimum(at.solved + _EXTRA, limit))

  def step(at: Block) -> Block:
    inner = jnp.where(at.z > 0, at.slopes, 0.0)
    outer = jnp.where(free & (at.z <= 0), jnp.minimum(at.slopes, 0.0), 0.0)
    excess = outer * outer - jnp.minimum(inner, at.z / length) * inner
    inside = jnp.sum(excess, axis=1, keepdims=True) <= 0
    ahead = jnp.where(at.z > 0, dot(inner, inverse), 0.0)
    factor = over(_dots(ahead, at.image), at.curvature)
    factor = jnp.where(at.conjugate, factor, 0.0)
    direction = jnp.where(inside, ahead - factor * at.direction, outer)
    image = dot(direction, matrix)
    curvature = _dots(direction, image)
    exact = over(_dots(at.slopes, direction), curvature)
    reach = jnp.where(direction > 0, over(at.z, direction), jnp.inf)
    reach = jnp.min(reach, axis=1, keepdims=True)
    part = jnp.minimum(exact, reach)
    z = jnp.maximum(at.z - part * direction, 0.0)
    beyond = jnp.where(z > 0, at.slopes - part * image, 0.0)
    z = jnp.where(exact <= reach, z, jnp.maximum(z - length * beyond, 0.0))
    slopes = dot(start + z, matrix)
    residual = residual_of(start, z, slopes, free)
    better = residual < at.residual
    residual = jnp.where(better, residual, at.residual)
    count = at.count + 1
    return Block(
      count=count,
      solved=jnp.where(jnp.any(residual > tol), count, at.solved),
      z=z,
      slopes=slopes,
      best=jnp.where(better[:, None], z, at.best),
      residual=residual,
      direction=direction,
      image=image,
      curvature=curvature,
      conjugate=inside & (exact <= reach),
    )

  return lax.while_loop(proceed, step, first)


def residual_of(
  start: jax.Array, z: jax.Array, slopes: jax.Array, free: jax.Array
) -> jax.Array:
  """The certificate's residual `[...]`, of arguments `[..., T]`."""
  size = jnp.sum(jnp.abs(start + z), axis=-1)
  return _nonneg_qp.kkt_residual(z, slopes, size, free)


def _dots(left: jax.Array, right: jax.Array) -> jax.Array:
  """Products row by row, `[K, 1]`."""
  return jnp.sum(left * right, axis=1, keepdims=True)


def _norm_bound(matrix: jax.Array) -> jax.Array:
  """An upper bound of the largest eigenvalue, at most `T^(1/16)` too large.

  The Frobenius norm of the eighth power; scaled, so that it does not overflow.
  """
  scale = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
  power = matrix / scale
  for _ in range(3):
    power = dot(power, power)
  return scale * jnp.sum(power * power) ** 0.0625
