"""Linear advection, the faster the harder; points are (t, x)."""

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


def advection(speed: float = 100.0) -> Problem:
  """`u_t + c u_x = 0` on [0, 1] x [0, 2π], periodic, from `sin x`.

  The equation of jaxpi (Wang et al. 2023), where `c` goes up to 100. As there,
  the network sees `cos x` and `sin x`, so that it is periodic by itself and two
  terms remain. It sees the plain time, standardised, and none of their random
  Fourier features.
  """
  low, high = (0.0, 0.0), (1.0, 2 * np.pi)

  def predict(params: Params, points: jax.Array) -> jax.Array:
    # The time as a standardised input, the place on its circle.
    time = (points[:, :1] - 0.5) * 12**0.5
    place = points[:, 1:]
    inputs = jnp.concatenate([time, jnp.cos(place), jnp.sin(place)], axis=1)
    return network.apply(params, inputs)

  def residuals(
    field: derivatives.Field, params: Params, points: jax.Array
  ) -> jax.Array:
    _, in_t = derivatives.first(field, points, 0)
    _, in_x = derivatives.first(field, points, 1)
    return in_t + speed * in_x

  times, places = np.linspace(0, 1, 101), np.linspace(0, 2 * np.pi, 101)
  points = grid(times, places)
  return Problem(
    name="advection" if speed == 100 else f"advection_{speed:g}",
    terms={
      "initial": Term(
        lambda field, params, points: field(points) - jnp.sin(points[:, 1]),
        uniform(100, low, (0.0, 2 * np.pi)),
      ),
      "residual": Term(residuals, uniform(500, low, high)),
    },
    init=network.init([3, 50, 50, 50, 1]),
    predict=predict,
    points=points,
    solution=np.sin(points[:, 1] - speed * points[:, 0]),
    axes={"t": times, "x": places},
    rate=optax.exponential_decay(1e-3, 1000, 0.9, staircase=True),
    steps=4000,
    published=(
      Published("norm_balance", "1.02 %", "jaxpi, c = 100, on a GPU"),
      Published("equal_weighting", "113 %", "jaxpi, c = 100, on a GPU"),
    )
    if speed == 100
    else (),
    scaled="three layers of 50 instead of four of 256 with Fourier features, "
    "4000 steps instead of 200,000",
  )
