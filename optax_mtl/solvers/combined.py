"""What a Gram matrix says about a combination of the gradients."""

import jax.numpy as jnp
from jax import Array

from optax_mtl.solvers._prepare import dot, over


def combined_norm(gram: Array, weights: Array) -> Array:
  """The norm of a combination of the gradients.

  At unit diagonal, so that nothing under- or overflows on the way. Where the
  gradients nearly cancel, rounding leaves an error of the root of a few
  roundings of `sum_i |w_i| n_i`, as the matrix itself does.

  Args:
    gram: `[T, T]`, floating point; rows of tasks that take no part are zeros.
    weights: `[T]`, in the same dtype.

  Returns:
    Scalar, `||G.T @ weights||`.
  """
  cosines, _, relative, longest = _relative(gram, weights)
  square = dot(relative, dot(cosines, relative))
  return longest * jnp.sqrt(jnp.maximum(square, 0.0))


def combined_products(gram: Array, weights: Array) -> Array:
  """The inner products of a combination of the gradients with each of them.

  Args:
    gram: `[T, T]`, floating point; rows of tasks that take no part are zeros.
    weights: `[T]`, in the same dtype.

  Returns:
    `[T]`, `G @ G.T @ weights`, each to a few roundings of
    `n_i sum_j |w_j| n_j`.
  """
  cosines, lengths, relative, longest = _relative(gram, weights)
  return dot(cosines, relative) * longest * lengths


def _relative(gram: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
  """Cosines, lengths, the terms' lengths over the longest, and the longest."""
  lengths = jnp.sqrt(jnp.diagonal(gram))
  safe = jnp.where(lengths > 0, lengths, 1.0)
  cosines = gram / safe[:, None] / safe[None, :]
  terms = weights * lengths
  longest = jnp.max(jnp.abs(terms))
  return cosines, lengths, over(terms, longest), longest
