"""Helmholtz's equation on a square: the smallest problem that decides."""

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

#: Halves of waves along the two coordinates, times pi.
_WAVES = (1.0, 4.0)


def exact(points: jax.Array, waves: tuple[float, float] = _WAVES) -> jax.Array:
  """`sin(πx) sin(4πy)`, or other waves, at points [N, 2]."""
  first, second = waves
  return jnp.sin(first * jnp.pi * points[:, 0]) * jnp.sin(
    second * jnp.pi * points[:, 1]
  )


def helmholtz(
  a_side: int = 128,
  boundary_scale: float = 4.0,
  waves: tuple[float, float] = _WAVES,
) -> Problem:
  """`u_xx + u_yy + u = q` on [-1, 1]², zero at the boundary.

  The setting of Wang, Teng & Perdikaris (2021): three tanh layers of 50, 128
  points a side and 128 inside, Adam with 1e-3, which shrinks by .9 every 1000
  steps. `q` is such that the solution is `sin(πx) sin(4πy)`.

  Args:
    a_side: Points on each side.
    boundary_scale: The boundary's loss is so many times its mean square. The
      paper adds up the means over the four sides.
    waves: Of the solution; slower ones are learnt in fewer steps.

  Returns:
    The problem.
  """
  # The Laplacian of the solution is so many times the solution.
  laplacian = -sum((wave * np.pi) ** 2 for wave in waves)

  def residuals(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    value, _, in_x = derivatives.second(field, points, 0)
    _, _, in_y = derivatives.second(field, points, 1)
    return in_x + in_y + value - (laplacian + 1) * exact(points, waves)

  sides = [
    uniform(a_side, low, high)
    for low, high in (
      ((-1.0, -1.0), (-1.0, 1.0)),
      ((1.0, -1.0), (1.0, 1.0)),
      ((-1.0, -1.0), (1.0, -1.0)),
      ((-1.0, 1.0), (1.0, 1.0)),
    )
  ]
  axis = np.linspace(-1.0, 1.0, 101)
  points = grid(axis, axis)
  return Problem(
    name="helmholtz",
    terms={
      "boundary": Term(
        lambda field, params, points: field(points),
        on_sides(*sides),
        scale=boundary_scale,
      ),
      "residual": Term(residuals, uniform(128, (-1.0, -1.0), (1.0, 1.0))),
    },
    init=network.init([2, 50, 50, 50, 1]),
    predict=network.standardised((-1.0, -1.0), (1.0, 1.0)),
    points=points,
    solution=np.prod(np.sin(np.pi * np.array(waves) * points), axis=1),
    axes={"x": axis, "y": axis},
    rate=optax.exponential_decay(1e-3, 1000, 0.9, staircase=True),
    steps=6000,
    scaled="6,000 steps instead of 40,000",
  )
