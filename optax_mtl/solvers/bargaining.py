"""Bargaining solutions: Nash-MTL, and FairGrad's family around it.

Both are `M w = w ** (-1 / alpha)` with `w > 0`, Nash at `alpha = 1`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import _certificate, _unit_gram

# The equations hold to rounding where their errors are a few roundings of the
# terms that they are sums of. From the first of these multiples on, the
# iteration ends as soon as an error stops halving; at the second at once.
_NEAR = 16.0
_AT = 0.5
# Largest step towards zero, in the logarithm: keeps float32 from underflowing.
_SHRINK = 20.0


class _Iterate(NamedTuple):
  """Primal-dual iterate; `primal` and `dual` are positive."""

  count: jax.Array  # scalar int32
  primal: jax.Array  # [T], x
  dual: jax.Array  # [T], tends to M x
  goal: jax.Array  # [T], what M x has to be, given x
  error: jax.Array  # [T], M x / goal - 1
  level: jax.Array  # scalar, the largest error in roundings of its own terms
  going: jax.Array  # scalar bool


def _move(point: jax.Array, relative: jax.Array) -> jax.Array:
  """`point (1 + relative)` upwards, its exponential analogue downwards."""
  down = jnp.exp(jnp.clip(relative, -_SHRINK, 0.0))
  return point * jnp.where(relative < 0, down, 1.0 + relative)


def _balance(
  unit: jax.Array,
  log_target: jax.Array,
  inverse_alpha: jax.Array | float,
  max_iter: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Solves `M x = target * x ** (-1 / alpha)` for `x > 0` with unit diagonal.

  Newton's method on `M x = y` and `log x / alpha + log y = log target`, with
  `x` and `y` kept positive. Its linear system is `M + diag(y / (alpha x))`.
  Taking `y` for an unknown of its own is what makes it converge in a handful of
  steps where gradients conflict: Newton on `x` alone, damped, takes tens of
  them as long as some `(M x)_i` is negative. Moving down exponentially needs no
  line search, and lets `x` fall by orders of magnitude in a step, as a large
  `alpha` wants.

  Args:
    unit: `[T, T]`. Gram matrix with unit diagonal.
    log_target: `[T]`. Logarithm of the right-hand side's factor.
    inverse_alpha: Scalar.
    max_iter: Most Newton steps.

  Returns:
    `x` [T], the equations' relative errors [T], and the number of steps.
  """
  dtype = unit.dtype
  eps = float(jnp.finfo(dtype).eps)
  magnitudes = jnp.abs(unit)

  def measure(count, primal, dual):
    goal = jnp.exp(log_target - inverse_alpha * jnp.log(primal))
    error = jnp.matmul(unit, primal, precision="highest") / goal - 1.0
    size = jnp.matmul(magnitudes, primal, precision="highest") / goal
    level = jnp.max(jnp.abs(error) / (eps * (1.0 + size)))
    return _Iterate(count, primal, dual, goal, error, level, level > _AT)

  def newton(state: _Iterate) -> _Iterate:
    x, y = state.primal, state.dual
    gap = (state.error + 1.0) * state.goal - y
    log_gap = jnp.log(state.goal) - jnp.log(y)
    system = unit + jnp.diag(inverse_alpha * y / x)
    dx = jnp.linalg.solve(system, (y * log_gap - gap)[:, None])[:, 0] / x
    dy = log_gap - inverse_alpha * dx
    after = measure(state.count + 1, _move(x, dx), _move(y, dy))
    stalled = (state.level <= _NEAR) & (after.level > 0.5 * state.level)
    # A singular system, or an overflow on the way to infinity: stay.
    usable = jnp.all(jnp.isfinite(after.error) & jnp.isfinite(after.dual))
    usable &= jnp.all((after.primal > 0) & (after.dual > 0))
    take = usable & ~(stalled & (after.level > state.level))
    going = after.going & usable & ~stalled
    chosen = jax.tree.map(
      lambda new, old: jnp.where(take, new, old), after, state
    )
    return chosen._replace(count=after.count, going=going)

  # Where the gradients are orthogonal, or all equal, this is the solution.
  positive = jnp.sum(jnp.maximum(unit, 0.0), axis=1)
  start = jnp.exp((log_target - jnp.log(positive)) / (1.0 + inverse_alpha))
  start_dual = jnp.exp(log_target - inverse_alpha * jnp.log(start))
  final = lax.while_loop(
    lambda s: s.going & (s.count < max_iter),
    newton,
    measure(jnp.zeros((), jnp.int32), start, start_dual),
  )
  return final.primal, final.error, final.count


def _finish(unit, weights, error, count, tol):
  weights = unit.poison(jnp.where(unit.present, weights, 0.0))
  residual = jnp.max(jnp.where(unit.present, jnp.abs(error), 0.0))
  return weights, unit.certify(residual, count, tol)


