"""Projection on the dual cone of the task gradients, exactly.

UPGrad projects every task's gradient, GEM ("DualProj") one weighted mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _certificate, _unit_gram

# A gradient whose squared distance from the span of the support, relative to
# its own square, is below this many roundings is taken to be in the span: the
# Gram matrix itself cannot tell.
_PIVOT = 4.0
# An attempt whose residual stays above the tolerance is repeated with this many
# roundings, then ten times as many, ..., added to the unit diagonal. Only the
# choice of the support sees them: values come from refinement with the true
# matrix.
_RIDGE = 4.0
_ATTEMPTS = 5
# Attempts, refined and continued, before the first restart.
_CONTINUED = 2
_REFINEMENTS = 2


class _Pivots(NamedTuple):
  """A block of `K` active-set solves; the tableau is explained in `_pivot`."""

  count: jax.Array  # scalar int32
  tableau: jax.Array  # [K, T, T]
  column: jax.Array  # [K, T]
  extra: jax.Array  # [K, T], z >= 0
  support: jax.Array  # [K, T] bool
  moving: jax.Array  # scalar bool


class _Attempts(NamedTuple):
  """The attempts so far, and per row the best answer among them."""

  count: jax.Array  # scalar int32
  pivots: _Pivots
  best: jax.Array  # [K, T]
  residual: jax.Array  # [K, 1]


def _pick(x: jax.Array, index: jax.Array) -> jax.Array:
  """Entry `index[k]` of each row `k`, `[K, 1]`."""
  return jnp.take_along_axis(x, index[:, None], axis=1)


def _pivot(
  state: _Pivots, start: jax.Array, free: jax.Array, tol: float
) -> _Pivots:
  """One step of Lawson and Hanson's method, in every row at once.

  The tableau is the matrix after a symmetric sweep on the support `S`:
  `-inv(M_SS)` on `S x S`, the Schur complement outside, with 2 added to the
  diagonal on `S`. Thanks to the 2, both entering and leaving `S` are one
  symmetric rank-one update. `column` is `M u` swept along: `-z_S` on the
  support, and `M v` outside.
  """
  dtype = start.dtype
  target = jnp.where(state.support, -state.column, 0.0)
  # Where the solution on the support has left z >= 0, go towards it as far as
  # the bounds allow and drop the entry that blocks.
  blocked = state.support & (target < 0)
  ratio = state.extra / jnp.where(blocked, state.extra - target, 1.0)
  ratio = jnp.where(blocked, ratio, 1.0)
  # Elsewhere, take in the task that d hurts most, if any.
  size = jnp.sum(jnp.abs(start + state.extra), axis=1, keepdims=True)
  hurt = -state.column / jnp.where(size > 0, size, 1.0)
  schur = jnp.diagonal(state.tableau, axis1=1, axis2=2)
  wanted = ~state.support & free & (hurt > tol)
  wanted &= schur > _PIVOT * float(jnp.finfo(dtype).eps)
  # One reduction makes both choices: cosines are at most 1, ratios are in
  # [0, 1], and dropping comes first.
  key = jnp.where(blocked, 5.0 - ratio, jnp.where(wanted, hurt, 0.0))
  chosen = jnp.argmax(key, axis=1)
  top = _pick(key, chosen)
  dropping, going = top > 3.0, top > 0.0
  hot = jnp.arange(start.shape[1])[None, :] == chosen[:, None]
  partway = state.extra + _pick(ratio, chosen) * (target - state.extra)
  partway = jnp.where(hot, 0.0, partway)
  extra = jnp.where(dropping, partway, target)

  row = jnp.take_along_axis(state.tableau, chosen[:, None, None], axis=1)[:, 0]
  row = row - jnp.where(hot & dropping, 2.0, 0.0).astype(dtype)
  pivot = _pick(row, chosen)
  sign = jnp.where(dropping, 1.0, -1.0).astype(dtype)
  row = row + jnp.where(hot, sign, 0.0)
  scaled = row * jnp.where(going, 1.0 / jnp.where(going, pivot, 1.0), 0.0)
  # Else the row's chain of operations is fused into the update and evaluated
  # anew for each of its K T T entries.
  row, scaled = lax.optimization_barrier((row, scaled))
  return _Pivots(
    state.count + 1,
    state.tableau - row[:, :, None] * scaled[:, None, :],
    state.column - scaled * _pick(state.column, chosen),
    extra,
    state.support ^ (hot & going),
    jnp.any(going),
  )


def _solve(
  unit: jax.Array, start: jax.Array, free: jax.Array, tol: float, max_iter: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Solves for `z` with unit diagonal; returns z, residuals and pivots."""
  dtype = unit.dtype
  eps = float(jnp.finfo(dtype).eps)
  num_rows, num_tasks = start.shape

  def slopes(extra):
    return jnp.matmul(start + extra, unit, precision="highest")

  def attempt(state: _Attempts) -> _Attempts:
    limit = state.pivots.count + max_iter
    done = lax.while_loop(
      lambda p: p.moving & (p.count < limit),
      lambda p: _pivot(p, start, free, tol),
      state.pivots,
    )
    # Refinement: residuals from the matrix itself, the tableau as its inverse.
    refined = done.extra
    for _ in range(_REFINEMENTS):
      error = jnp.where(done.support, slopes(refined), 0.0)
      step = jnp.einsum("kij,kj->ki", done.tableau, error, precision="highest")
      step = step - 2.0 * error
      refined = jnp.where(done.support, refined + step, 0.0)
    answer = jnp.maximum(refined, 0.0)
    found = slopes(answer)
    wrong = jnp.where(answer > 0, jnp.abs(found), jnp.maximum(-found, 0.0))
    wrong = jnp.max(jnp.where(free, wrong, 0.0), axis=1, keepdims=True)
    size = jnp.sum(jnp.abs(start + answer), axis=1, keepdims=True)
    residual = wrong / jnp.where(size > 0, size, 1.0)
    better = residual < state.residual
    best = jnp.where(better, answer, state.best)
    best_residual = jnp.where(better, residual, state.residual)

    # Next: go on from the refined values, or start again with a ridge.
    restarts = state.count + 1 - _CONTINUED
    again = (best_residual > tol) & (restarts >= 0)
    power = jnp.asarray(10.0, dtype) ** jnp.maximum(restarts, 0).astype(dtype)
    ridge = _RIDGE * eps * power * jnp.eye(num_tasks, dtype=dtype)
    tableau = lax.cond(
      jnp.any(again),
      lambda t: jnp.where(again[:, :, None], (unit + ridge)[None], t),
      lambda t: t,
      done.tableau,
    )
    column = jnp.where(done.support, -refined, slopes(refined))
    pivots = _Pivots(
      done.count,
      tableau,
      jnp.where(again, start_slopes, column),
      jnp.where(again, 0.0, answer),
      done.support & ~again,
      jnp.ones((), bool),
    )
    return _Attempts(state.count + 1, pivots, best, best_residual)

  start_slopes = slopes(jnp.zeros_like(start))
  pivots = _Pivots(
    jnp.zeros((), jnp.int32),
    jnp.broadcast_to(unit, (num_rows, num_tasks, num_tasks)),
    start_slopes,
    jnp.zeros_like(start),
    jnp.zeros_like(start, bool),
    jnp.ones((), bool),
  )
  state = _Attempts(
    jnp.zeros((), jnp.int32),
    pivots,
    jnp.zeros_like(start),
    jnp.full((num_rows, 1), jnp.inf, dtype),
  )
  state = lax.while_loop(
    lambda s: jnp.any(s.residual > tol) & (s.count < _ATTEMPTS), attempt, state
  )
  return state.best, jnp.max(state.residual), state.pivots.count


