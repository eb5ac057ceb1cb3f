"""Frank-Wolfe with exact line search: vanilla, away-step and pairwise.

On `w` itself, with lengths in units of the middle of the longest and the
shortest one: products of two lengths 1e30 apart are then within the range of
float32, where in units of the longest a short gradient would be none.
Reference: Lacoste-Julien & Jaggi, On the Global Linear Convergence of
Frank-Wolfe Optimization Variants, NeurIPS 2015.

A variant is a direction: a function of the point `u`, its image under the Gram
matrix, the vertex that promises most and the vertex with weight that promises
least, to the direction and the longest step along it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from optax_mtl.solvers._prepare import Prepared, dot, over

Direction = Callable[[Array, Array, Array, Array], tuple[Array, Array]]


class Point(NamedTuple):
  """A point of the simplex.

  Attributes:
    u: `[T]`, on the simplex.
    image: `[T]`, the Gram matrix times `u`.
    residual: Scalar, the certificate of `u`.
    steps: Scalar int32, the steps so far.
    done: Scalar bool: solved.
  """

  u: Array
  image: Array
  residual: Array
  steps: Array
  done: Array


def vanilla(
  u: Array, image: Array, towards: Array, away: Array
) -> tuple[Array, Array]:
  """Towards a vertex."""
  return towards - u, jnp.ones_like(u[0])


def pairwise(
  u: Array, image: Array, towards: Array, away: Array
) -> tuple[Array, Array]:
  """From one vertex to another."""
  return towards - away, dot(u, away)


def away_step(
  u: Array, image: Array, towards: Array, away: Array
) -> tuple[Array, Array]:
  """Towards a vertex or away from one, whichever promises more."""
  share, level = dot(u, away), dot(u, image)
  retreat = dot(image, away) - level > level - dot(image, towards)
  retreat &= share < 1
  most = share / jnp.where(retreat, 1 - share, 1.0)
  along = jnp.where(retreat, u - away, towards - u)
  return along, jnp.where(retreat, most, 1.0)


def method(
  direction: Direction, gram: Prepared, init: Array | None, tol: Array
) -> tuple[Point, Callable[[Point], Point], Array]:
  """A variant, ready to run as `min_norm` does it.

  Args:
    direction: The variant.
    gram: The prepared Gram matrix.
    init: `[T]`, where to start. Default, also if it is 0 wherever there is a
      vertex: the shortest row.
    tol: Scalar, the residual at which a point is `done`.

  Returns:
    The first point, the step from one to the next, and what `u` has to be
    multiplied by to be weights: ones.
  """
  present = gram.present
  longest = jnp.max(jnp.where(present, gram.lengths, 0.0))
  shortest = jnp.min(jnp.where(present, gram.lengths, jnp.inf))
  middle = jnp.sqrt(longest) * jnp.sqrt(shortest)
  lengths = jnp.where(present, gram.lengths / middle, 1.0)
  matrix = gram.cosines * lengths[:, None] * lengths[None, :]

  def vertex(index: Array) -> Array:
    return (jnp.arange(len(lengths)) == index).astype(lengths.dtype)

  def point(u: Array, steps: Array) -> Point:
    image = dot(matrix, u)
    # The relative duality gap, as `min_norm` defines it.
    gap = jnp.where(present, (dot(u, image) - image) / lengths, 0.0)
    residual = jnp.maximum(jnp.max(gap), 0.0) / dot(u, lengths)
    return Point(
      u=u, image=image, residual=residual, steps=steps, done=residual <= tol
    )

  def step(at: Point) -> Point:
    towards = vertex(jnp.argmin(jnp.where(present, at.image, jnp.inf)))
    away = vertex(jnp.argmax(jnp.where(at.u > 0, at.image, -jnp.inf)))
    along, limit = direction(at.u, at.image, towards, away)
    slope, curvature = dot(along, at.image), dot(along, dot(matrix, along))
    length = jnp.where(curvature > 0, over(-slope, curvature), limit)
    length = jnp.clip(jnp.where(slope < 0, length, 0.0), 0.0, limit)
    u = jnp.maximum(at.u + length * along, 0.0)
    # A step to the limit empties the vertex it leads away from: exactly,
    # whatever rounding left.
    u = jnp.where((away > 0) & (along < 0) & (length >= limit), 0.0, u)
    return point(u / jnp.sum(u), at.steps + 1)

  first = vertex(jnp.argmin(jnp.where(present, gram.lengths, jnp.inf)))
  if init is not None:
    start = jnp.where(present, jnp.maximum(init, 0.0), 0.0)
    valid = (jnp.sum(start) > 0) & jnp.isfinite(jnp.sum(start))
    first = jnp.where(valid, over(start, jnp.sum(start)), first)
  return point(first, jnp.zeros((), jnp.int32)), step, jnp.ones_like(first)
