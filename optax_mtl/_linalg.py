"""Gram matrix, weighted combination and finiteness of stacked task gradients.

Leaves are `[T, *shape]`, the task first.
"""

import jax
import jax.numpy as jnp

from optax_mtl._dtypes import solver_dtype


def _accumulator(dtype) -> jnp.dtype:
  """The dtype that products of `dtype` are summed in."""
  if jnp.issubdtype(dtype, jnp.complexfloating):
    return jnp.dtype("complex128" if jax.config.jax_enable_x64 else "complex64")
  return solver_dtype()


def gram(tree, num_tasks: int) -> jax.Array:
  """Inner products of the tasks' gradients, `[T, T]` of `solver_dtype()`."""
  total = jnp.zeros((num_tasks, num_tasks), solver_dtype())
  for leaf in jax.tree.leaves(tree):
    leaf = jnp.asarray(leaf)
    axes = tuple(range(1, leaf.ndim))
    acc = _accumulator(leaf.dtype)
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      leaf = leaf.astype(acc)
    product = jax.lax.dot_general(
      leaf,
      leaf.conj(),
      ((axes, axes), ((), ())),
      precision="highest",
      preferred_element_type=acc,
    )
    total = total + jnp.real(product)
  return jnp.tril(total) + jnp.tril(total, -1).T


def combine(tree, weights, keep=None):
  """Weighted sum over tasks: leaves `[T, *shape]` become `[*shape]`."""

  def one(leaf):
    leaf = jnp.asarray(leaf)
    acc = _accumulator(leaf.dtype)
    rows = leaf.astype(acc)
    expand = (-1,) + (1,) * (leaf.ndim - 1)
    if keep is not None:
      rows = jnp.where(
        jnp.asarray(keep).reshape(expand), rows, jnp.zeros((), acc)
      )
    scaled = rows * jnp.asarray(weights).astype(acc).reshape(expand)
    return jnp.sum(scaled, axis=0).astype(leaf.dtype)

  return jax.tree.map(one, tree)


def finite(tree, num_tasks: int) -> jax.Array:
  """Whether every entry of a task's row is finite, `[T]` bool."""
  total = jnp.ones((num_tasks,), jnp.bool_)
  for leaf in jax.tree.leaves(tree):
    leaf = jnp.asarray(leaf)
    total = total & jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
  return total