def nash_bargaining(
  gram: jax.Array,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
  max_iter: int | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Weights of the Nash bargaining solution.

  The positive weights with :math:`w_i (M w)_i = 1` for every task `i`: every
  task gains the same from the step, relative to its own gradient. They are
  unique where they exist, and the combined gradient has norm
  :math:`\sqrt{T}`, with `T` the number of tasks that take part, whatever the
  gradients are.

  They do not exist at a Pareto stationary point, where some positive
  combination of the gradients is zero, such as two opposite gradients: the
  weights then grow without bound along that combination. They are returned
  where rounding no longer tells :math:`M w` from zero, at about
  :math:`w_i \|g_i\| = (16\,\epsilon)^{-1/2}`, that is 700 in float32. They are
  finite, the combined gradient is small, and `converged` is False.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 800 roundings of the
      solver's dtype (9.5e-5 in float32). The iteration goes on to rounding
      level all the same.
    max_iter: Most Newton steps. Default: 50; 3 to 15 are usual, for any `T`.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is :math:`\max_i |w_i (M w)_i - 1|`. It cannot
      be smaller than the rounding of the sum, :math:`\epsilon w_i \sum_j
      |M_{ij}| w_j`, which is large where gradients nearly cancel.

  Raises:
    ValueError: If a shape does not fit, or a limit is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import bargaining
    >>> gradients = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> weights, _ = bargaining.nash_bargaining(gradients @ gradients.T)
    >>> print(weights @ gradients)
    [1. 1.]

  References:
    Navon et al., `Multi-Task Learning as a Bargaining Game
    <https://arxiv.org/abs/2202.01017>`_, ICML 2022.
  """
  unit = _unit_gram.unit_gram(gram, active)
  tol = _unit_gram.tolerance(tol, 800.0)
  max_iter = _unit_gram.iteration_limit(max_iter, 50)
  x, error, count = _balance(
    unit.gram, jnp.zeros_like(unit.norms), 1.0, max_iter
  )
  return _finish(unit, x / unit.norms, error, count, tol)


def fairness(
  gram: jax.Array,
  alpha: jax.Array | float,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
  max_iter: int | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Weights of the alpha-fair solution.

  The positive weights with :math:`M w = w^{-1/\alpha}`, elementwise.
  `alpha = 1` is `nash_bargaining`; towards 0 the sum of the gains counts, for
  large `alpha` the smallest gain. They scale with the gradients: multiplying
  these by `c` multiplies the weights by :math:`c^{-2\alpha/(1+\alpha)}`.

  They do not exist at a Pareto stationary point; see `nash_bargaining` for what
  is returned there.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    alpha: Positive scalar, may be traced.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 800 roundings of the
      solver's dtype (9.5e-5 in float32). The iteration goes on to rounding
      level all the same.
    max_iter: Most Newton steps. Default: 50.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is
      :math:`\max_i |w_i^{1/\alpha} (M w)_i - 1|`.

  Raises:
    ValueError: If a shape does not fit, or `alpha` or a limit is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import bargaining
    >>> weights, _ = bargaining.fairness(jnp.diag(jnp.array([1.0, 8.0])), 2.0)
    >>> print(weights)
    [1.   0.25]

  References:
    Ban and Ji, `Fair Resource Allocation in Multi-Task Learning
    <https://arxiv.org/abs/2402.15638>`_, ICML 2024.
  """
  if isinstance(alpha, (int, float)) and not 0 < alpha < float("inf"):
    raise ValueError(f"alpha must be positive and finite; got {alpha}.")
  unit = _unit_gram.unit_gram(gram, active)
  dtype = unit.gram.dtype
  tol = _unit_gram.tolerance(tol, 800.0)
  max_iter = _unit_gram.iteration_limit(max_iter, 50)
  alpha = jnp.asarray(alpha).astype(dtype)
  inverse = 1.0 / alpha
  # With x = n w the right-hand side is n ** (1 / alpha - 1) x ** (-1 / alpha).
  # Its logarithm may be large, so that its overall level is taken off: the
  # equation is homogeneous.
  log_norms = jnp.log(unit.norms)
  count = jnp.maximum(jnp.sum(unit.present.astype(dtype)), 1.0)
  level = jnp.sum(log_norms) / count
  centred = jnp.where(unit.present, log_norms - level, 0.0)
  x, error, steps = _balance(
    unit.gram, (inverse - 1.0) * centred, inverse, max_iter
  )
  # w = x / n times exp(level (1 / alpha - 1) alpha / (1 + alpha)), in one
  # exponential so that no factor of it overflows.
  power = -centred - level * (2.0 * alpha / (1.0 + alpha))
  weights = jnp.exp(power + jnp.log(x))
  return _finish(unit, weights, error, steps, tol)
