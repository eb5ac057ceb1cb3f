"""Projection on the dual cone of the task gradients, exactly.

UPGrad projects every task's gradient, GEM ("DualProj") one weighted mean.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from optax_mtl.solvers import _gradient_blocks, _nonneg_qp, _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import dot

# From so many tasks on, conjugate gradients come first if there is more than
# one row: there they are faster than a factor for each row, 3 times at T = 40
# and 12 times at T = 128.
_FEW = 12


def project_dual_cone(
  gram: ArrayLike,
  vectors: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Projects combinations of the task gradients on their dual cone.

  The dual cone of the rows of `G` is the set of directions that hurt no task,
  all `d` with `G d >= 0`. The projection of `Gᵀ u` on it is `Gᵀ v`, where `v`
  minimises `vᵀ M v` subject to `v >= u`.

  Solved exactly, on the matrix scaled to unit diagonal, all rows of `vectors`
  side by side, by an active-set method whose steps change the support in
  blocks. With more than one row and 12 tasks or more, conjugate gradients with
  proportioning (MPRGP) come first, whose steps are products with one matrix
  that all rows share, and the active-set method solves the rows that these
  leave. Nothing is added to the matrix of the answer, and the answer does not
  depend on the scale of the gradients, nor on that of one of them.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix `M = G Gᵀ` of the gradients.
    vectors: `[K, T]`, a real dtype. Each row holds the coefficients `u` of one
      vector to project: `jnp.eye(T)` for UPGrad, one row of preferences for
      DualProj.
    active: `[T]` bool, or None for all. Other tasks take no part: their
      coefficients in `vectors` are ignored, and 0 is returned.
    tol: Largest residual that counts as solved. Default: 16 roundings of the
      solver's dtype (1.9e-6 in float32).
    max_iter: Most steps of each of the two methods. Default: `50 + 5 T`.

  Returns:
    A pair of

    - `[K, T]`, `solver_dtype()`: the coefficients `v`. `v >= u` holds exactly,
      and `v = u` for a task whose gradient is zero. NaN in the active columns
      if `gram` has an entry between active tasks that is not finite.
    - A `Certificate`. With `y = M v` and everything at unit diagonal,
      `residual` is the largest `|y_i|` where `v_i > u_i` and `-y_i` elsewhere,
      relative to `Σ_j (|u_j| + v_j - u_j)`, over all rows: the relative change
      of the entries of the Gram matrix that would make the answer exact, where
      `u` has no negative entries and that is `Σ_j |v_j|`; of what is added to a
      negative one, the rounding is the last word. `iterations` are the
      steps of the active-set method, each of them one linear system, of the row
      that took most of them; with `K > 1` rows and 12 tasks or more, the steps
      of conjugate gradients on all rows are added, and mostly are all.

  The norm of the projection inherits the rounding of the Gram matrix: with unit
  diagonal and no negative `u`, `‖d‖²` is off by at most
  `2 (ρ + c ε) ‖v‖₁ (‖v‖₁ + ‖v*‖₁)`, with `ρ` the residual and `c` a small
  number. Where gradients nearly cancel, `‖v‖₁` is
  much larger than `‖d‖`, and no solver that is given a float32 Gram matrix does
  better.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

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
  prepared = _prepare.prepare(gram, active)
  dtype, num_tasks = prepared.cosines.dtype, len(prepared.lengths)
  vectors = jnp.asarray(vectors)
  if vectors.ndim != 2 or vectors.shape[1] != num_tasks:
    raise ValueError(
      f"vectors must have shape [K, {num_tasks}], one row of coefficients for "
      f"each vector to project, got {list(vectors.shape)}."
    )
  tol = _prepare.tolerance(tol, 16.0)
  limit = _prepare.iteration_limit(max_iter, 50 + 5 * num_tasks)
  # Rows of one size, on the unit gradients.
  lower = jnp.where(prepared.active[None, :], vectors.astype(dtype), 0.0)
  lengths = prepared.lengths[None, :]
  start = prepared.ones[None, :] * lengths * lower
  size = jnp.max(jnp.abs(start), axis=1, keepdims=True)
  size = jnp.where(size > 0, size, 1.0)
  start = start / size
  free = jnp.broadcast_to(prepared.present[None, :], start.shape)
  extra, steps = jnp.zeros_like(start), jnp.zeros((), jnp.int32)
  residual = jnp.full_like(start[:, 0], jnp.inf)
  if len(start) > 1 and num_tasks >= _FEW:
    block = _gradient_blocks.solve(prepared.cosines, start, free, tol, limit)
    extra, residual, steps = block.best, block.residual, block.steps
  # Rows that are not solved yet; the driver takes no step for the others.
  left = residual > tol
  solve = functools.partial(_one_row, prepared.cosines, tol, limit)
  at = jax.vmap(solve)(start, free & left[:, None])
  better = left & (at.residual < residual)
  extra = jnp.where(better[:, None], at.u, extra)
  residual = jnp.max(jnp.where(better, at.residual, residual))
  return (
    prepared.poison(lower + extra * size / lengths),
    prepared.certify(
      residual,
      steps + jnp.max(at.steps),
      tol,
      out_of_iterations=jnp.any(~at.done),
    ),
  )


def _one_row(
  cosines: Array, tol: Array, max_iter: Array, start: Array, free: Array
) -> _nonneg_qp.Point:
  """What is added to `start` `[T]`, by the driver."""
  problem = _nonneg_qp.Problem(
    hessian=cosines,
    slope=lambda z: dot(cosines, start + z),
    size=lambda z: _gradient_blocks.size_of(start, z),
    free=free,
    residual=lambda z, slope: _gradient_blocks.residual_of(
      start, z, slope, free
    ),
  )
  # First on what the vector itself hurts.
  hurt = problem.slope(jnp.zeros_like(start)) < 0
  return _nonneg_qp.solve(problem, hurt, tol, max_iter)
