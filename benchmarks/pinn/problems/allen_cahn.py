"""Allen and Cahn's equation, stiff by its reaction; points are (t, x)."""

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
  uniform,
)
from benchmarks.pinn.references.allen_cahn import (
  DIFFUSION,
  REACTION,
  solution,
)


def allen_cahn() -> Problem:
  """`u_t = 1e-4 u_xx - 5u³ + 5u` from `x² cos(πx)`, periodic on [-1, 1].

  The equation of DB-PINN, with its three terms: the boundary's is that values
  and slopes agree at both walls.
  """

  def residuals(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    value, _, in_xx = derivatives.second(field, points, 1)
    _, in_t = derivatives.first(field, points, 0)
    return in_t - DIFFUSION * in_xx + REACTION * (value**3 - value)

  def at_start(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    x = points[:, 1]
    return field(points) - x**2 * jnp.cos(jnp.pi * x)

  def at_walls(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    # Points come at the right wall; the left one is a reflection away.
    right = derivatives.first(field, points, 1)
    left = derivatives.first(
      field, jnp.stack([points[:, 0], -points[:, 1]], axis=1), 1
    )
    return jnp.concatenate([right[0] - left[0], right[1] - left[1]])

  times, places = np.linspace(0, 1, 101), np.linspace(-1, 1, 201)
  return Problem(
    name="allen_cahn",
    terms={
      # The mean squares of both differences are added up.
      "boundary": Term(at_walls, uniform(100, (0.0, 1.0), (1.0, 1.0)), 2.0),
      "initial": Term(at_start, uniform(100, (0.0, -1.0), (0.0, 1.0))),
      "residual": Term(residuals, uniform(500, (0.0, -1.0), (1.0, 1.0))),
    },
    init=network.init([2, 50, 50, 50, 50, 1]),
    predict=network.standardised((0.0, -1.0), (1.0, 1.0)),
    points=grid(times, places),
    solution=solution(101, places).ravel(),
    axes={"t": times, "x": places},
    rate=optax.exponential_decay(1e-3, 1000, 0.9, staircase=True),
    steps=4000,
    published=tuple(
      Published(method, error, source)
      for method, error, source in (
        ("equal_weighting", "52.4 ± 9.2 %", "DB-PINN's table"),
        ("uncertainty_weighting", "55.8 ± 8.4 %", "DB-PINN's table"),
        ("lr_annealing (mean)", "10.97 ± 4.95 %", "DB-PINN's table"),
        ("lr_annealing (std)", "15.1 ± 12.8 %", "DB-PINN's table"),
        ("db_pinn (mean)", "6.79 %", "DB-PINN's table"),
        ("db_pinn (std)", "5.51 %", "DB-PINN's table"),
        ("norm_balance", ".0584 %", "jaxpi, causal weights, on a GPU"),
        ("equal_weighting", ".751 %", "jaxpi, causal weights, on a GPU"),
      )
    ),
    scaled="four layers of 50 instead of 128, 4000 steps instead of 80,000",
  )