def project_dual_cone(
  gram: jax.Array,
  vectors: jax.Array,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
  max_iter: int | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Projects combinations of the task gradients on their dual cone.

  The dual cone of the rows of `G` is the set of directions that hurt no task,
  :math:`\{d : G d \ge 0\}`. The projection of :math:`G^\top u` on it is
  :math:`G^\top v`, where `v` solves

  .. math:: \min_v v^\top M v \quad \text{subject to} \quad v \ge u.

  Solved exactly, by Lawson and Hanson's active-set method on the matrix scaled
  to unit diagonal, all rows of `vectors` side by side. Nothing is added to the
  matrix of the answer, and the answer does not depend on the scale of the
  gradients, nor on that of one of them.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix `M = G G^T` of the gradients.
    vectors: `[K, T]`, a real dtype. Each row holds the coefficients `u` of one
      vector to project: `jnp.eye(T)` for UPGrad, one row of preferences for
      DualProj.
    active: `[T]` bool, or None for all. Other tasks take no part: their
      coefficients in `vectors` are ignored, and 0 is returned.
    tol: Largest residual that counts as solved. Default: 16 roundings of the
      solver's dtype (1.9e-6 in float32).
    max_iter: Most pivots in one attempt; there are up to five, of which all but
      the first are rare. Default: `3 T + 10`.

  Returns:
    A pair of

    - `[K, T]`, `solver_dtype()`: the coefficients `v`. `v >= u` holds exactly,
      and `v = u` for a task whose gradient is zero. NaN in the active columns
      if `gram` has an entry between active tasks that is not finite.
    - A `Certificate`. With :math:`y = M v` and everything at unit diagonal,
      `residual` is the largest :math:`|y_i|` where :math:`v_i > u_i` and
      :math:`-y_i` elsewhere, relative to :math:`\sum_j |v_j|`, over all rows:
      the relative change of the entries of the Gram matrix that would make the
      answer exact. `iterations` counts pivots.

  The norm of the projection inherits the rounding of the Gram matrix: with unit
  diagonal, :math:`\|d\|^2` is off by at most :math:`2 (\rho + c\,\epsilon)
  \|v\|_1 (\|v\|_1 + \|v^*\|_1)`, with :math:`\rho` the residual and `c` a small
  number. Where gradients nearly cancel, :math:`\|v\|_1` is much larger than
  :math:`\|d\|`, and no solver that is given a float32 Gram matrix does better.

  Raises:
    ValueError: If the shapes do not fit together, or a limit is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import dual_cone
    >>> gradients = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> weights, certificate = dual_cone.project_dual_cone(
    ...   gradients @ gradients.T, jnp.eye(2)
    ... )
    >>> print(jnp.abs(weights @ gradients).round(4))
    [[0.5 0.5]
     [0.  1. ]]
    >>> bool(certificate.converged)
    True

  References:
    Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
    <https://arxiv.org/abs/2406.16232>`_, 2024.

    Lopez-Paz and Ranzato, `Gradient Episodic Memory for Continual Learning
    <https://arxiv.org/abs/1706.08840>`_, 2017.

    Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
  """
  unit = _unit_gram.unit_gram(gram, active)
  dtype = unit.gram.dtype
  num_tasks = unit.gram.shape[0]
  vectors = jnp.asarray(vectors)
  if vectors.ndim != 2 or vectors.shape[1] != num_tasks:
    raise ValueError(
      f"vectors must have shape [K, {num_tasks}], one row of coefficients for "
      f"each vector to project; got shape {vectors.shape}."
    )
  tol = _unit_gram.tolerance(tol, 16.0)
  max_iter = _unit_gram.iteration_limit(max_iter, 3 * num_tasks + 10)
  lower = jnp.where(unit.active[None, :], vectors.astype(dtype), 0.0)
  start = jnp.where(unit.present, unit.norms, 0.0)[None, :] * lower
  size = jnp.max(jnp.abs(start), axis=1, keepdims=True)
  size = jnp.where(size > 0, size, 1.0)
  free = jnp.broadcast_to(unit.present[None, :], start.shape)
  extra, residual, count = _solve(unit.gram, start / size, free, tol, max_iter)
  answer = lower + extra * size / unit.norms[None, :]
  return unit.poison(answer), unit.certify(residual, count, tol)
