"""Brings a Gram matrix to a form that has no scale."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Some accelerators round the factors of a float32 product to 10 bits unless
# told otherwise, which is more than a certificate can bear.
dot = functools.partial(jnp.dot, precision="highest")


def over(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """Division; by 1 where the denominator is not positive."""
  return numerator / jnp.where(denominator > 0, denominator, 1.0)


class ScaledGram(NamedTuple):
  """A Gram matrix as cosines and lengths; see `scale_gram`.

  Attributes:
    cosines: `[T, T]`, `g_i.g_j / (n_i n_j)`, in `[-1, 1]`; 0 in the rows and
      columns of vertices that are not `usable`.
    lengths: `[T]`, `n_i = ||g_i||`, 1 where not `usable`.
    usable: `[T]` bool: active, and of positive length.
    zero: `[T]` bool: active, and of length zero.
    finite: Scalar bool: every entry between active vertices is finite.
  """

  cosines: jax.Array
  lengths: jax.Array
  usable: jax.Array
  zero: jax.Array
  finite: jax.Array


def scale_gram(gram: jax.Array, active: jax.Array) -> ScaledGram:
  """Splits a Gram matrix into cosines and lengths.

  Dividing by one length after the other keeps every intermediate value within
  the range of the lengths themselves, so nothing over- or underflows for
  gradients from 1e-19 to 1e19 in float32.

  Args:
    gram: `[T, T]`, floating point.
    active: `[T]` bool. Whatever stands in the other rows, NaN included, is
      ignored.

  Returns:
    A `ScaledGram` in the dtype of `gram`.
  """
  pair = active[:, None] & active[None, :]
  finite = jnp.all(jnp.isfinite(gram) | ~pair)
  squares = jnp.where(active, jnp.diagonal(gram), 0.0)
  usable = squares > 0
  lengths = jnp.sqrt(jnp.where(usable, squares, 1.0))
  # Halves first: the sum of two entries may overflow.
  cosines = 0.5 * gram + 0.5 * gram.T
  cosines = cosines / lengths[:, None] / lengths[None, :]
  # Rounding must not give a cosine above 1: the matrix would not be a Gram
  # matrix any more.
  cosines = jnp.clip(cosines, -1.0, 1.0)
  cosines = jnp.where(usable[:, None] & usable[None, :], cosines, 0.0)
  return ScaledGram(cosines, lengths, usable, active & ~usable, finite)
