"""CAGrad's weights, exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _cagrad_pivots, _certificate, _unit_gram
from optax_mtl.solvers._scaling import over

# From so many tasks on, blocks are faster than pivots alone.
_FEW = 5
# Most blocks that are tried before pivots, which always end, start over.
_BLOCKS = 10
# Gradient steps that guess the first support. They cost a fraction of a block
# and save several: mostly, one to three are left.
_GUESSES = 2
# Roundings under the Cholesky factor, so that it exists for dependent rows. It
# leaves no bias, as every system is solved for a correction.
_RIDGE = 8.0


class _Blocks(NamedTuple):
  """A support, and the last point; in units where `|d - mean| = radius`."""

  count: jax.Array  # scalar int32
  point: jax.Array  # [T], y >= 0
  support: jax.Array  # [T] bool
  moving: jax.Array  # scalar bool


def _guess(problem: _cagrad_pivots.Problem) -> jax.Array:
  """A support: what falls short of the best single task, then a few steps."""
  gram, linear, costs = problem.gram, problem.linear, problem.costs
  first, hot = _cagrad_pivots.best_task(problem)
  gains = linear + problem.radius * gram[first]
  level = over(gains[first], costs[first])
  short = jnp.where(hot, 0.0, jnp.maximum(level * costs - gains, 0.0))
  # The task itself is not short; it stays, and as much as any other.
  worst = jnp.max(short)
  point = jnp.where(hot, jnp.where(worst > 0, worst, 1.0), short)
  for _ in range(_GUESSES):
    image = jnp.matmul(gram, point, precision="highest")
    scale = over(problem.radius, jnp.sqrt(jnp.maximum(point @ image, 0.0)))
    gains = linear + scale * image
    level = over(point @ gains, point @ costs)
    point = jnp.maximum(scale * point + level * costs - gains, 0.0)
  return problem.present & (point > 0)


def _block(problem: _cagrad_pivots.Problem, tol, state: _Blocks) -> _Blocks:
  """Solves on the support, and lets all go and come in that should.

  With `E = inv(M_SS) e_S` and `Q = inv(M_SS) q_S`, the coefficients of `d`
  less the mean are `level E - Q`, where `level`, the smallest product of `d`
  with a gradient, is such that their combination is of length `radius`.
  """
  gram, linear, costs = problem.gram, problem.linear, problem.costs
  on = state.support
  eps = float(jnp.finfo(gram.dtype).eps)
  pair = on[:, None] & on[None, :]
  diagonal = jnp.where(on, _RIDGE * eps, 1.0).astype(gram.dtype)
  system = jnp.where(pair, gram, 0.0) + jnp.diag(diagonal)
  factor = lax.linalg.cholesky(system, symmetrize_input=False)
  slopes = linear + jnp.matmul(gram, state.point, precision="highest")
  right = jnp.stack([costs, -slopes], axis=1)
  right = jnp.where(on[:, None], right, 0.0)
  for transpose in (False, True):
    right = lax.linalg.triangular_solve(
      factor, right, left_side=True, lower=True, transpose_a=transpose
    )
  unit, rest = right[:, 0], state.point + right[:, 1]
  both = jnp.stack([unit, rest], axis=1)
  images = jnp.matmul(gram, both, precision="highest")
  sums = jnp.matmul(both.T, images, precision="highest")
  ee, eq, qq = sums[0, 0], -sums[0, 1], sums[1, 1]
  gap = eq * eq - ee * (qq - problem.radius * problem.radius)
  level = over(eq + jnp.sqrt(jnp.maximum(gap, 0.0)), ee)
  goal = rest + level * unit
  short = level * (costs - images[:, 0]) - images[:, 1] - linear

  total = jnp.sum(problem.mean) + jnp.maximum(jnp.sum(goal), 0.0)
  short = over(short, total)
  leaving = on & (goal <= 0)
  entering = problem.present & ~on & (short > 0.5 * tol)
  changed = jnp.any(leaving | entering)
  # Else the length is out of reach on this support; and so, if the support does
  # not change any more, are its values.
  bounded = gap > 0
  rough = jnp.max(jnp.where(on, jnp.abs(short), 0.0)) > 0.5 * tol
  return _Blocks(
    state.count + 1,
    jnp.where(bounded, jnp.maximum(goal, 0.0), 0.0),
    (on & ~leaving) | entering,
    changed | (bounded & rough),
  )


def _solve(
  problem: _cagrad_pivots.Problem, tol, max_iter
) -> _cagrad_pivots.Found:
  """By blocks; where these do not settle, by pivots."""
  zeros, none = jnp.zeros_like(problem.linear), jnp.zeros((), jnp.int32)

  def by_pivots(found):
    return _cagrad_pivots.solve(problem, found, tol, max_iter)

  if zeros.shape[0] < _FEW:
    unsolved = jnp.asarray(jnp.inf, zeros.dtype)
    return by_pivots(_cagrad_pivots.Found(zeros, unsolved, none))
  state = _Blocks(none, zeros, _guess(problem), jnp.any(problem.present))
  state = lax.while_loop(
    lambda s: s.moving & (s.count < _BLOCKS),
    lambda s: _block(problem, tol, s),
    state,
  )
  point = over(state.point, jnp.sum(state.point * problem.costs))
  found = _cagrad_pivots.Found(
    point, _cagrad_pivots.residual_of(problem, point), state.count
  )

  # A loop of one trip, and not a condition: under `vmap` that would always run.
  _, found = lax.while_loop(
    lambda trip: trip[0],
    lambda trip: (jnp.zeros((), bool), by_pivots(trip[1])),
    (~(found.residual <= tol), found),
  )
  return found


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
  the solution of a linear system. From five tasks on the support changes in
  blocks, every task that falls short of the level coming in at once and every
  negative weight leaving; where that has not settled after ten blocks, and for
  fewer tasks, it changes by one task at a time, which always ends. The answer
  does not depend on the scale of the gradients.

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
    max_iter: Most pivots, changes by one task, in one attempt; there are up to
      six, of which all but the first are rare. Default: `5 T + 20`.

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
      of :math:`g_w`. `iterations` counts blocks and pivots.

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
  mean = jnp.where(unit.present, over(unit.norms, longest), 0.0) / count
  costs = jnp.where(unit.present, shortest / unit.norms, 0.0)
  linear = jnp.matmul(unit.gram, mean, precision="highest")
  square = jnp.sum(mean * linear)
  radius = c * jnp.sqrt(jnp.maximum(square, 0.0))
  problem = _cagrad_pivots.Problem(
    unit.gram, linear, costs, radius, mean, unit.present, c >= 1
  )
  found = _solve(problem, tol, max_iter)
  weights = found.point * costs
  weights = over(weights, jnp.sum(weights))
  return unit.poison(weights), unit.certify(found.residual, found.count, tol)
