"""The shortest vector in the convex hull of the gradients.

Wolfe's method is the fully corrective member of the Frank-Wolfe family, with
every vertex below the supporting hyperplane entering at once. It runs on
`u_i = w_i n_i` (up to a factor), so that every row has length one. With `C` the
cosines and `b_i = n_min / n_i`, the min-norm point over the simplex is, up to
that factor, the minimiser over `u >= 0` of

    f(u) = 1/2 u' (C + b b') u - b' u,

because adding one coordinate `n_min` to every gradient adds a constant to the
objective on the simplex. The diagonal of `C + b b'` is between 1 and 2 whatever
the row scales, and `f` is bounded below even where the hull holds 0.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl.solvers import _capped, _frank_wolfe, _nonneg_qp, _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import Prepared, dot, over

# A variant, ready to run: its first point, a tuple with the fields `u`,
# `residual`, `steps` and `done`; the step from one point to the next; and what
# `u` has to be multiplied by to be weights, up to their sum.
_Method = tuple[Any, Callable[[Any], Any], Array]


class _Variant(NamedTuple):
  """A row of the table of variants.

  Attributes:
    build: Function `(gram, init, tol) -> _Method`.
    tol: Default tolerance, in float32 and in float64.
    most: Function from `T` to the default limit on steps.
  """

  build: Callable[[Prepared, Array | None, Array], _Method]
  tol: tuple[float, float]
  most: Callable[[int], int]


def _hull_problem(gram: Prepared) -> _nonneg_qp.Problem:
  """`f` for the driver, with the duality gap for a certificate."""
  ratio = gram.shortness

  def residual(u: Array, slope: Array) -> Array:
    """From slopes: the relative duality gap as `min_norm` defines it."""
    scale = dot(ratio, u)
    image = slope - ratio * (scale - 1.0)
    gap = ratio * over(dot(u, image), scale) - image
    gap = jnp.max(jnp.where(gram.present, gap, 0.0))
    # Without a point there is no gap yet.
    return jnp.where(scale > 0, over(gap, jnp.sum(u)), jnp.inf)

  return _nonneg_qp.Problem(
    hessian=gram.cosines + ratio[:, None] * ratio[None, :],
    slope=lambda u: dot(gram.cosines, u) + ratio * (dot(ratio, u) - 1.0),
    size=jnp.sum,
    free=gram.present,
    residual=residual,
  )


def _by_supports(gram: Prepared, init: Array | None, tol: Array) -> _Method:
  """Wolfe's method, from the support of `init` or from all vertices."""
  problem = _hull_problem(gram)
  support = gram.present
  if init is not None:
    chosen = support & (init > 0)
    support = jnp.where(jnp.any(chosen), chosen, support)
  step = functools.partial(_nonneg_qp.step, problem, tol)
  return _nonneg_qp.start(problem, support), step, gram.shortness


def _first_order(direction: _frank_wolfe.Direction) -> _Variant:
  """A row of the table for one of the Frank-Wolfe methods."""
  return _Variant(
    build=functools.partial(_frank_wolfe.method, direction),
    # What linear convergence reaches in the steps on well-scaled problems.
    tol=(1e-5, 1e-8),
    most=lambda num_tasks: 1000,
  )


_TABLE = {
  "wolfe": _Variant(
    build=_by_supports,
    # Rounding leaves 1 to 5 roundings in the gap.
    tol=(8.0 * 2.0**-23, 8.0 * 2.0**-52),
    # Typical are 1 to 10 steps, but none of Lawson and Hanson's methods has a
    # better rule than 3 T; and room for the eager steps of few tasks.
    most=lambda num_tasks: 50 + 3 * num_tasks,
  ),
  "pairwise": _first_order(_frank_wolfe.pairwise),
  "away": _first_order(_frank_wolfe.away_step),
  "vanilla": _first_order(_frank_wolfe.vanilla),
}
VARIANTS = tuple(_TABLE)


