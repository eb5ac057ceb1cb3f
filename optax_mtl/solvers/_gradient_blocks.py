"""Conjugate gradients with bounds, for many vectors and one matrix.

MPRGP (Dostál & Schöberl 2005): conjugate gradients on the entries with `z > 0`;
if that would leave `z >= 0`, up to the bound, and then one projected gradient
step. Entries at the bound are let go once their gradient is longer than that of
the others. A step is products of `[K, T]` with one `[T, T]` that all rows
share, where an active-set method needs a factor of its own for every row.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

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
# where gradients nearly cancel; their number is flat from 0.03 to 0.3.
_SHIFT = 0.1
# Length of the projected gradient steps, over the largest eigenvalue. They
# descend below 2; the rest is for the rounding of the eigenvalue's bound.
_LENGTH = 1.9


class Block(NamedTuple):
  """A block of `K` solves.

  Attributes:
    steps: Scalar int32, steps so far.
    solved: Scalar int32, steps until all rows were solved.
    z: `[K, T]`, not negative.
    slopes: `[K, T]`, products with the matrix of `start + z`.
    best: `[K, T]`, of all `z` so far the ones of least residual.
    residual: `[K]`, their residuals.
    direction: `[K, T]`, to which the next one has to be conjugate, or 0.
    image: `[K, T]`, the matrix times the direction.
  """

  steps: Array
  solved: Array
  z: Array
  slopes: Array
  best: Array
  residual: Array
  direction: Array
  image: Array


def solve(
  matrix: Array, start: Array, free: Array, tol: Array, max_iter: Array
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
    steps=none,
    solved=none,
    z=zeros,
    slopes=slopes,
    best=zeros,
    residual=residual_of(start, zeros, slopes, free),
    direction=zeros,
    image=zeros,
  )
  limit = jnp.minimum(max_iter, _MOST * start.shape[1])

  def proceed(at: Block) -> Array:
    # Until all are solved, and a little longer: `solved` stands still then.
    unsolved = jnp.any(at.residual > _AIM * tol)
    return unsolved & (at.steps < jnp.minimum(at.solved + _EXTRA, limit))

  def step(at: Block) -> Block:
    inner = jnp.where(at.z > 0, at.slopes, 0.0)
    outer = jnp.where(free & (at.z <= 0), jnp.minimum(at.slopes, 0.0), 0.0)
    excess = outer * outer - jnp.minimum(inner, at.z / length) * inner
    inside = jnp.sum(excess, axis=1, keepdims=True) <= 0
    ahead = jnp.where(at.z > 0, dot(inner, inverse), 0.0)
    factor = over(_dots(ahead, at.image), _dots(at.direction, at.image))
    direction = jnp.where(inside, ahead - factor * at.direction, outer)
    image = dot(direction, matrix)
    exact = over(_dots(at.slopes, direction), _dots(direction, image))
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
    conjugate, steps = inside & (exact <= reach), at.steps + 1
    return Block(
      steps=steps,
      solved=jnp.where(jnp.any(residual > tol), steps, at.solved),
      z=z,
      slopes=slopes,
      best=jnp.where(better[:, None], z, at.best),
      residual=residual,
      direction=jnp.where(conjugate, direction, 0.0),
      image=image,
    )

  return lax.while_loop(proceed, step, first)


def residual_of(start: Array, z: Array, slopes: Array, free: Array) -> Array:
  """The certificate's residual `[...]`, of arguments `[..., T]`."""
  return _nonneg_qp.kkt_residual(z, slopes, size_of(start, z), free)


def size_of(start: Array, z: Array) -> Array:
  """The size `[...]` of the terms of a slope, of arguments `[..., T]`.

  Not that of the sums `start + z`: where what is added cancels a negative
  entry, what is left is rounding, and no error is small beside that.
  """
  return jnp.sum(jnp.abs(start) + z, axis=-1)


def _dots(left: Array, right: Array) -> Array:
  """Products row by row, `[K, 1]`."""
  return jnp.sum(left * right, axis=1, keepdims=True)


def _norm_bound(matrix: Array) -> Array:
  """An upper bound of the largest eigenvalue, at most `T^(1/16)` too large.

  The Frobenius norm of the eighth power; scaled, so that it does not overflow.
  """
  scale = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
  power = matrix / scale
  for _ in range(3):
    power = dot(power, power)
  return scale * jnp.sum(power * power) ** 0.0625
