"""CAGrad's problem, and an active-set method that solves it one by one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers._scaling import over

# A gradient whose squared distance from the span of the support, relative to
# its own square, is below this many roundings is taken to be in the span.
_DEPENDENT = 64.0
# No pivot is taken for smaller than this many roundings.
_PIVOT = 16.0
# An attempt whose residual stays above the tolerance is repeated with this many
# roundings, then ten times as many, ..., added to the unit diagonal. Only the
# choice of the support sees them: values come from refinement with the true
# matrix.
_RIDGE = 4.0
_ATTEMPTS = 6
# Attempts, refined and continued, before the first restart.
_CONTINUED = 2
_REFINEMENTS = 2
# An entry that leaves after having been this close to the span of the others
# takes so many digits of the tableau with it that it is computed anew.
_STALE = 1e2


class Problem(NamedTuple):
  """`min q.x + radius sqrt(x M x)` over `x >= 0`, `e.x = 1`, unit diagonal."""

  gram: jax.Array  # [T, T]
  linear: jax.Array  # [T], q, products of the unit gradients with the mean
  costs: jax.Array  # [T], e, shortest length over length; 0 if absent
  radius: jax.Array  # scalar, c times the length of the mean
  mean: jax.Array  # [T], coefficients of the mean on the unit gradients
  present: jax.Array  # [T] bool
  reaches_zero: jax.Array  # scalar bool, c >= 1


class Found(NamedTuple):
  """An answer."""

  point: jax.Array  # [T], x
  residual: jax.Array  # scalar
  count: jax.Array  # scalar int32, steps taken


class _Pivots(NamedTuple):
  """An active-set solve; the tableau is explained in `_pivot`."""

  count: jax.Array  # scalar int32
  tableau: jax.Array  # [T, T + 2], before the last pivot
  left: jax.Array  # [T], of the last pivot's rank-one update
  right: jax.Array  # [T + 2]
  point: jax.Array  # [T], x >= 0
  support: jax.Array  # [T] bool
  pending: jax.Array  # scalar int32, what enters next at any rate, or -1
  moving: jax.Array  # scalar bool
  stale: jax.Array  # scalar bool, the tableau has lost its digits


class _Attempts(NamedTuple):
  """The attempts so far, and the best answer among them."""

  count: jax.Array  # scalar int32
  pivots: _Pivots
  best: jax.Array  # [T]
  residual: jax.Array  # scalar


def _updated(state: _Pivots) -> jax.Array:
  """The tableau after the last pivot."""
  return state.tableau - state.left[:, None] * state.right[None, :]


def _target(problem, columns, support, x):
  """The minimum over the affine hull of the support.

  With `E = inv(M_SS) e_S` and `Q = inv(M_SS) q_S`, it is along `level E - Q`,
  where `level`, the smallest product of `d` with a gradient, is such that the
  correction of the mean has length `radius`. If it never is that short, the
  objective falls without bound, along `level E - Q` at the shortest.

  Returns:
    The coefficients [T], `level`, `rate = e.(level E - Q)`, which is 0 in the
    unbounded case, the sum of the coefficients, and `e.x`.
  """
  on = support.astype(columns.dtype)
  left = jnp.stack([problem.costs * on, problem.linear * on, on])
  right = jnp.concatenate([columns, x[:, None]], axis=1)
  # All sums in one product: in a loop this small, calls are what costs.
  sums = jnp.matmul(left, right, precision="highest")
  qq, eq, ee = sums[1, 0], sums[0, 0], sums[0, 1]
  gap = eq * eq - ee * (qq - problem.radius * problem.radius)
  rate = jnp.sqrt(jnp.maximum(gap, 0.0))
  level = over(eq + rate, ee)
  goal = on * (level * columns[:, 1] - columns[:, 0])
  return goal, level, rate, level * sums[2, 1] - sums[2, 0], sums[0, 2]


def _pivot(problem: Problem, state: _Pivots, total, tol) -> _Pivots:
  """One step of the active-set method.

  The tableau is `[M, q, e]` after a symmetric sweep on the support `S`:
  `-inv(M_SS)` on `S x S`, with 2 added to the diagonal, the Schur complement
  outside, and `inv(M_SS) [q, e]` in the last two columns. Thanks to the 2, both
  entering and leaving `S` are one symmetric rank-one update.
  """
  tableau, x, support = _updated(state), state.point, state.support
  dtype = x.dtype
  eps = float(jnp.finfo(dtype).eps)
  num_tasks = x.shape[0]
  index = jnp.arange(num_tasks, dtype=jnp.int32)
  forced = state.pending >= 0
  columns = tableau[:, num_tasks:]
  goal, level, rate, size, mass = _target(problem, columns, support, x)

  # Towards the minimum on the support, as far as x >= 0 allows.
  direction = goal * mass - rate * x
  down = support & (goal <= 0) & (direction < 0)
  ratio = jnp.where(down, x / jnp.where(down, -direction, 1.0), jnp.inf)
  leave = lax.argmin(ratio, 0, jnp.int32)
  part = ratio[leave]
  dropping = (part < jnp.inf) & ~forced
  full = jnp.where(rate > 0, goal * over(mass, rate), x)

  # There, take in the gradient that gains least from d, if less than the rest.
  short = (level * columns[:, 1] - columns[:, 0]) / (
    total + jnp.maximum(size, 0.0)
  )
  wanted = ~support & problem.present & (short > tol)
  key = jnp.where(wanted, short, 0.0)
  enter = lax.argmax(key, 0, jnp.int32)
  entering = (key[enter] > 0) & ~dropping & ~forced
  enter = jnp.where(forced, state.pending, enter)

  # One that depends on the support has to take another one's place: along
  # `x_enter + t, x - t a` the combined gradient does not change.
  row = tableau[enter]
  a = jnp.where(support, row[:num_tasks], 0.0)
  room = jnp.where(a > 1e-3, full / jnp.where(a > 1e-3, a, 1.0), jnp.inf)
  out = lax.argmin(room, 0, jnp.int32)
  shift = room[out]
  swapping = entering & (row[enter] < _DEPENDENT * eps) & (shift < jnp.inf)
  shift = jnp.where(swapping, shift, 0.0)

  moved = jnp.where(dropping, x + part * direction, full - shift * a)
  moved = jnp.where(index == enter, full + shift, moved)
  moved = jnp.where(dropping & (index == enter), x + part * direction, moved)
  chosen = jnp.where(dropping, leave, jnp.where(swapping, out, enter))
  hot = index == chosen
  removing = dropping | swapping
  moved = jnp.where(removing & hot, 0.0, jnp.maximum(moved, 0.0))
  going = removing | entering | forced

  row = tableau[chosen]
  pivot = row[chosen]
  pivot = jnp.where(
    removing,
    jnp.minimum(pivot - 2.0, -0.5),
    jnp.maximum(pivot, _PIVOT * eps),
  )
  stale = removing & ~swapping & (pivot < -_STALE)
  inverse = jnp.where(going, 1.0 / pivot, 0.0)
  column = row[:num_tasks] - hot.astype(dtype)
  scaled = jnp.concatenate([column, row[num_tasks:]]) * inverse
  # The update waits for the next pivot: applied here, the chain of operations
  # that leads to the row would be evaluated anew for each of T T entries.
  return _Pivots(
    state.count + 1,
    tableau,
    column,
    scaled,
    jnp.where(forced, x, moved),
    support ^ (hot & going),
    jnp.where(swapping, enter, -1),
    going & ~stale,
    stale,
  )


def residual_of(problem: Problem, x: jax.Array) -> jax.Array:
  """Relative KKT residual of the weights on the unit gradients `x`."""
  eps = float(jnp.finfo(x.dtype).eps)
  products = jnp.matmul(problem.gram, x, precision="highest")
  size, mass = jnp.sum(x), jnp.sum(problem.costs * x)
  square = jnp.maximum(jnp.sum(x * products), 0.0)
  norm = jnp.sqrt(jnp.maximum(square, 4.0 * eps * size * size))
  pull = over(problem.radius, norm)
  gains = problem.linear + pull * products
  level = over(jnp.sum(x * gains), mass)
  excess = gains - level * problem.costs
  wrong = jnp.where(x > 0, jnp.abs(excess), jnp.maximum(-excess, 0.0))
  wrong = jnp.max(jnp.where(problem.present, wrong, 0.0))
  residual = over(wrong, jnp.sum(problem.mean) + pull * size)
  # With c >= 1, d = 0 is within reach, and weights that give it are optimal.
  at_zero = jnp.where(problem.reaches_zero, over(square, size * size), jnp.inf)
  usable = jnp.all(jnp.isfinite(x))
  usable &= (mass > 0) | ~jnp.any(problem.present)
  return jnp.where(usable, jnp.minimum(residual, at_zero), jnp.inf)


def best_task(problem: Problem) -> tuple[jax.Array, jax.Array]:
  """The best single task to start from: its index, and [T] bool."""
  value = problem.linear + problem.radius
  value = value / jnp.where(problem.present, problem.costs, 1.0)
  first = jnp.argmin(jnp.where(problem.present, value, jnp.inf))
  hot = jnp.arange(value.shape[0]) == first
  return first, hot & problem.present


def solve(problem: Problem, found: Found, tol, max_iter) -> Found:
  """Solves from scratch; the answer is at least as good as `found`."""
  gram, linear, costs = problem.gram, problem.linear, problem.costs
  dtype = gram.dtype
  eps = float(jnp.finfo(dtype).eps)
  num_tasks = gram.shape[0]
  total = jnp.sum(problem.mean)
  total = jnp.where(total > 0, total, 1.0)
  right = jnp.stack([linear, costs], axis=1)
  eye = jnp.eye(num_tasks, dtype=dtype)

  first, hot = best_task(problem)
  vertex = jnp.where(hot, 1.0 / jnp.where(hot, costs, 1.0), 0.0)

  def start(count, ridge):
    table = jnp.concatenate([gram + ridge * eye, right], axis=1)
    row = table[first]
    column = row[:num_tasks] - hot.astype(dtype)
    scaled = jnp.concatenate([column, row[num_tasks:]]) / row[first]
    return _Pivots(
      count,
      table,
      column,
      scaled,
      vertex,
      hot,
      jnp.asarray(-1, jnp.int32),
      jnp.ones((), bool),
      jnp.zeros((), bool),
    )

  def renew(done):
    """The tableau from scratch, but for the last two columns outside `S`."""
    on = done.support
    both = on[:, None] & on[None, :]
    inverse = jnp.linalg.inv(jnp.where(both, gram, eye))
    inverse = jnp.where(both, 0.5 * (inverse + inverse.T), 0.0)
    across = jnp.where(on[:, None] & ~on[None, :], gram, 0.0)
    solved = jnp.matmul(inverse, across, precision="highest")
    schur = gram - jnp.matmul(across.T, solved, precision="highest")
    outside = ~on[:, None] & ~on[None, :]
    tableau = 2.0 * jnp.where(both, eye, 0.0) - inverse
    tableau = tableau + solved + solved.T + jnp.where(outside, schur, 0.0)
    return tableau, jnp.matmul(inverse, right, precision="highest")

  def attempt(state: _Attempts) -> _Attempts:
    limit = state.pivots.count + max_iter
    done = lax.while_loop(
      lambda p: p.moving & (p.count < limit),
      lambda p: _pivot(problem, p, total, tol),
      state.pivots,
    )
    # Refinement: residuals from the matrix itself, the tableau as its inverse.
    on = done.support[:, None]
    tableau = _updated(done)
    inverse, columns = lax.cond(
      done.stale,
      renew,
      lambda p: (tableau[:, :num_tasks], tableau[:, num_tasks:]),
      done,
    )
    columns = jnp.where(on, columns, 0.0)
    for _ in range(_REFINEMENTS):
      error = right - jnp.matmul(gram, columns, precision="highest")
      error = jnp.where(on, error, 0.0)
      change = 2.0 * error - jnp.matmul(inverse, error, precision="highest")
      columns = jnp.where(on, columns + change, 0.0)
    outside = right - jnp.matmul(gram, columns, precision="highest")
    columns = jnp.where(on, columns, outside)
    goal, _, rate, _, _ = _target(problem, columns, done.support, done.point)
    good = jnp.all(goal >= 0) & (rate > 0)
    refined = jnp.where(good, goal * over(1.0, rate), done.point)
    mass = jnp.sum(refined * costs)
    refined = over(refined, mass)
    residual = residual_of(problem, refined)
    better = residual < state.residual
    best = jnp.where(better, refined, state.best)
    residual = jnp.where(better, residual, state.residual)
    # Next: go on from the refined values, or start again with a ridge.
    onward = _Pivots(
      done.count,
      jnp.concatenate([inverse, columns], axis=1),
      jnp.zeros_like(linear),
      jnp.zeros(num_tasks + 2, dtype),
      refined,
      done.support,
      jnp.asarray(-1, jnp.int32),
      jnp.ones((), bool),
      jnp.zeros((), bool),
    )
    count = jnp.where(done.stale, state.count, state.count + 1)
    restarts = jnp.where(done.stale, -1, count - _CONTINUED)
    power = jnp.asarray(10.0, dtype) ** jnp.maximum(restarts, 0).astype(dtype)
    again = start(done.count, _RIDGE * eps * power)
    pivots = jax.tree.map(
      lambda new, old: jnp.where(restarts >= 0, new, old), again, onward
    )
    return _Attempts(count, pivots, best, residual)

  state = _Attempts(
    jnp.zeros((), jnp.int32),
    start(found.count, jnp.zeros((), dtype)),
    found.point,
    found.residual,
  )
  state = lax.while_loop(
    lambda s: (
      (s.residual > tol)
      & (s.count < _ATTEMPTS)
      & (s.pivots.count < found.count + _ATTEMPTS * max_iter)
    ),
    attempt,
    state,
  )
  return Found(state.best, state.residual, state.pivots.count)
