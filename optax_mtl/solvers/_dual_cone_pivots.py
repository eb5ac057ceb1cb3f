"""Projection on the dual cone by an active-set method, entry by entry."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers._scaling import over

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


class Found(NamedTuple):
  """Answers, row by row."""

  extra: jax.Array  # [K, T], z >= 0
  residual: jax.Array  # [K, 1]
  count: jax.Array  # scalar int32, steps taken


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


def residual_of(
  start: jax.Array, extra: jax.Array, slopes: jax.Array, free: jax.Array
) -> jax.Array:
  """The certificate's residual, by row."""
  wrong = jnp.where(extra > 0, jnp.abs(slopes), jnp.maximum(-slopes, 0.0))
  wrong = jnp.max(jnp.where(free, wrong, 0.0), axis=1, keepdims=True)
  return over(wrong, jnp.sum(jnp.abs(start + extra), axis=1, keepdims=True))


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


def solve(
  unit: jax.Array,
  start: jax.Array,
  free: jax.Array,
  tol: float,
  max_iter: int,
  found: Found,
) -> Found:
  """Solves the rows that are not solved yet, from scratch."""
  wanted = free & (found.residual > tol)
  dtype = unit.dtype
  eps = float(jnp.finfo(dtype).eps)
  num_rows, num_tasks = start.shape

  def slopes(extra):
    return jnp.matmul(start + extra, unit, precision="highest")

  def attempt(state: _Attempts) -> _Attempts:
    limit = state.pivots.count + max_iter
    done = lax.while_loop(
      lambda p: p.moving & (p.count < limit),
      lambda p: _pivot(p, start, wanted, tol),
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
    residual = residual_of(start, answer, slopes(answer), free)
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
    found.count,
    jnp.broadcast_to(unit, (num_rows, num_tasks, num_tasks)),
    start_slopes,
    jnp.zeros_like(start),
    jnp.zeros_like(start, bool),
    jnp.ones((), bool),
  )
  state = _Attempts(
    jnp.zeros((), jnp.int32),
    pivots,
    found.extra,
    found.residual,
  )
  state = lax.while_loop(
    lambda s: jnp.any(s.residual > tol) & (s.count < _ATTEMPTS), attempt, state
  )
  return Found(state.best, state.residual, state.pivots.count)
