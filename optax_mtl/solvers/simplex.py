"""Euclidean projection on the simplex."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype


def project_simplex(
  v: ArrayLike, *, active: ArrayLike | None = None, total: ArrayLike = 1.0
) -> Array:
  """The point of `{x >= 0, sum(x) = total}` nearest to `v`.

  Exact, by sorting: `x = max(v - theta, 0)` with the one `theta` for which the
  sum is right. It depends on differences between the entries of `v` only.

  Args:
    v: `[T]`, real. Taken in `solver_dtype()`.
    active: `[T]` bool. Entries that are not active are 0 in the answer and
      take no part, whatever they hold. Default: all are.
    total: The sum of the answer, at least 0. Python number or scalar array.

  Returns:
    `[T]`, `solver_dtype()`. NaN if an active entry of `v` is NaN or `+inf`;
    all 0 if no entry is active.

  Raises:
    TypeError: `v` is not numeric, or `active` is not bool.
    ValueError: `v` or `active` does not have shape `[T]`, or `total` is
      negative.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl import solvers
    >>> solvers.project_simplex(jnp.array([0.5, 1.0, -1.0])).tolist()
    [0.25, 0.75, 0.0]

  References:
    Held, Wolfe & Crowder, Validation of Subgradient Optimization,
    Mathematical Programming 6, 1974.
  """
  _checks.check_range("total", total, 0.0)
  v = _checks.stack_scalars(v, "v")
  if v.shape[0] == 0:
    raise ValueError("v is empty: there must be at least one entry.")
  if active is None:
    active = jnp.ones(v.shape, bool)
  else:
    active = _checks.task_mask(active, v.shape[0], "active")
  v = _checks.task_vector(v, v.shape[0], "v")
  total = jnp.asarray(total, solver_dtype())
  return _project(v, active, total)


# Compiled as a whole, for calls from outside of jit.
@jax.jit
def _project(v: Array, active: Array, total: Array) -> Array:
  """`project_simplex` on checked arguments."""
  bad = jnp.any(active & (jnp.isnan(v) | (v == jnp.inf)))

  # All that follows reads what the sort has written: a `v` that is computed in
  # the same program may be computed more than once, fused with what reads it,
  # and with other roundings, which no comparison of the two survives.
  v = jnp.where(active, v, -jnp.inf)
  falling, index = lax.sort((-v, lax.iota(jnp.int32, v.shape[0])), num_keys=1)
  # Counted from the largest entry, so that a large common part of `v` costs no
  # accuracy. Any entry with a part in the answer is within `total` of it.
  ordered = -falling
  largest = ordered[0]
  ordered = ordered - jnp.where(jnp.isfinite(largest), largest, 0.0)
  count = jnp.arange(1, v.shape[0] + 1).astype(v.dtype)
  inside = count * ordered > jnp.cumsum(ordered) - total
  size = jnp.sum(inside)
  # One mean over those inside in place of the running sum.
  support = jnp.arange(v.shape[0]) < size
  excess = jnp.sum(jnp.where(support, ordered, 0.0)) - total
  excess = excess / jnp.maximum(size, 1).astype(v.dtype)
  projected = jnp.where(support, jnp.maximum(ordered - excess, 0.0), 0.0)
  _, projected = lax.sort((index, projected), num_keys=1)
  return jnp.where(bad, jnp.nan, projected)