def min_norm(
  gram: ArrayLike,
  *,
  variant: Literal["wolfe", "pairwise", "away", "vanilla"] = "wolfe",
  cap: ArrayLike | None = None,
  active: ArrayLike | None = None,
  init: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_iter: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  r"""Weights of the shortest vector in the convex hull of the gradients.

  Minimises `||G.T @ w||^2 = w' M w` over the simplex, given `M = G @ G.T`. The
  answer `d = G.T @ w` is zero if and only if no step improves every task to
  first order; otherwise `g_i.d >= ||d||^2` for every `i`.

  The residual, which decides when to stop, is the duality gap, each vertex
  measured in its own length: with `n_i = ||g_i||`,

      residual = max_i (||d||^2 - g_i.d)_+ / (n_i s),    s = sum_j w_j n_j.

  It has no unit, does not care about the scale of any row, and bounds the
  error: `||d||^2 - ||d*||^2 <= 2 residual s s*`, where `*` marks the optimum
  (proof: `||d||^2 - ||d*||^2 <= 2 d.(d - d*)`, and `d*` is the mean of the
  `g_i` under `w*`). For rows of one length it is `gap / n^2`.

  Accuracy. In floating point the residual is known to about two machine
  epsilons `eps`, of which one half is the rounding of `M` to its own dtype; at
  a vertex shorter than `s`, to `s / n_i` times that. So

      ||d||^2 <= ||d*||^2 + (tol + 2 eps) (s^2 + s*^2).

  Where `||d*||` is not much shorter than `s`, the mean length that it is made
  of, the default's relative error is a few `eps`; where gradients all but
  cancel, it takes a Gram matrix in float64 to know more.

  The variants:

  * `"wolfe"`: fully corrective, exact after finitely many steps. Each solves
    the equality constrained problem on a support by one Cholesky factor;
    vertices enter and leave in blocks, so a handful of steps is typical.
    `O(T^3)` a step. T = 2 is in closed form.
  * `"pairwise"`, `"away"`: linear convergence, at a rate that suffers from
    unequal row lengths. `O(T^2)` a step.
  * `"vanilla"`: plain Frank-Wolfe with exact line search. Sublinear.

  With a cap, no weight is above it: 1 leaves the problem as it is, and 1/T
  leaves the mean alone. The residual is that of the smaller polytope, with the
  level `mu` of the entries between 0 and the cap (the largest `g_i.d` at the
  cap, if there are none) in the place of `||d||^2`:

      residual = max(max_(w_i < cap) (mu - g_i.d)_+ / (n_i s),
                     sum_i w_i (g_i.d - mu)_+ / s^2),

  which bounds the error by `||d||^2 - ||d*||^2 <= 2 residual s (s + s*)`
  (proof: `d.(d - d*) = sum_i (w_i - w*_i) (g_i.d - mu)`).

  Args:
    gram: `[T, T]`, real and symmetric. Taken in `solver_dtype()`.
    variant: One of the above.
    cap: The largest weight, from 1/T to 1; for "wolfe". It may be traced, and
      is then clipped at both ends: above 1 it is no cap, and below 1 over the
      number of active vertices these weigh the same, as no lower one can be
      kept. If it is NaN, so are the weights. Default: none.
    active: `[T]` bool. Vertices that are not active get weight exactly 0 and
      take no part, whatever their entries hold. Default: all are.
    init: `[T]`, real or bool: where to start. "wolfe" takes the support
      (positive entries) and its answer does not depend on it beyond rounding;
      the others take the point. Where it is 0 on every usable vertex, the
      default start is used. Not with a cap.
    tol: The residual at which to stop. Default: 8 eps for "wolfe", 1e-5 in
      float32 and 1e-8 in float64 for the others.
    max_iter: How many steps at most. Default: `50 + 3 T` for "wolfe", with a
      cap `100 + 5 T`, and 1000 for the others.

  Returns:
    weights: `[T]`, `solver_dtype()`, on the simplex. Among zero rows, if there
      are any, the weight is spread evenly, and `d = 0`; with a cap, as much of
      it as the cap lets them have. All 0 if no vertex is
      active. NaN on the active vertices if an entry between two of them is
      not finite, or `cap` is NaN.
    certificate: `Certificate` of the residual above.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: An argument has a wrong shape, or is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl import solvers
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weights, certificate = solvers.min_norm(grads @ grads.T)
    >>> [round(w, 4) for w in weights.tolist()], bool(certificate.converged)
    ([0.8, 0.2], True)

  References:
    Wolfe, Finding the Nearest Point in a Polytope, Mathematical Programming
    11, 1976. Lawson & Hanson, Solving Least Squares Problems, 1974, chapter
    23. Portugal, Judice & Vicente, A Comparison of Block Pivoting and Interior
    Point Algorithms for Linear Least Squares Problems with Nonnegative
    Variables, Mathematics of Computation 63, 1994. Lacoste-Julien & Jaggi,
    On the Global Linear Convergence of Frank-Wolfe Optimization Variants,
    NeurIPS 2015. Sener & Koltun, Multi-Task Learning as Multi-Objective
    Optimization, NeurIPS 2018.
  """
  prepared, start = _check(gram, variant, active, init)
  row = _TABLE[variant]
  default = row.tol[prepared.cosines.dtype == jnp.float64]
  tol = _prepare.tolerance(tol, default / prepared.eps)
  num_tasks = len(prepared.lengths)
  if cap is not None:
    check_cap("cap", cap, num_tasks)
    limit = _prepare.iteration_limit(max_iter, 100 + 5 * num_tasks)
    if variant != "wolfe" or init is not None:
      raise ValueError(
        "cap= goes with variant='wolfe' and without init=, got "
        f"variant={variant!r}."
      )
    cap = jnp.asarray(cap).astype(prepared.cosines.dtype)
    return _solve_capped(prepared, cap, tol, limit)
  limit = _prepare.iteration_limit(max_iter, row.most(num_tasks))
  return _solve(prepared, start, tol, limit, variant=variant)


def min_norm_trace(
  gram: ArrayLike,
  *,
  variant: Literal["wolfe", "pairwise", "away", "vanilla"] = "wolfe",
  num_steps: int,
  active: ArrayLike | None = None,
  init: ArrayLike | None = None,
) -> Array:
  """The residual of `min_norm` after each of its first steps, for a plot.

  Args:
    gram: `[T, T]`, real and symmetric.
    variant: As in `min_norm`. T = 2 takes steps here like any other T.
    num_steps: How many, a Python int of at least 1.
    active: `[T]` bool, as in `min_norm`.
    init: `[T]`, as in `min_norm`.

  Returns:
    `[num_steps]`, `solver_dtype()`. Constant once the solver has stalled at
    the level of rounding.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: An argument has a wrong shape, or is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl import solvers
    >>> grads = jnp.array([[3.0, 3.0], [-3.0, 2.0], [2.0, -1.0]])
    >>> gaps = solvers.min_norm_trace(
    ...   grads @ grads.T, variant="pairwise", num_steps=100
    ... )
    >>> gaps.shape, bool(gaps[-1] < 1e-5)
    ((100,), True)
  """
  prepared, start = _check(gram, variant, active, init)
  _checks.check_whole("num_steps", num_steps, 1)
  return _trace(prepared, start, variant=variant, num_steps=num_steps)


def check_cap(name: str, cap: Any, num_tasks: int) -> None:
  """Raises where `num_tasks` weights of a known cap cannot sum to 1."""
  _checks.check_range(name, cap, 0, 1)
  # 49 * (1 / 49) is a rounding below 1, and a cap in float32 some more.
  if _checks.is_python_number(cap) and cap * num_tasks < 1 - 1e-6:
    raise ValueError(
      f"{name} must be at least 1/{num_tasks}, so that {num_tasks} weights can "
      f"sum to 1, got {cap}."
    )


@jax.jit
def _solve_capped(
  gram: Prepared, cap: Array, tol: Array, max_iter: Array
) -> tuple[Array, Certificate]:
  """`min_norm` with a cap on checked arguments."""
  # As an entry that is not finite: the answer is NaN, and nothing runs on it.
  gram = gram._replace(finite=gram.finite & ~jnp.isnan(cap))
  cap = jnp.where(jnp.isnan(cap), 1.0, cap)
  weights, residual, steps, done = _capped.solve(gram, cap, tol, max_iter)
  return gram.poison(weights), gram.certify(
    residual, steps, tol, out_of_iterations=~done
  )


# Compiled as a whole, for calls from outside of jit.
@functools.partial(jax.jit, static_argnames="variant")
def _solve(
  gram: Prepared,
  init: Array | None,
  tol: Array,
  max_iter: Array,
  *,
  variant: str,
) -> tuple[Array, Certificate]:
  """`min_norm` on checked arguments."""
  settled = _settled(gram)
  if len(gram.lengths) == 2 and variant == "wolfe":
    # To a sum of 1: nearly parallel rows leave little of it, and the slopes
    # that the residual is made of have terms of size 1 beside it.
    values = _two_rows(gram)
    values = over(values, jnp.sum(values))
    problem = _hull_problem(gram)
    point = values * gram.relative_lengths
    residual = problem.residual(point, problem.slope(point))
    steps, done = 0, True
  else:
    first, step, scale = _TABLE[variant].build(gram, init, tol)
    at = lax.while_loop(
      lambda at: ~at.done & (at.steps < max_iter),
      step,
      first._replace(done=first.done | settled),
    )
    values, residual, steps, done = at.u * scale, at.residual, at.steps, at.done
  # Among zero rows the weight is spread evenly, and `d = 0`.
  zero = (gram.active & ~gram.present).astype(values.dtype)
  values = jnp.where(
    jnp.any(zero > 0), zero, jnp.where(gram.present, values, 0)
  )
  return gram.poison(over(values, jnp.sum(values))), gram.certify(
    jnp.where(settled, 0.0, residual),
    steps,
    tol,
    out_of_iterations=jnp.logical_not(done),
  )


@functools.partial(jax.jit, static_argnames=("variant", "num_steps"))
def _trace(
  gram: Prepared, init: Array | None, *, variant: str, num_steps: int
) -> Array:
  """`min_norm_trace` on checked arguments."""
  settled = _settled(gram)
  tol = jnp.asarray(gram.eps, gram.cosines.dtype)
  first, step, _ = _TABLE[variant].build(gram, init, tol)

  def advance(at: Any, _: None) -> tuple[Any, Array]:
    new = step(at)
    at = jax.tree.map(lambda old, new: jnp.where(at.done, old, new), at, new)
    return at, at.residual

  first = first._replace(done=first.done | settled)
  _, gaps = lax.scan(advance, first, length=num_steps)
  gaps = jnp.where(settled, 0.0, gaps)
  return jnp.where(gram.finite, gaps, jnp.nan)


def _check(
  gram: ArrayLike,
  variant: str,
  active: ArrayLike | None,
  init: ArrayLike | None,
) -> tuple[Prepared, Array | None]:
  """The arguments that both functions have, checked."""
  _checks.check_choice("variant", variant, VARIANTS)
  prepared = _prepare.prepare(gram, active)
  if init is None:
    return prepared, None
  return prepared, _checks.task_vector(init, len(prepared.lengths), "init")


def _settled(gram: Prepared) -> Array:
  """Whether the answer needs no solving: a zero row, nothing active, NaN."""
  return jnp.any(gram.active & ~gram.present) | ~jnp.any(gram.active)


def _two_rows(gram: Prepared) -> Array:
  """The closed form for T = 2, up to its sum; uniform if both rows coincide."""
  size = gram.relative_lengths
  other = size[::-1]
  values = jnp.maximum(other * (other - gram.cosines[0, 1] * size), 0.0)
  usable = jnp.all(gram.present) & jnp.any(values > 0)
  return jnp.where(usable, values, gram.ones)
