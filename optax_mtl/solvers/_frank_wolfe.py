"""Frank-Wolfe with exact line search: vanilla, away-step and pairwise.

On `w` itself, with the Gram matrix divided by its largest diagonal entry.
Reference: Lacoste-Julien & Jaggi, On the Global Linear Convergence of
Frank-Wolfe Optimization Variants, NeurIPS 2015.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl.solvers import _scaling


class FrankWolfeProblem(NamedTuple):
  """The Gram matrix over its largest diagonal entry, and the lengths."""

  gram: jax.Array
  lengths: jax.Array
  usable: jax.Array


class FrankWolfeState(NamedTuple):
  """A point of the simplex and the Gram matrix times it."""

  point: jax.Array
  image: jax.Array
  residual: jax.Array
  iterations: jax.Array
  stalled: jax.Array


def make_problem(scaled: _scaling.ScaledGram) -> FrankWolfeProblem:
  """The problem from cosines and lengths."""
  longest = jnp.max(jnp.where(scaled.usable, scaled.lengths, 0.0))
  lengths = scaled.lengths / jnp.where(longest > 0, longest, 1.0)
  gram = scaled.cosines * lengths[:, None] * lengths[None, :]
  return FrankWolfeProblem(gram, lengths, scaled.usable)


def init(
  problem: FrankWolfeProblem, start: jax.Array | None
) -> FrankWolfeState:
  """Starts at `start`, or at the shortest row."""
  lengths = jnp.where(problem.usable, problem.lengths, jnp.inf)
  shortest = jnp.arange(lengths.shape[0]) == jnp.argmin(lengths)
  point = shortest.astype(lengths.dtype)
  if start is not None:
    start = jnp.where(problem.usable, jnp.maximum(start, 0.0), 0.0)
    total = jnp.sum(start)
    valid = (total > 0) & jnp.isfinite(total)
    point = jnp.where(valid, start / jnp.where(valid, total, 1.0), point)
  image = _scaling.dot(problem.gram, point)
  return FrankWolfeState(
    point=point,
    image=image,
    residual=residual_of(problem, point, image),
    iterations=jnp.zeros((), jnp.int32),
    stalled=jnp.zeros((), bool),
  )


def step(
  problem: FrankWolfeProblem, state: FrankWolfeState, variant: str
) -> FrankWolfeState:
  """One step of `variant`, with exact line search."""
  point, image = state.point, state.image
  index = jnp.arange(point.shape[0])
  towards = jnp.argmin(jnp.where(problem.usable, image, jnp.inf))
  away = jnp.argmax(jnp.where(point > 0, image, -jnp.inf))
  towards_vertex = (index == towards).astype(point.dtype)
  away_vertex = (index == away).astype(point.dtype)
  share = point[away]
  forward = towards_vertex - point
  limit = jnp.ones_like(share)
  if variant == "pairwise":
    direction, limit = towards_vertex - away_vertex, share
  elif variant == "away":
    level = _scaling.dot(point, image)
    retreat = (image[away] - level > level - image[towards]) & (share < 1)
    direction = jnp.where(retreat, point - away_vertex, forward)
    most = share / jnp.where(retreat, 1 - share, 1.0)
    limit = jnp.where(retreat, most, limit)
  else:
    direction = forward
  slope = _scaling.dot(direction, image)
  curvature = _scaling.dot(direction, _scaling.dot(problem.gram, direction))
  length = jnp.where(
    curvature > 0, -slope / jnp.where(curvature > 0, curvature, 1.0), limit
  )
  length = jnp.clip(jnp.where(slope < 0, length, 0.0), 0.0, limit)
  point = jnp.maximum(point + length * direction, 0.0)
  if variant != "vanilla":
    # A step to the limit empties a vertex: exactly, whatever rounding left.
    dropped = (index == away) & (direction < 0) & (length >= limit)
    point = jnp.where(dropped, 0.0, point)
  point = point / jnp.sum(point)
  image = _scaling.dot(problem.gram, point)
  return FrankWolfeState(
    point=point,
    image=image,
    residual=residual_of(problem, point, image),
    iterations=state.iterations + 1,
    stalled=state.stalled,
  )


def residual_of(
  problem: FrankWolfeProblem, point: jax.Array, image: jax.Array
) -> jax.Array:
  """The relative duality gap of `min_norm`, from `w` and the Gram times it."""
  gap = (_scaling.dot(point, image) - image) / problem.lengths
  gap = jnp.max(jnp.where(problem.usable, gap, -jnp.inf))
  return jnp.maximum(gap, 0.0) / _scaling.dot(point, problem.lengths)
