"""Measures of a set of points in loss space."""

import jax
import jax.numpy as jnp


def hypervolume_2d(
  points: jax.typing.ArrayLike, reference: jax.typing.ArrayLike
) -> jax.Array:
  """The area that a set of points dominates, for two losses to be minimised.

  Points that are dominated, or not better than the reference point in both
  losses, add nothing. Works under `jit` and `vmap`.

  Args:
    points: Array [K, 2], floating point.
    reference: Array [2], the corner that bounds the area.

  Returns:
    Scalar in the points' dtype.

  Raises:
    ValueError: A shape is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> points = jnp.array([[0.0, 0.5], [0.5, 0.0], [0.6, 0.6]])
    >>> print(optax_mtl.pareto.hypervolume_2d(points, jnp.ones(2)))
    0.75
  """
  points = jnp.asarray(points)
  if points.ndim != 2 or points.shape[1] != 2:
    raise ValueError(f"points must have shape [K, 2], got {points.shape}.")
  reference = jnp.asarray(reference, points.dtype)
  if reference.shape != (2,):
    raise ValueError(f"reference must have shape [2], got {reference.shape}.")
  points = jnp.minimum(points, reference[None, :])
  # From left to right, each point adds a rectangle as far as it lies below the
  # lowest so far; a dominated one lies above, and adds none.
  points = points[jnp.lexsort((points[:, 1], points[:, 0]))]
  lowest = jax.lax.cummin(points[:, 1])
  above = jnp.concatenate([reference[1:], lowest[:-1]])
  return jnp.sum((reference[0] - points[:, 0]) * (above - lowest))
