"""Projection on the dual cone of the task gradients, exactly.

UPGrad projects every task's gradient, GEM ("DualProj") one weighted mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _certificate, _dual_cone_pivots, _unit_gram
from optax_mtl.solvers._dual_cone_pivots import Found, residual_of
from optax_mtl.solvers._scaling import over

# From so many tasks on, conjugate gradients are faster than pivots alone: their
# step costs products [K, T] x [T, T], and not a pass over K tableaus.
_FEW = 12
# Steps of conjugate gradients, in units of T, before pivots take over. They are
# many only where gradients are linearly dependent, and so are pivots.
_GRADIENTS = 5
# Once all rows are solved, up to so many steps more, towards so much less: each
# takes off a digit's part, and where the problem is well conditioned the answer
# is then as exact as that of the active-set method.
_EXTRA = 16
_AIM = 1 / 64
# What their preconditioner adds to the unit diagonal. Saves half of the steps
# where gradients nearly cancel; the count is flat from 0.03 to 0.3.
_SHIFT = 0.1


class _Gradients(NamedTuple):
  """A block of `K` solves by conjugate gradients; see `_advance`."""

  count: jax.Array  # scalar int32
  solved: jax.Array  # scalar int32, steps until all rows were solved
  extra: jax.Array  # [K, T], z >= 0
  slopes: jax.Array  # [K, T], M v
  best: jax.Array  # [K, T], of all z so far the one of least residual
  residual: jax.Array  # [K, 1], its residual
  direction: jax.Array  # [K, T]
  image: jax.Array  # [K, T], M times the direction
  curvature: jax.Array  # [K, 1], product of the two
  conjugate: jax.Array  # [K, 1] bool, the next direction is to be conjugate


def _dots(left: jax.Array, right: jax.Array) -> jax.Array:
  """Products row by row, `[K, 1]`."""
  return jnp.sum(left * right, axis=1, keepdims=True)


def _norm_bound(unit: jax.Array) -> jax.Array:
  """An upper bound of the largest eigenvalue, at most `T^(1/16)` too large."""
  scale = jnp.max(jnp.sum(jnp.abs(unit), axis=1))
  power = unit / scale
  for _ in range(3):
    power = jnp.matmul(power, power, precision="highest")
  return scale * jnp.sum(power * power) ** 0.0625


def _preconditioner(unit: jax.Array) -> jax.Array:
  """Inverse of the matrix plus `_SHIFT`, one for all rows and supports."""
  eye = jnp.eye(unit.shape[0], dtype=unit.dtype)
  factor = lax.linalg.cholesky(unit + _SHIFT * eye, symmetrize_input=False)
  for transpose in (False, True):
    eye = lax.linalg.triangular_solve(
      factor, eye, left_side=True, lower=True, transpose_a=transpose
    )
  return eye


def _advance(
  unit: jax.Array,
  inverse: jax.Array,
  start: jax.Array,
  free: jax.Array,
  length: jax.Array,
  tol: float,
  state: _Gradients,
) -> _Gradients:
  """One step of MPRGP, in every row at once.

  Conjugate gradients on the entries with `z > 0`; if that would leave `z >= 0`,
  up to the bound, and then one projected gradient step. Entries at the bound
  are let go once their gradient is longer than that of the others.
  """
  z, slopes = state.extra, state.slopes
  inner = jnp.where(z > 0, slopes, 0.0)
  outer = jnp.where(free & (z <= 0), jnp.minimum(slopes, 0.0), 0.0)
  excess = outer * outer - jnp.minimum(inner, z / length) * inner
  inside = jnp.sum(excess, axis=1, keepdims=True) <= 0
  ahead = jnp.matmul(inner, inverse, precision="highest")
  ahead = jnp.where(z > 0, ahead, 0.0)
  factor = over(_dots(ahead, state.image), state.curvature)
  factor = jnp.where(state.conjugate, factor, 0.0)
  direction = jnp.where(inside, ahead - factor * state.direction, outer)
  image = jnp.matmul(direction, unit, precision="highest")
  curvature = _dots(direction, image)
  exact = over(_dots(slopes, direction), curvature)
  down = direction > 0
  reach = jnp.where(down, z / jnp.where(down, direction, 1.0), jnp.inf)
  reach = jnp.min(reach, axis=1, keepdims=True)
  part = jnp.minimum(exact, reach)
  moved = jnp.maximum(z - part * direction, 0.0)
  beyond = jnp.where(moved > 0, slopes - part * image, 0.0)
  beyond = jnp.maximum(moved - length * beyond, 0.0)
  moved = jnp.where(exact <= reach, moved, beyond)
  slopes = jnp.matmul(start + moved, unit, precision="highest")
  residual = residual_of(start, moved, slopes, free)
  better = residual < state.residual
  best = jnp.where(better, moved, state.best)
  residual = jnp.where(better, residual, state.residual)
  count = state.count + 1
  return _Gradients(
    count,
    jnp.where(jnp.any(residual > tol), count, state.solved),
    moved,
    slopes,
    best,
    residual,
    direction,
    image,
    curvature,
    inside & (exact <= reach),
  )


def _solve(
  unit: jax.Array, start: jax.Array, free: jax.Array, tol: float, max_iter: int
) -> Found:
  """Solves for `z` with unit diagonal."""
  zeros, none = jnp.zeros_like(start), jnp.zeros((), jnp.int32)
  unsolved = jnp.full_like(start[:, :1], jnp.inf)

  def by_pivots(found):
    return _dual_cone_pivots.solve(unit, start, free, tol, max_iter, found)

  if start.shape[1] < _FEW:
    return by_pivots(Found(zeros, unsolved, none))
  slopes = jnp.matmul(start, unit, precision="highest")
  length = 1.9 / _norm_bound(unit)
  inverse = _preconditioner(unit)
  state = _Gradients(
    none,
    none,
    zeros,
    slopes,
    zeros,
    residual_of(start, zeros, slopes, free),
    zeros,
    zeros,
    jnp.zeros_like(unsolved),
    jnp.zeros_like(unsolved, bool),
  )
  limit = _GRADIENTS * start.shape[1]

  def proceed(s):
    # Until all are solved, and a little longer: `solved` stands still then.
    unsolved = jnp.any(s.residual > _AIM * tol)
    return unsolved & (s.count < jnp.minimum(s.solved + _EXTRA, limit))

  state = lax.while_loop(
    proceed,
    lambda s: _advance(unit, inverse, start, free, length, tol, s),
    state,
  )
  found = Found(state.best, state.residual, state.count)
  # A loop of one trip, and not a condition: under `vmap` that would always run.
  _, found = lax.while_loop(
    lambda trip: trip[0],
    lambda trip: (jnp.zeros((), bool), by_pivots(trip[1])),
    (jnp.any(found.residual > tol), found),
  )
  return found


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

  Solved exactly, on the matrix scaled to unit diagonal, all rows of `vectors`
  side by side: for few tasks by Lawson and Hanson's active-set method, from 12
  on by conjugate gradients with proportioning (MPRGP), whose steps are products
  with one matrix that all rows share. Rows that these leave unsolved are then
  solved by the active-set method. Nothing is added to the matrix of the answer,
  and the answer does not depend on the scale of the gradients, nor on that of
  one of them.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix `M = G G^T` of the gradients.
    vectors: `[K, T]`, a real dtype. Each row holds the coefficients `u` of one
      vector to project: `jnp.eye(T)` for UPGrad, one row of preferences for
      DualProj.
    active: `[T]` bool, or None for all. Other tasks take no part: their
      coefficients in `vectors` are ignored, and 0 is returned.
    tol: Largest residual that counts as solved. Default: 16 roundings of the
      solver's dtype (1.9e-6 in float32).
    max_iter: Most pivots in one attempt of the active-set method; there are up
      to five, of which all but the first are rare. Default: `3 T + 10`.

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

    Dostál and Schöberl, Minimizing Quadratic Functions Subject to Bound
    Constraints with the Rate of Convergence and Finite Termination,
    Computational Optimization and Applications 30, 2005.
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
  found = _solve(unit.gram, start / size, free, tol, max_iter)
  answer = lower + found.extra * size / unit.norms[None, :]
  residual = jnp.max(found.residual)
  return unit.poison(answer), unit.certify(residual, found.count, tol)
