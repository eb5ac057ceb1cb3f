"""A nonlinear wave equation; points are (t, x)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.pinn import derivatives, network
from benchmarks.pinn.problem import (
  Params,
  Problem,
  Term,
  grid,
  on_sides,
  uniform,
)

_OMEGA = 5 * np.pi


def exact(points: jax.Array) -> jax.Array:
  """`x cos(5πt) + (xt)³` at points [N, 2]."""
  t, x = points[:, 0], points[:, 1]
  return x * jnp.cos(_OMEGA * t) + (x * t) ** 3


def klein_gordon() -> Problem:
  """`u_tt - u_xx + u³ = f` on the unit square of t and x.

  The setting of DB-PINN: three tanh layers of 50, Adam with 1e-3, a tenth of
  it after every 10,000 steps. `f`, the start, at rest, and the values at both
  walls are those of `x cos(5πt) + (xt)³`.
  """

  def residuals(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    value, _, in_tt = derivatives.second(field, points, 0)
    _, _, in_xx = derivatives.second(field, points, 1)
    t, x = points[:, 0], points[:, 1]
    forcing = (
      -(_OMEGA**2) * x * jnp.cos(_OMEGA * t)
      + 6 * x**3 * t
      - 6 * x * t**3
      + exact(points) ** 3
    )
    return in_tt - in_xx + value**3 - forcing

  def at_start(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    value, in_t = derivatives.first(field, points, 0)
    return jnp.concatenate([value - points[:, 1], in_t])

  axis = np.linspace(0.0, 1.0, 101)
  points = grid(axis, axis)
  t, x = points.T
  return Problem(
    name="klein_gordon",
    terms={
      "boundary": Term(
        lambda field, params, points: field(points) - exact(points),
        on_sides(
          uniform(100, (0.0, 0.0), (1.0, 0.0)),
          uniform(100, (0.0, 1.0), (1.0, 1.0)),
        ),
      ),
      # The mean square of the values and that of the slopes are added up.
      "initial": Term(at_start, uniform(100, (0.0, 0.0), (0.0, 1.0)), 2.0),
      "residual": Term(residuals, uniform(500, (0.0, 0.0), (1.0, 1.0))),
    },
    init=network.init([2, 50, 50, 50, 1]),
    predict=network.standardised((0.0, 0.0), (1.0, 1.0)),
    points=points,
    solution=x * np.cos(_OMEGA * t) + (x * t) ** 3,
    axes={"t": axis, "x": axis},
    rate=optax.exponential_decay(1e-3, 10_000, 0.1, staircase=True),
    steps=4000,
    scaled="500 + 200 + 100 points instead of 10000 + 2000 + 1000, 4000 steps "
    "instead of 20,000",
  )
