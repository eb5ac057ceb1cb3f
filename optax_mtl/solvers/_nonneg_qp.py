"""The problem behind MGDA, UPGrad, DualProj and CAGrad, and its one driver.

    minimise  1/2 u' H u - b' u   over   u >= 0,

`H` a Gram matrix with a diagonal of 1 to 2. A step solves on a support for a
correction of the current point, cuts off what turns negative, and lets in what
would decrease the objective, all of it at once; where that does not decrease
it, one entry at a time leaves, as in Wolfe's and in Lawson and Hanson's method,
so that no support comes back. A handful of steps is typical for any T.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from optax_mtl.solvers import _prepare

# For so many steps entries come in even before the current support is solved.
# That is faster as a rule, but only afterwards does the objective fall from
# each solved support to the next, so that none comes back and the end is
# certain. Typical are 1 to 10 steps, so that this many are for the rare rest.
EAGER = 20
# The ridge under the first Cholesky factor, in roundings, and its growth when a
# factor breaks down. It leaves no bias, since systems are solved for
# corrections. Less, and the signs of entries that do not matter are decided by
# rounding, which doubles the steps at T = 40; more, and the bias that has to be
# refined away costs a step of its own.
RIDGE, RIDGE_GROWTH = 64.0, 4.0
# What is solved is solved on once more, unless its residual is already this
# part of the tolerance: a step takes an error of 10 to 180 roundings to 1 to
# 10. More than once does not pay: one matrix took 434 steps towards this aim.
AIM = 1 / 16


class Problem(NamedTuple):
  """`H`, and what is computed with more care than `H u - b` would be.

  Attributes:
    hessian: `[T, T]`, `H`.
    slope: Function `u -> H u - b`, `[T] -> [T]`.
    size: Function from `u`, `[T]`, to the size of the terms of a slope, scalar.
    free: `[T]` bool, the entries that take part.
    residual: Function `(u, slope) -> scalar`, the certificate.
  """

  hessian: Array
  slope: Callable[[Array], Array]
  size: Callable[[Array], Array]
  free: Array
  residual: Callable[[Array, Array], Array]


class Point(NamedTuple):
  """A feasible point and the support that it is solved on next.

  Attributes:
    u: `[T]`, not negative.
    slope: `[T]`, `H u - b`.
    support: `[T]` bool.
    ridge: Scalar.
    residual: Scalar, the certificate of `u`.
    steps: Scalar int32, the steps so far.
    done: Scalar bool: solved, or rounding has the last word.
  """

  u: Array
  slope: Array
  support: Array
  ridge: Array
  residual: Array
  steps: Array
  done: Array


def kkt_residual(u: Array, slope: Array, size: Array, free: Array) -> Array:
  """The largest slope that is not as it should be, relative to its terms.

  Args:
    u: `[..., T]`, not negative.
    slope: `[..., T]`: to be 0 where `u` is positive, not negative elsewhere.
    size: `[...]`, the size of the terms of a slope.
    free: `[..., T]` bool, the entries that take part.

  Returns:
    `[...]`.
  """
  wrong = jnp.where(u > 0, jnp.abs(slope), jnp.maximum(-slope, 0.0))
  return _prepare.over(jnp.max(jnp.where(free, wrong, 0.0), axis=-1), size)


def start(problem: Problem, support: Array) -> Point:
  """The point 0, to be solved on a support `[T]` bool."""
  zeros = jnp.zeros_like(problem.hessian[0])
  slope = problem.slope(zeros)
  return Point(
    u=zeros,
    slope=slope,
    support=problem.free & support,
    ridge=jnp.asarray(RIDGE * jnp.finfo(zeros.dtype).eps, zeros.dtype),
    residual=problem.residual(zeros, slope),
    steps=jnp.zeros((), jnp.int32),
    done=~jnp.any(problem.free),
  )


def moved(at: Any, new: Any, broken: Array, stalled: Array, tol: Array) -> Any:
  """What a step comes to: the new point, or the old one where it stays.

  Args:
    at: The point before. It has a `ridge`, a `residual`, `steps` and `done`,
      as `Point` has, and so has that of the weights with a cap.
    new: The point after, with those of `at` but for the residual.
    broken: Scalar bool: there was no minimum on the support, to rounding. Then
      the ridge grows.
    stalled: Scalar bool: there is nowhere to go from `at`.
    tol: Scalar, the residual at which to stop. A point that has it is left for
      a better one only, and only for one more step.

  Returns:
    The next point.
  """
  solved = at.residual <= tol
  keep = broken | stalled | (solved & (new.residual > at.residual))
  new = jax.tree.map(lambda old, new: jnp.where(keep, old, new), at, new)
  return new._replace(
    ridge=jnp.where(broken, RIDGE_GROWTH * at.ridge, at.ridge),
    steps=at.steps + 1,
    done=stalled | solved | (new.residual <= AIM * tol),
  )


def step(problem: Problem, tol: Array, at: Point) -> Point:
  """One step from point to point; its objective is never higher."""
  # The minimum on the support.
  pair = at.support[:, None] & at.support[None, :]
  diagonal = jnp.diag(jnp.where(at.support, at.ridge, 1.0))
  change = _prepare.solve_positive(
    jnp.where(pair, problem.hessian, 0.0) + diagonal,
    jnp.where(at.support, -at.slope, 0.0)[:, None],
  )
  goal = jnp.where(at.support, at.u, 0.0) + change[:, 0]
  broken = ~jnp.isfinite(jnp.sum(goal))
  feasible = jnp.all(goal >= 0)

  # Two ways there: cut off what is negative in it, or go towards it only as far
  # as nothing turns negative.
  cut = jnp.maximum(goal, 0.0)
  blocking = at.support & (goal <= 0)
  reach = jnp.where(at.u > 0, at.u / (at.u - goal), 0.0)
  reach = jnp.where(blocking, reach, jnp.inf)
  part = jnp.minimum(jnp.min(reach), 1.0)
  leaving = reach <= part
  partial = jnp.maximum(at.u + part * (goal - at.u), 0.0)
  partial = jnp.where(leaving, 0.0, partial)
  goal_slope, cut_slope, partial_slope = jax.vmap(problem.slope)(
    jnp.stack([goal, cut, partial])
  )

  # The first, if it is lower; judged from slopes, as the difference of the two
  # values would drown in rounding long before the weights have settled.
  lower = _prepare.dot(cut - at.u, at.slope + cut_slope) < 0
  entering = problem.free & ~at.support
  entering &= goal_slope < -tol * problem.size(cut)
  entering &= feasible | (at.steps < EAGER)
  u = jnp.where(lower, cut, partial)
  slope = jnp.where(lower, cut_slope, partial_slope)
  residual = problem.residual(u, slope)

  # Where the minimum is feasible but no lower, rounding has the last word.
  stalled = feasible & ~lower & ~broken
  new = Point(
    u=u,
    slope=slope,
    support=jnp.where(
      lower, (at.support & (goal > 0)) | entering, at.support & ~leaving
    ),
    ridge=at.ridge,
    residual=residual,
    steps=at.steps,
    done=at.done,
  )
  return moved(at, new, broken, stalled, tol)


def solve(
  problem: Problem, support: Array, tol: Array, max_iter: Array
) -> Point:
  """Solves to `residual <= tol`, or as far as rounding lets it.

  Args:
    problem: The problem.
    support: `[T]` bool, the first support.
    tol: Scalar, the residual at which to stop.
    max_iter: Scalar int32, how many steps at most.

  Returns:
    The last point; not `done` if the limit came first.
  """
  return lax.while_loop(
    lambda at: ~at.done & (at.steps < max_iter),
    lambda at: step(problem, tol, at),
    start(problem, support),
  )
