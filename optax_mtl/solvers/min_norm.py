"""The shortest vector in the convex hull of the gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl import _checks, _dtypes
from optax_mtl.solvers import _certificate, _frank_wolfe, _scaling, _wolfe

VARIANTS = ("wolfe", "pairwise", "away", "vanilla")


def min_norm(
  gram: jax.Array,
  *,
  variant: str = "wolfe",
  active: jax.Array | None = None,
  init: jax.Array | None = None,
  tol: float | jax.Array | None = None,
  max_iter: int | jax.Array | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
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
  epsilons `eps`, of which one half is the rounding of `M` to its own dtype. So

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

  Args:
    gram: `[T, T]`, real and symmetric. Taken in `solver_dtype()`.
    variant: One of the above.
    active: `[T]` bool. Vertices that are not active get weight exactly 0 and
      take no part, whatever their entries hold. Default: all are.
    init: `[T]`, real or bool: where to start. "wolfe" takes the support
      (positive entries) and its answer does not depend on it beyond rounding;
      the others take the point. Where it is 0 on every usable vertex, the
      default start is used.
    tol: The residual at which to stop. Default: 8 eps for "wolfe", 1e-5 in
      float32 and 1e-8 in float64 for the others.
    max_iter: How many steps at most. Default: `50 + 3 T` for "wolfe", 1000
      for the others.

  Returns:
    weights: `[T]`, `solver_dtype()`, on the simplex. Among zero rows, if there
      are any, the weight is spread evenly, and `d = 0`. All 0 if no vertex is
      active. NaN on the active vertices if an entry between two of them is
      not finite.
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
  gram, active, init = _check(gram, variant, active, init)
  _checks.check_range("tol", tol, 0.0, open_low=True)
  _checks.check_range("max_iter", max_iter, 1)
  if tol is None:
    tol = _default_tol(variant, gram.dtype)
  if max_iter is None:
    max_iter = 50 + 3 * gram.shape[0] if variant == "wolfe" else 1000
  tol = jnp.asarray(tol, gram.dtype)
  max_iter = jnp.asarray(max_iter, jnp.int32)
  return _solve(gram, active, init, tol, max_iter, variant=variant)


def min_norm_trace(
  gram: jax.Array,
  *,
  variant: str = "wolfe",
  num_steps: int,
  active: jax.Array | None = None,
  init: jax.Array | None = None,
) -> jax.Array:
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
  gram, active, init = _check(gram, variant, active, init)
  _checks.check_range("num_steps", num_steps, 1)
  return _trace(gram, active, init, variant=variant, num_steps=num_steps)


# Compiled as a whole, for calls from outside of jit.
@functools.partial(jax.jit, static_argnames="variant")
def _solve(
  gram: jax.Array,
  active: jax.Array,
  init: jax.Array | None,
  tol: jax.Array,
  max_iter: jax.Array,
  *,
  variant: str,
) -> tuple[jax.Array, _certificate.Certificate]:
  """`min_norm` on checked arguments."""
  num_tasks, dtype = gram.shape[0], gram.dtype
  scaled = _scaling.scale_gram(gram, active)
  settled = _settled(scaled)
  if num_tasks == 1:
    values = scaled.usable.astype(dtype)
    residual, iterations = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
  elif num_tasks == 2 and variant == "wolfe":
    values = _wolfe.two_vertices(scaled)
    problem = _wolfe.make_problem(scaled)
    point = values * scaled.lengths / jnp.max(scaled.lengths)
    image = _scaling.dot(problem.cosines, point)
    residual = _wolfe.residual_of(problem, point, image)
    iterations = jnp.zeros((), jnp.int32)
  else:
    problem, state, step = _build(scaled, variant, init, tol)

    def proceed(state):
      going = (state.residual > tol) & (state.iterations < max_iter)
      return going & ~state.stalled

    state = state._replace(stalled=settled)
    state = lax.while_loop(proceed, step, state)
    values, residual = _values(problem, state), state.residual
    iterations = state.iterations
  weights = _finish(scaled, values)
  residual = jnp.where(settled, 0.0, residual)
  residual = jnp.where(scaled.finite, residual, jnp.nan)
  return weights, _certificate.Certificate(
    residual, iterations, residual <= tol
  )


@functools.partial(jax.jit, static_argnames=("variant", "num_steps"))
def _trace(
  gram: jax.Array,
  active: jax.Array,
  init: jax.Array | None,
  *,
  variant: str,
  num_steps: int,
) -> jax.Array:
  """`min_norm_trace` on checked arguments."""
  scaled = _scaling.scale_gram(gram, active)
  settled = _settled(scaled)
  tol = jnp.asarray(jnp.finfo(gram.dtype).eps, gram.dtype)
  _, state, step = _build(scaled, variant, init, tol)

  def advance(state, _):
    new = step(state)
    held = state.stalled | (state.residual <= tol)
    state = jax.tree.map(lambda a, b: jnp.where(held, a, b), state, new)
    return state, state.residual

  state = state._replace(stalled=settled)
  _, gaps = lax.scan(advance, state, length=num_steps)
  gaps = jnp.where(settled, 0.0, gaps)
  return jnp.where(scaled.finite, gaps, jnp.nan)


def _check(
  gram: Any, variant: Any, active: Any, init: Any
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """The array arguments in their working dtypes, or an error."""
  _checks.check_choice("variant", variant, VARIANTS)
  gram = jnp.asarray(gram)
  if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.shape[0]:
    raise ValueError(
      f"gram must have shape [T, T] with T >= 1, got {list(gram.shape)}. "
      "Pass G @ G.T; for a batch of matrices use jax.vmap."
    )
  if jnp.iscomplexobj(gram) or gram.dtype == jnp.bool_:
    raise TypeError(
      f"gram must be real, got {gram.dtype}. For complex gradients pass the "
      "real part of their inner products."
    )
  num_tasks = gram.shape[0]
  if active is None:
    active = jnp.ones(num_tasks, bool)
  else:
    active = _checks.task_mask(active, num_tasks, "active")
  if init is not None:
    init = _checks.task_vector(init, num_tasks, "init")
  return gram.astype(_dtypes.solver_dtype()), active, init


def _default_tol(variant: str, dtype: jnp.dtype) -> float:
  """What a variant can reach: rounding, or what linear convergence pays for."""
  if variant == "wolfe":
    return 8.0 * float(jnp.finfo(dtype).eps)
  return 1e-5 if dtype == jnp.float32 else 1e-8


def _settled(scaled: _scaling.ScaledGram) -> jax.Array:
  """Whether the answer needs no solving."""
  trivial = jnp.any(scaled.zero) | ~jnp.any(scaled.usable)
  return trivial | ~scaled.finite


def _build(
  scaled: _scaling.ScaledGram,
  variant: str,
  init: jax.Array | None,
  tol: jax.Array,
) -> tuple[Any, Any, Any]:
  """A variant's problem, its first state, and the step from state to state."""
  if variant == "wolfe":
    problem = _wolfe.make_problem(scaled)
    return (
      problem,
      _wolfe.init(problem, init),
      lambda state: _wolfe.step(problem, state, tol),
    )
  problem = _frank_wolfe.make_problem(scaled)
  return (
    problem,
    _frank_wolfe.init(problem, init),
    lambda state: _frank_wolfe.step(problem, state, variant),
  )


def _values(problem: Any, state: Any) -> jax.Array:
  """The state's weights, up to their sum."""
  if isinstance(state, _wolfe.WolfeState):
    return _wolfe.weights(problem, state)
  return state.point


def _finish(scaled: _scaling.ScaledGram, values: jax.Array) -> jax.Array:
  """Weights on the simplex; the cases that need no solving; NaN for NaN."""
  values = jnp.where(scaled.usable, values, 0.0)
  values = jnp.where(
    jnp.any(scaled.zero), scaled.zero.astype(values.dtype), values
  )
  total = jnp.sum(values)
  weights = values / jnp.where(total > 0, total, 1.0)
  active = scaled.usable | scaled.zero
  return jnp.where(active & ~scaled.finite, jnp.nan, weights)
