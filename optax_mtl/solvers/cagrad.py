"""CAGrad's weights, exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _certificate, _unit_gram

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


class _Problem(NamedTuple):
  """`min q.x + radius sqrt(x M x)` over `x >= 0`, `e.x = 1`, unit diagonal."""

  gram: jax.Array  # [T, T]
  linear: jax.Array  # [T], q, products of the unit gradients with the mean
  costs: jax.Array  # [T], e, shortest length over length; 0 if absent
  radius: jax.Array  # scalar, c times the length of the mean
  mean: jax.Array  # [T], coefficients of the mean on the unit gradients
  present: jax.Array  # [T] bool
  reaches_zero: jax.Array  # scalar bool, c >= 1


class _Pivots(NamedTuple):
  """An active-set solve; the tableau is explained in `_pivot`."""

  count: jax.Array  # scalar int32
  tableau: jax.Array  # [T, T + 2]
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


def _over(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """Division by what is not negative; by 1 where it is zero."""
  return numerator / jnp.where(denominator > 0, denominator, 1.0)


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
  level = _over(eq + rate, ee)
  goal = on * (level * columns[:, 1] - columns[:, 0])
  return goal, level, rate, level * sums[2, 1] - sums[2, 0], sums[0, 2]


def _pivot(problem: _Problem, state: _Pivots, total, tol) -> _Pivots:
  """One step of the active-set method.

  The tableau is `[M, q, e]` after a symmetric sweep on the support `S`:
  `-inv(M_SS)` on `S x S`, with 2 added to the diagonal, the Schur complement
  outside, and `inv(M_SS) [q, e]` in the last two columns. Thanks to the 2, both
  entering and leaving `S` are one symmetric rank-one update.
  """
  tableau, x, support = state.tableau, state.point, state.support
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
  full = jnp.where(rate > 0, goal * _over(mass, rate), x)

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
  return _Pivots(
    state.count + 1,
    tableau - column[:, None] * scaled[None, :],
    jnp.where(forced, x, moved),
    support ^ (hot & going),
    jnp.where(swapping, enter, -1),
    going & ~stale,
    stale,
  )


def _residual(problem: _Problem, x: jax.Array) -> jax.Array:
  """Relative KKT residual of the weights on the unit gradients `x`."""
  eps = float(jnp.finfo(x.dtype).eps)
  products = jnp.matmul(problem.gram, x, precision="highest")
  size, mass = jnp.sum(x), jnp.sum(problem.costs * x)
  square = jnp.maximum(jnp.sum(x * products), 0.0)
  norm = jnp.sqrt(jnp.maximum(square, 4.0 * eps * size * size))
  pull = _over(problem.radius, norm)
  gains = problem.linear + pull * products
  level = _over(jnp.sum(x * gains), mass)
  excess = gains - level * problem.costs
  wrong = jnp.where(x > 0, jnp.abs(excess), jnp.maximum(-excess, 0.0))
  wrong = jnp.max(jnp.where(problem.present, wrong, 0.0))
  residual = _over(wrong, jnp.sum(problem.mean) + pull * size)
  # With c >= 1, d = 0 is within reach, and weights that give it are optimal.
  at_zero = jnp.where(problem.reaches_zero, _over(square, size * size), jnp.inf)
  usable = jnp.all(jnp.isfinite(x))
  usable &= (mass > 0) | ~jnp.any(problem.present)
  return jnp.where(usable, jnp.minimum(residual, at_zero), jnp.inf)


def _solve(problem: _Problem, tol, max_iter):
  """Returns `x`, its residual, and the number of pivots."""
  gram, linear, costs = problem.gram, problem.linear, problem.costs
  dtype = gram.dtype
  eps = float(jnp.finfo(dtype).eps)
  num_tasks = gram.shape[0]
  total = jnp.sum(problem.mean)
  total = jnp.where(total > 0, total, 1.0)
  right = jnp.stack([linear, costs], axis=1)
  eye = jnp.eye(num_tasks, dtype=dtype)

  # The best single task to start from.
  value = (linear + problem.radius) / jnp.where(problem.present, costs, 1.0)
  first = jnp.argmin(jnp.where(problem.present, value, jnp.inf))
  hot = (jnp.arange(num_tasks) == first) & problem.present
  vertex = jnp.where(hot, 1.0 / jnp.where(hot, costs, 1.0), 0.0)

  def start(count, ridge):
    table = jnp.concatenate([gram + ridge * eye, right], axis=1)
    row = table[first]
    column = row[:num_tasks] - hot.astype(dtype)
    scaled = jnp.concatenate([column, row[num_tasks:]]) / row[first]
    return _Pivots(
      count,
      table - column[:, None] * scaled[None, :],
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
    inverse, columns = lax.cond(
      done.stale,
      renew,
      lambda p: (p.tableau[:, :num_tasks], p.tableau[:, num_tasks:]),
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
    refined = jnp.where(good, goal * _over(1.0, rate), done.point)
    mass = jnp.sum(refined * costs)
    refined = _over(refined, mass)
    residual = _residual(problem, refined)
    better = residual < state.residual
    best = jnp.where(better, refined, state.best)
    residual = jnp.where(better, residual, state.residual)
    # Next: go on from the refined values, or start again with a ridge.
    onward = _Pivots(
      done.count,
      jnp.concatenate([inverse, columns], axis=1),
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
    start(jnp.zeros((), jnp.int32), jnp.zeros((), dtype)),
    vertex,
    _residual(problem, vertex),
  )
  state = lax.while_loop(
    lambda s: (
      (s.residual > tol)
      & (s.count < _ATTEMPTS)
      & (s.pivots.count < _ATTEMPTS * max_iter)
    ),
    attempt,
    state,
  )
  return state.best, state.residual, state.pivots.count


def cagrad_weights(
  gram: jax.Array,
  c: jax.Array | float,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
  max_iter: int | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Weights of the gradient that CAGrad adds to the mean.

  The minimiser over the simplex of

  .. math:: w^\top M \tfrac{\mathbf 1}{T} + c \|\bar g\| \sqrt{w^\top M w},

  with :math:`\bar g` the mean gradient. The method's direction is then
  :math:`d = \bar g + c \|\bar g\| g_w / \|g_w\|`, with :math:`g_w = G^\top w`.

  Solved exactly, by an active-set method on the matrix scaled to unit diagonal:
  on a given support the minimiser has a closed form, one square root away from
  the solution of a linear system. The answer does not depend on the scale of
  the gradients.

  Where :math:`g_w = 0` is optimal the objective has a kink. With `c >= 1` that
  is so at every Pareto stationary point; `d = 0` is then within reach and the
  weights make :math:`g_w` zero to rounding. Where the mean itself is zero, any
  weights are optimal.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    c: Scalar, not negative, may be traced. Radius of the search around the
      mean, relative to the mean's length.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0. (A zero gradient would pin the
      smallest gain, which is what is maximised, at zero.)
    tol: Largest residual that counts as solved. Default: 16 roundings of the
      solver's dtype (1.9e-6 in float32).
    max_iter: Most pivots in one attempt; there are up to six, of which all but
      the first are rare. Default: `5 T + 20`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights, which sum to 1 if any task takes
      part. NaN for the active tasks if `gram` has an entry between active tasks
      that is not finite.
    - A `Certificate`. With `v` the coefficients of `d` on the unit gradients,
      and :math:`\mu` the mean of :math:`g_i^\top d` under the weights,
      `residual` is the largest :math:`|g_i^\top d - \mu| / \|g_i\|` where
      :math:`w_i > 0`, and :math:`(\mu - g_i^\top d) / \|g_i\|` elsewhere,
      relative to :math:`\sum_j |v_j|`. With `c >= 1` it is at most
      :math:`\|g_w\|^2`, relative to the square of the sum of the coefficients
      of :math:`g_w`. `iterations` counts pivots.

  Raises:
    ValueError: If a shape does not fit, `c` is negative, or a limit is not
      positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import cagrad
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> weights, _ = cagrad.cagrad_weights(gradients @ gradients.T, 0.5)
    >>> print(weights)
    [0.5 0.5]

  References:
    Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
    <https://arxiv.org/abs/2110.14048>`_, NeurIPS 2021.
  """
  if isinstance(c, (int, float)) and not c >= 0:
    raise ValueError(f"c must not be negative; got {c}.")
  unit = _unit_gram.unit_gram(gram, active)
  dtype = unit.gram.dtype
  num_tasks = unit.gram.shape[0]
  tol = _unit_gram.tolerance(tol, 16.0)
  max_iter = _unit_gram.iteration_limit(max_iter, 5 * num_tasks + 20)
  c = jnp.asarray(c).astype(dtype)
  longest = jnp.max(jnp.where(unit.present, unit.norms, 0.0))
  shortest = jnp.min(jnp.where(unit.present, unit.norms, jnp.inf))
  count = jnp.maximum(jnp.sum(unit.present.astype(dtype)), 1.0)
  mean = jnp.where(unit.present, _over(unit.norms, longest), 0.0) / count
  costs = jnp.where(unit.present, shortest / unit.norms, 0.0)
  linear = jnp.matmul(unit.gram, mean, precision="highest")
  square = jnp.sum(mean * linear)
  radius = c * jnp.sqrt(jnp.maximum(square, 0.0))
  problem = _Problem(
    unit.gram, linear, costs, radius, mean, unit.present, c >= 1
  )
  x, residual, steps = _solve(problem, tol, max_iter)
  weights = x * costs
  weights = _over(weights, jnp.sum(weights))
  return unit.poison(weights), unit.certify(residual, steps, tol)
