"""One step of a method on many gradient matrices at once, compiled once."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optax_mtl


class Batch(NamedTuple):
  """What a method did with `N` matrices, float64 but for the certificates.

  Attributes:
    updates: Array [N, P], as they came.
    weights: Array [N, T].
    converged: Array [N] of bool, or None for a method that solves nothing.
  """

  updates: np.ndarray
  weights: np.ndarray
  converged: np.ndarray | None


@functools.cache
def _compiled(name, num_tasks, options, traced):
  def one(grads, values):
    tx = optax_mtl.METHODS[name](
      num_tasks, **dict(options), **dict(zip(traced, values, strict=True))
    )
    updates, state = tx.update(grads, tx.init(grads[0]))
    certificate = getattr(state, "certificate", None)
    converged = None if certificate is None else certificate.converged
    return updates, state.weights, converged

  return jax.jit(jax.vmap(one))


def run(name, grads, *, dtype="float32", traced=None, **options) -> Batch:
  """One step from a fresh state on each matrix.

  Args:
    name: The method's.
    grads: Array [N, T, P].
    dtype: "float32", or "float64" in x64 mode.
    traced: Name -> array [N, ...], hyperparameters with a value per matrix.
    **options: Other hyperparameters, hashable.

  Returns:
    A `Batch`.
  """
  traced = {} if traced is None else traced
  with jax.enable_x64(dtype == "float64"):
    values = tuple(
      v
      if np.issubdtype(np.asarray(v).dtype, np.integer)
      else jnp.asarray(v, dtype)
      for v in traced.values()
    )
    compiled = _compiled(
      name, grads.shape[1], tuple(sorted(options.items())), tuple(traced)
    )
    updates, weights, converged = compiled(jnp.asarray(grads, dtype), values)
  return Batch(
    np.asarray(updates, np.float64),
    np.asarray(weights, np.float64),
    None if converged is None else np.asarray(converged),
  )
