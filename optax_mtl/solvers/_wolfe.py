"""The fully corrective member of the Frank-Wolfe family: Wolfe's method.

In place of one vertex after the other, every vertex below the supporting
hyperplane enters at once; the first support is all of them.

Written on `u_i = w_i n_i` (up to a factor), so that every row has length one.
With `C` the cosines and `b_i = n_min / n_i`, the min-norm point over the
simplex is, up to that factor, the minimiser over `u >= 0` of

    f(u) = 1/2 u' (C + b b') u - b' u,

because adding one coordinate `n_min` to every gradient adds a constant to the
objective on the simplex. The diagonal of `H = C + b b'` is between 1 and 2
whatever the row scales, and `f` is bounded below even where the hull holds 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _scaling

# For so many iterations vertices enter even before the current support is
# solved. That is faster as a rule, but only afterwards does f fall from each
# solved support to the next, so that none comes back and the end is certain.
_EAGER_ITERATIONS = 20
# The ridge under the first Cholesky factor, in units of the machine epsilon,
# and its growth whenever a factor breaks down. Less, and the signs of weights
# that do not matter are decided by rounding, which doubles the steps at T = 40;
# more, and the bias that has to be refined away costs a step of its own.
_RIDGE = 64.0
_RIDGE_GROWTH = 4.0


class WolfeProblem(NamedTuple):
  """`f`: `C`, `b`, `C + b b'`, and which vertices take part."""

  cosines: jax.Array
  ratio: jax.Array
  hessian: jax.Array
  usable: jax.Array


class WolfeState(NamedTuple):
  """A feasible point `u >= 0`, `C u`, and the support it is solved on next."""

  point: jax.Array
  image: jax.Array
  support: jax.Array
  ridge: jax.Array
  residual: jax.Array
  iterations: jax.Array
  stalled: jax.Array


def make_problem(scaled: _scaling.ScaledGram) -> WolfeProblem:
  """The problem above from cosines and lengths."""
  shortest = jnp.min(jnp.where(scaled.usable, scaled.lengths, jnp.inf))
  ratio = jnp.where(scaled.usable, shortest / scaled.lengths, 0.0)
  hessian = scaled.cosines + ratio[:, None] * ratio[None, :]
  return WolfeProblem(scaled.cosines, ratio, hessian, scaled.usable)


def init(problem: WolfeProblem, start: jax.Array | None) -> WolfeState:
  """Starts on the support of `start`, or on all vertices at once."""
  usable = problem.usable
  dtype = problem.ratio.dtype
  if start is None:
    support = usable
  else:
    support = usable & (start > 0)
    support = jnp.where(jnp.any(support), support, usable)
  zeros = jnp.zeros_like(problem.ratio)
  return WolfeState(
    point=zeros,
    image=zeros,
    support=support,
    ridge=jnp.asarray(_RIDGE * jnp.finfo(dtype).eps, dtype),
    residual=jnp.asarray(jnp.inf, dtype),
    iterations=jnp.zeros((), jnp.int32),
    stalled=jnp.zeros((), bool),
  )


def step(
  problem: WolfeProblem, state: WolfeState, tol: jax.Array
) -> WolfeState:
  """Solves on the support, moves there as far as it is feasible, and adapts it.

  The support's system is solved as a correction to the current point. So a
  ridge of a few epsilons, which lets Cholesky pass on duplicate and dependent
  rows, leaves no bias: on an unchanged support the steps are those of the
  proximal point algorithm, which is also iterative refinement.
  """
  cosines, ratio, hessian, usable = problem
  point, image, support = state.point, state.image, state.support

  # The gradient of f at the current point, then the minimiser on the support.
  slope = image + ratio * (_scaling.dot(ratio, point) - 1.0)
  pair = support[:, None] & support[None, :]
  diagonal = jnp.where(support, state.ridge, 1.0)
  system = jnp.where(pair, hessian, 0.0) + jnp.diag(diagonal)
  factor = lax.linalg.cholesky(system, symmetrize_input=False)
  target = jnp.where(support, -slope, 0.0)[:, None]
  target = lax.linalg.triangular_solve(
    factor, target, left_side=True, lower=True
  )
  target = lax.linalg.triangular_solve(
    factor, target, left_side=True, lower=True, transpose_a=True
  )
  target = point + target[:, 0]
  broken = ~jnp.isfinite(jnp.sum(target))

  # What is negative in it is cut off. That is the next point if f decreases.
  clipped = jnp.maximum(target, 0.0)
  images = _scaling.dot(cosines, jnp.stack([target, clipped], axis=1))
  target_image, clipped_image = images[:, 0], images[:, 1]
  feasible = jnp.all(target >= 0)
  clipped_slope = clipped_image + ratio * (_scaling.dot(ratio, clipped) - 1.0)
  # f(clipped) - f(point) from slopes: the difference of the two values would
  # drown in rounding long before the weights have settled.
  change = _scaling.dot(clipped - point, slope + clipped_slope)
  descends = change < 0

  # Otherwise as far towards the minimiser as no weight turns negative.
  blocks = support & (target <= 0)
  reach = jnp.where(point > 0, point / (point - target), 0.0)
  reach = jnp.where(blocks, reach, jnp.inf)
  fraction = jnp.minimum(jnp.min(reach), 1.0)
  leaving = reach <= fraction
  partial = jnp.maximum(point + fraction * (target - point), 0.0)
  partial = jnp.where(leaving, 0.0, partial)
  partial_image = image + fraction * (target_image - image)

  # Every vertex below the supporting hyperplane enters.
  depth = -(target_image + ratio * (_scaling.dot(ratio, target) - 1.0))
  depth = jnp.where(usable & ~support, depth, -jnp.inf)
  below = depth > tol * jnp.sum(clipped)
  entering = below & (feasible | (state.iterations < _EAGER_ITERATIONS))
  kept = support & (target > 0)

  new_point = jnp.where(descends, clipped, partial)
  new_image = jnp.where(descends, clipped_image, partial_image)
  residual = residual_of(problem, new_point, new_image)
  # Where the minimiser is feasible but no lower, rounding has the last word.
  stalled = feasible & ~descends & ~broken
  new = WolfeState(
    point=new_point,
    image=new_image,
    support=jnp.where(descends, kept | entering, support & ~leaving),
    ridge=state.ridge,
    residual=residual,
    iterations=state.iterations,
    stalled=stalled,
  )
  keep = broken | stalled
  new = jax.tree.map(lambda a, b: jnp.where(keep, a, b), state, new)
  return new._replace(
    ridge=jnp.where(broken, _RIDGE_GROWTH * state.ridge, state.ridge),
    iterations=state.iterations + 1,
    stalled=stalled,
  )


def residual_of(
  problem: WolfeProblem, point: jax.Array, image: jax.Array
) -> jax.Array:
  """The relative duality gap of `min_norm`, from `u` and `C u`."""
  total = jnp.sum(point)
  scale = _scaling.dot(problem.ratio, point)
  level = _scaling.dot(point, image) / jnp.where(scale > 0, scale, 1.0)
  gap = jnp.where(problem.usable, problem.ratio * level - image, -jnp.inf)
  gap = jnp.maximum(jnp.max(gap), 0.0) / jnp.where(total > 0, total, 1.0)
  return jnp.where((total > 0) & (scale > 0), gap, jnp.inf)


def weights(problem: WolfeProblem, state: WolfeState) -> jax.Array:
  """The point of the simplex that a state stands for, up to its sum."""
  values = state.point * problem.ratio
  # Before the first step there is no point yet: the shortest row.
  first = jnp.arange(values.shape[0]) == jnp.argmax(problem.ratio)
  return jnp.where(jnp.any(values > 0), values, first.astype(values.dtype))


def two_vertices(scaled: _scaling.ScaledGram) -> jax.Array:
  """The closed form for T = 2, up to its sum; uniform if both rows coincide."""
  size = scaled.lengths / jnp.max(scaled.lengths)
  cosine = scaled.cosines[0, 1]
  other = size[::-1]
  values = jnp.maximum(other * (other - cosine * size), 0.0)
  values = jnp.where(jnp.all(scaled.usable), values, 1.0)
  values = jnp.where(jnp.any(values > 0), values, 1.0)
  return jnp.where(scaled.usable, values, 0.0)
