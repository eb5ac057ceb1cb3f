"""FORUM's multipliers: several objectives, and one constraint that is not met.

Of the gradients `F_i` of the objectives and `q` of the constraint, the
direction `d` that a step goes against is the solution of

    minimise  max_i -F_i.d + 1/2 d.d   subject to   q.d >= ρ q.q .

Its dual is over the simplex: `d = Σ λ_i F_i + ν q`, `ν` the least number that
satisfies the constraint, and not negative, with `λ` the minimiser of

    h(λ) = 1/2 (‖Σ λ_i F_i‖² - ν² q.q),   ν = max(ρ - q.(Σ λ_i F_i) / q.q, 0).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl.solvers import project_simplex

# The duality gap, relative to the size of the slopes, at which to stop: this
# power of a rounding, 6e-6 in float32. λ is averaged over steps, each of which
# has the noise of its batch.
_TOLERANCE_POWER = 0.75
# Most steps. Of random gradients of 2 to 64 tasks, 1 to 150 are usual; with
# more tasks than dimensions, where many combinations are as good, up to 958.
_MOST = 1000


class _Search(NamedTuple):
  """A point of the accelerated gradient method.

  Attributes:
    shares: Array [T], on the simplex.
    ahead: Array [T], where the next slope is taken.
    momentum: Scalar, `t` of FISTA.
    gap: Scalar, the relative duality gap of the shares.
    steps: Scalar int32.
  """

  shares: jax.Array
  ahead: jax.Array
  momentum: jax.Array
  gap: jax.Array
  steps: jax.Array


def multipliers(
  cosines: jax.Array, products: jax.Array, pressure: jax.Array
) -> jax.Array:
  """The minimiser of `h` over the simplex.

  By projected gradients with Nesterov's momentum, which starts anew where it
  points uphill, until the duality gap is small.

  Args:
    cosines: Array [T, T], inner products of the objectives' gradients, of
      length 1 or 0.
    products: Array [T], theirs with the constraint's gradient at length 1.
    pressure: Scalar, `ρ` times the length of the constraint's gradient.

  Returns:
    Array [T]; NaN where an argument is not finite.
  """
  num_tasks = products.shape[0]
  # At least the largest eigenvalue of the cosines, and of what is left of them
  # where the constraint binds.
  bound = jnp.max(jnp.sum(jnp.abs(cosines), axis=1))
  rate = 1 / jnp.where(bound > 0, bound, 1.0)

  def slope_at(shares: jax.Array) -> jax.Array:
    lacking = jnp.maximum(pressure - products @ shares, 0.0)
    image = jnp.matmul(cosines, shares, precision="highest")
    return image + lacking * products

  def gap_of(shares: jax.Array, slope: jax.Array) -> jax.Array:
    gap = jnp.sum(shares * slope) - jnp.min(slope)
    return gap / (1 + pressure)

  def step(at: _Search) -> _Search:
    shares = project_simplex(at.ahead - rate * slope_at(at.ahead))
    moved = shares - at.shares
    uphill = jnp.sum((at.ahead - shares) * moved) > 0
    momentum = jnp.where(uphill, 1.0, at.momentum)
    following = (1 + jnp.sqrt(1 + 4 * momentum * momentum)) / 2
    ahead = shares + (momentum - 1) / following * moved
    return _Search(
      shares=shares,
      ahead=ahead,
      momentum=following,
      gap=gap_of(shares, slope_at(shares)),
      steps=at.steps + 1,
    )

  tol = jnp.finfo(products.dtype).eps ** _TOLERANCE_POWER
  first = jnp.full((num_tasks,), 1 / num_tasks, products.dtype)
  found = jax.lax.while_loop(
    lambda at: (at.gap > tol) & (at.steps < _MOST),
    step,
    _Search(
      shares=first,
      ahead=first,
      momentum=jnp.ones((), products.dtype),
      gap=gap_of(first, slope_at(first)),
      steps=jnp.zeros((), jnp.int32),
    ),
  )
  known = jnp.isfinite(found.gap)
  return jnp.where(known, found.shares, jnp.nan)
