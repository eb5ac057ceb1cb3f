"""The direction nearest to a given one that improves every task by so much.

On the unit gradients, with `C` their cosines and `s` the coefficients of the
given direction, what is added to it is `x >= 0` that solves

    minimise  1/2 x' C x   subject to   C x >= h,    h = gains - C s,

the least-distance problem. It is unbounded in its dual where no direction has
the gains, so that another one is solved, which always has a solution (Lawson &
Hanson 1974, chapter 23): with `H = C + h h'`,

    minimise  1/2 u' H u - h' u   over   u >= 0,

and then `x = u / rest` with `rest = 1 - h'u`. No direction has the gains if and
only if the rest is zero, and `u` proves it: `G' u = 0` then and `h'u > 0`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl.solvers import _nonneg_qp, _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import Prepared, dot, over


class Added(NamedTuple):
  """What is added to a direction, on the unit gradients.

  Attributes:
    x: `[T]`, not negative; 0 where no direction has the gains.
    support: `[T]` bool, where it is positive, or would be.
    residual: Scalar, the certificate.
    feasible: Scalar bool, whether some direction has the gains.
    steps: Scalar int32.
    done: Scalar bool, whether the limit was not reached.
  """

  x: Array
  support: Array
  residual: Array
  feasible: Array
  steps: Array
  done: Array


def add_least(
  gram: Prepared,
  missing: Array,
  free: Array,
  tol: Array,
  max_iter: Array,
) -> Added:
  """The shortest vector with products of at least `missing` with the units.

  Args:
    gram: The prepared Gram matrix.
    missing: `[T]`, `h`, at most 1 in size, so that the diagonal of `H` is at
      most 2.
    free: `[T]` bool, whose products matter.
    tol: Scalar, the residual at which to stop.
    max_iter: Scalar int32, most steps.

  Returns:
    What is to be added. The residual is relative to `1 + Σ x`.
  """
  wanted = jnp.where(free, missing, 0.0)

  def rest_of(u: Array) -> Array:
    return 1.0 - dot(wanted, u)

  def size(u: Array) -> Array:
    # Over the rest these are the terms of a product of what is added.
    return jnp.sum(u) + jnp.maximum(rest_of(u), 0.0)

  def slope(u: Array) -> Array:
    return dot(gram.cosines, u) - rest_of(u) * wanted

  at = _nonneg_qp.solve(
    _nonneg_qp.Problem(
      hessian=gram.cosines + wanted[:, None] * wanted[None, :],
      slope=slope,
      size=size,
      free=free,
      residual=lambda u, slope: _nonneg_qp.kkt_residual(
        u, slope, size(u), free
      ),
    ),
    # What is missing, and no better guess: of a support with other entries all
    # may leave, and from 0 on nothing the driver knows no other way.
    wanted > 0,
    tol,
    max_iter,
  )
  total = jnp.sum(at.u)
  # The rest is the squared length of `(G'u, rest)`, to the rounding of the
  # Gram matrix's entries times the terms of the square.
  feasible = rest_of(at.u) > tol * total * (1.0 + total)
  x = jnp.where(feasible, over(at.u, rest_of(at.u)), 0.0)
  residual = _nonneg_qp.kkt_residual(
    x, dot(gram.cosines, x) - wanted, 1.0 + jnp.sum(x), free
  )
  return Added(
    x=x,
    support=at.u > 0,
    residual=residual,
    feasible=feasible,
    steps=at.steps,
    done=at.done,
  )


def nearest_with_gains(
  gram: ArrayLike,
  vector: ArrayLike,
  gains: ArrayLike,
  *,
  constrained: ArrayLike | None = None,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """The direction nearest to a combination that has wanted products.

  The `d` nearest to `Gᵀ u` with `g_j · d >= t_j` for every constrained task is
  `Gᵀ v` with `v >= u`, and `v = u` for the other tasks. With `t = 0`, and all
  tasks constrained, that is `project_dual_cone`; Priority-Constrained Descent
  asks for a share of each task's own descent.

  Solved exactly, as a least-distance problem, by the active-set method of the
  other solvers on the matrix scaled to unit diagonal.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    vector: `[T]`, a real dtype, the coefficients `u`.
    gains: `[T]`, a real dtype, the products `t` that are wanted.
    constrained: `[T]` bool, whose products are asked for. Default: all.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero, whatever is wanted of it: their coefficient in
      the answer is that in `vector`, or 0 if they are not active.
    tol: Largest residual that counts as solved. Default: 16 roundings of the
      solver's dtype (1.9e-6 in float32).
    max_iter: Most steps. Default: `50 + 5 T`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the coefficients `v`. Where no direction has the
      wanted products, since a combination of the constrained gradients vanishes
      to rounding, all constraints are dropped: `v = u`, and the status is
      `STATIONARY`. NaN for the active tasks if `gram` has an entry between
      active tasks that is not finite.
    - A `Certificate`. With everything at unit diagonal, `residual` is the
      largest `|g_j · d - t_j|` where `v_j > u_j`, and `t_j - g_j · d` among the
      other constrained tasks, relative to the size of the terms,
      `max_j |t_j| + Σ_j (|u_j| + v_j - u_j)`. `iterations` are steps of the
      active-set method, each of them one linear system.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl import solvers
    >>> gradients = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> weights, _ = solvers.nearest_with_gains(
    ...   gradients @ gradients.T, jnp.array([1.0, 0.0]), jnp.array([0.0, 0.5])
    ... )
    >>> print((weights @ gradients).round(4))
    [0.25 0.75]

  References:
    Lawson & Hanson, Solving Least Squares Problems, 1974, chapter 23.

    Varam & AlHajri, `Priority-Constrained Descent
    <https://arxiv.org/abs/2606.29521>`_, 2026.
  """
  prepared = _prepare.prepare(gram, active)
  num_tasks, dtype = len(prepared.lengths), prepared.cosines.dtype
  given = _checks.task_vector(vector, num_tasks, "vector")
  wanted = _checks.task_vector(gains, num_tasks, "gains")
  if constrained is None:
    asked = jnp.ones(num_tasks, bool)
  else:
    asked = _checks.task_mask(constrained, num_tasks, "constrained")
  tol = _prepare.tolerance(tol, 16.0)
  limit = _prepare.iteration_limit(max_iter, 50 + 5 * num_tasks)
  free = prepared.present & asked
  given = jnp.where(prepared.active, given, 0.0).astype(dtype)
  return _solve(prepared, given, wanted.astype(dtype), free, tol, limit)


# Compiled as a whole, for calls from outside of jit.
@jax.jit
def _solve(
  prepared: Prepared,
  given: Array,
  wanted: Array,
  free: Array,
  tol: Array,
  limit: Array,
) -> tuple[Array, Certificate]:
  """`nearest_with_gains` on checked arguments."""
  start = jnp.where(prepared.present, given, 0.0) * prepared.lengths
  wanted = jnp.where(free, wanted / prepared.lengths, 0.0)
  # The terms of a product with a unit gradient.
  scale = jnp.sum(jnp.abs(start)) + jnp.max(jnp.abs(wanted))
  missing = over(wanted - dot(prepared.cosines, start), scale)
  missing = jnp.where(prepared.finite, missing, 0.0)
  added = add_least(prepared, missing, free, tol, limit)
  return (
    prepared.poison(given + added.x * scale / prepared.lengths),
    prepared.certify(
      added.residual,
      added.steps,
      tol,
      out_of_iterations=~added.done,
      stationary=~added.feasible,
    ),
  )
