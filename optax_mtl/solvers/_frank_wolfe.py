"""Frank-Wolfe with exact line search: vanilla, away-step and pairwise.

On `w` itself, with the Gram matrix divided by its largest diagonal entry.
Reference: Lacoste-Julien & Jaggi, On the Global Linear Convergence of
Frank-Wolfe Optimization Variants, NeurIPS 2015.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl.solvers import _prepare
from optax_mtl.solvers._prepare import dot


class Problem(NamedTuple):
  """The problem in its own scale.

  Attributes:
    gram: `[T, T]`, the Gram matrix over its largest diagonal entry.
    lengths: `[T]`, the lengths over the largest; 1 for vertices that take no
      part.
    present: `[T]` bool, the vertices that take part.
  """

  gram: jax.Array
  lengths: jax.Array
  present: jax.Array


class Point(NamedTuple):
  """A point of the simplex.

  Attributes:
    u: `[T]`, on the simplex.
    image: `[T]`, the Gram matrix times `u`.
    residual: Scalar, the certificate of `u`.
    count: Scalar int32, the steps so far.
    done: Scalar bool: solved.
  """

  u: jax.Array
  image: jax.Array
  residual: jax.Array
  count: jax.Array
  done: jax.Array


class Corners(NamedTuple):
  """What a variant chooses its direction from.

  Attributes:
    u: `[T]`, the point.
    image: `[T]`, the Gram matrix times it.
    towards: `[T]`, the vertex that promises most, as a unit vector.
    away: `[T]`, the vertex with weight that promises least.
  """

  u: jax.Array
  image: jax.Array
  towards: jax.Array
  away: jax.Array


Direction = Callable[[Corners], tuple[jax.Array, jax.Array]]


def vanilla(at: Corners) -> tuple[jax.Array, jax.Array]:
  """Towards a vertex: the direction [T], and the longest step along it."""
  return at.towards - at.u, jnp.ones_like(at.u[0])


def pairwise(at: Corners) -> tuple[jax.Array, jax.Array]:
  """Weight moves from one vertex to another."""
  return at.towards - at.away, dot(at.u, at.away)


def away(at: Corners) -> tuple[jax.Array, jax.Array]:
  """Towards a vertex or away from one, whichever promises more."""
  share, level = dot(at.u, at.away), dot(at.u, at.image)
  gains = dot(at.image, at.away) - level, level - dot(at.image, at.towards)
  retreat = (gains[0] > gains[1]) & (share < 1)
  most = share / jnp.where(retreat, 1 - share, 1.0)
  return (
    jnp.where(retreat, at.u - at.away, at.towards - at.u),
    jnp.where(retreat, most, 1.0),
  )


def make_problem(gram: _prepare.Prepared) -> Problem:
  """The problem from cosines and lengths."""
  longest = jnp.max(jnp.where(gram.present, gram.lengths, 0.0))
  lengths = jnp.where(gram.present, _prepare.over(gram.lengths, longest), 1.0)
  scaled = gram.cosines * lengths[:, None] * lengths[None, :]
  return Problem(gram=scaled, lengths=lengths, present=gram.present)


def start(problem: Problem, point: jax.Array | None, tol: jax.Array) -> Point:
  """Starts at `point`, or at the shortest row."""
  lengths = jnp.where(problem.present, problem.lengths, jnp.inf)
  u = _one_hot(jnp.argmin(lengths), lengths)
  if point is not None:
    point = jnp.where(problem.present, jnp.maximum(point, 0.0), 0.0)
    total = jnp.sum(point)
    valid = (total > 0) & jnp.isfinite(total)
    u = jnp.where(valid, _prepare.over(point, total), u)
  return _point(problem, u, jnp.zeros((), jnp.int32), tol)


def step(
  problem: Problem, direction: Direction, tol: jax.Array, at: Point
) -> Point:
  """One step along a variant's direction, with exact line search."""
  towards = jnp.argmin(jnp.where(problem.present, at.image, jnp.inf))
  least = jnp.argmax(jnp.where(at.u > 0, at.image, -jnp.inf))
  away_vertex = _one_hot(least, at.u)
  along, limit = direction(
    Corners(
      u=at.u,
      image=at.image,
      towards=_one_hot(towards, at.u),
      away=away_vertex,
    )
  )
  slope = dot(along, at.image)
  curvature = dot(along, dot(problem.gram, along))
  length = jnp.where(curvature > 0, _prepare.over(-slope, curvature), limit)
  length = jnp.clip(jnp.where(slope < 0, length, 0.0), 0.0, limit)
  u = jnp.maximum(at.u + length * along, 0.0)
  # A step to its limit away from a vertex empties it: exactly, whatever
  # rounding left. Towards a vertex the limit empties all others, that one too.
  emptied = (away_vertex > 0) & (along < 0) & (length >= limit)
  u = jnp.where(emptied, 0.0, u)
  return _point(problem, u / jnp.sum(u), at.count + 1, tol)


def _one_hot(index: jax.Array, like: jax.Array) -> jax.Array:
  """The unit vector with a 1 at `index`, shape and dtype of `like` `[T]`."""
  return (jnp.arange(like.shape[0]) == index).astype(like.dtype)


def _point(
  problem: Problem, u: jax.Array, count: jax.Array, tol: jax.Array
) -> Point:
  """A point with its certificate, the relative duality gap of `min_norm`."""
  image = dot(problem.gram, u)
  gap = (dot(u, image) - image) / problem.lengths
  gap = jnp.max(jnp.where(problem.present, gap, 0.0))
  residual = jnp.maximum(gap, 0.0) / dot(u, problem.lengths)
  return Point(
    u=u, image=image, residual=residual, count=count, done=residual <= tol
  )
