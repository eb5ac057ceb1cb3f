"""The lid-driven cavity at Reynolds number 100; points are (x, y)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.pinn import derivatives, network
from benchmarks.pinn.problem import (
  Params,
  Problem,
  Published,
  Term,
  grid,
  on_sides,
  uniform,
)
from benchmarks.pinn.references.cavity import flow

_REYNOLDS = 100.0


def residuals(
  field: derivatives.Field, params: Params, points: jax.Array
) -> jax.Array:
  """Both momentum equations and continuity, [3N], of a field (u, v, p)."""
  value, in_x, in_xx = derivatives.second(field, points, 0)
  _, in_y, in_yy = derivatives.second(field, points, 1)
  u, v = value[:, :1], value[:, 1:2]
  # Of u and of v at once.
  momentum = (u * in_x + v * in_y - (in_xx + in_yy) / _REYNOLDS)[:, :2]
  pressure = jnp.stack([in_x[:, 2], in_y[:, 2]], axis=1)
  continuity = in_x[:, 0] + in_y[:, 1]
  return jnp.concatenate([(momentum + pressure).ravel(), continuity])


def cavity() -> Problem:
  """Velocity and pressure under a lid of speed 1, in the unit square.

  The setting of DB-PINN: three tanh layers of 50. The terms are the equations
  and each velocity at the walls. The error is that of both velocities.
  """

  def horizontal(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    lid = (points[:, 1] == 1).astype(points.dtype)
    return field(points)[:, 0] - lid

  def vertical(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    return field(points)[:, 1]

  walls = on_sides(
    uniform(50, (0.0, 0.0), (0.0, 1.0)),
    uniform(50, (1.0, 0.0), (1.0, 1.0)),
    uniform(50, (0.0, 0.0), (1.0, 0.0)),
    uniform(50, (0.0, 1.0), (1.0, 1.0)),
  )
  predict = network.standardised((0.0, 0.0), (1.0, 1.0))
  axis = np.linspace(0.0, 1.0, 101)
  velocity = np.stack(flow(_REYNOLDS).velocity(axis, axis), axis=-1)
  # At the upper corners the velocity jumps; they belong to the walls.
  velocity[[0, -1], -1] = 0
  return Problem(
    name="cavity",
    terms={
      # The three equations' mean squares are added up.
      "residual": Term(residuals, uniform(500, (0.0, 0.0), (1.0, 1.0)), 3.0),
      "wall_u": Term(horizontal, walls),
      "wall_v": Term(vertical, walls),
    },
    init=network.init([2, 50, 50, 50, 3]),
    predict=predict,
    points=grid(axis, axis),
    # The pressure, known up to a constant, takes no part in the error.
    solution=velocity.reshape(-1, 2),
    axes={"x": axis, "y": axis},
    rate=optax.exponential_decay(1e-3, 1000, 0.9, staircase=True),
    steps=4000,
    published=tuple(
      Published(method, error, "DB-PINN's table, Re 100")
      for method, error in (
        ("equal_weighting", "10.66 ± 1.38 %"),
        ("uncertainty_weighting", "14.87 ± 5.18 %"),
        ("lr_annealing (mean)", "5.60 ± .96 %"),
        ("lr_annealing (std)", "6.69 ± 1.90 %"),
        ("db_pinn (mean)", "5.03 %"),
        ("db_pinn (std)", "5.56 %"),
      )
    ),
    scaled="500 + 200 points instead of 20000 + 400, 4000 steps instead of "
    "40,000",
  )
