"""Derivatives of a field along a coordinate, a whole batch at once.

A field is a function from points [N, d] to values [N] or [N, C], each row of
which depends on the same row of the points. So one tangent, the same unit
vector at every point, gives the derivative at all of them.

Three ways, the same numbers: `speed` measures them, and `MODE` is the fastest.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental import jet

Field = Callable[[jax.Array], jax.Array]
Mode = Literal["jet", "forward", "reverse"]

#: What the problems use: `python -m benchmarks.pinn.speed` shows why.
MODE: Mode = "forward"


def _unit(points: jax.Array, axis: int) -> jax.Array:
  """The unit vector along a coordinate at every point, like `points`."""
  return jnp.zeros_like(points).at[:, axis].set(1)


def first(
  field: Field, points: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
  """The field and its first derivative.

  Args:
    field: From points to values.
    points: Array [N, d].
    axis: Which coordinate.

  Returns:
    Two arrays like the values.

  Example:
    >>> value, slope = first(lambda p: p[:, 0] ** 2, jnp.array([[3.0]]), 0)
    >>> print(value, slope)
    [9.] [6.]
  """
  return jax.jvp(field, (points,), (_unit(points, axis),))


def second(
  field: Field, points: jax.Array, axis: int, mode: Mode | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The field, its first and its second derivative.

  Args:
    field: From points to values; for "reverse" to values [N].
    points: Array [N, d].
    axis: Which coordinate.
    mode: "jet" carries Taylor coefficients forward, "forward" nests forward
      mode in forward mode, "reverse" nests reverse mode in reverse mode, as
      code for PyTorch does. None: `MODE`.

  Returns:
    Three arrays like the values.

  Example:
    >>> square = lambda p: p[:, 0] * p[:, 0]
    >>> for mode in ("forward", "reverse"):
    ...   print(*second(square, jnp.array([[2.0]]), 0, mode))
    [4.] [4.] [2.]
    [4.] [4.] [2.]
  """
  mode = MODE if mode is None else mode
  tangent = _unit(points, axis)
  if mode == "jet":
    series = (tangent, jnp.zeros_like(points))
    value, (slope, curvature) = jet.jet(field, (points,), (series,))
    return value, slope, curvature
  if mode == "forward":
    along = lambda x: jax.jvp(field, (x,), (tangent,))  # noqa: E731
    (value, slope), (_, curvature) = jax.jvp(along, (points,), (tangent,))
    return value, slope, curvature

  def slopes(x: jax.Array) -> jax.Array:
    return jax.grad(lambda x: jnp.sum(field(x)))(x)[:, axis]

  curvature = jax.grad(lambda x: jnp.sum(slopes(x)))(points)[:, axis]
  return field(points), slopes(points), curvature
