"""The Gram matrix of the unit gradients, and the checks that solvers share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl import _dtypes
from optax_mtl.solvers import _certificate, _scaling


class UnitGram(NamedTuple):
  """A Gram matrix with unit diagonal, and what was taken off it.

  Attributes:
    gram: `[T, T]`, `solver_dtype()`. The cosines between the gradients: unit
      diagonal, and zeros elsewhere in the rows and columns of tasks that take
      no part. The identity if an active entry was not finite, so that no loop
      runs on NaN: the answer is then overwritten by `poison`.
    norms: `[T]`, `solver_dtype()`. The lengths of the gradients, 1 for tasks
      that take no part.
    present: `[T]` bool. The tasks that take part: active, gradient not zero.
    active: `[T]` bool. The tasks that the caller did not exclude.
    finite: Scalar bool. Whether the entries among the active tasks are finite.
  """

  gram: jax.Array
  norms: jax.Array
  present: jax.Array
  active: jax.Array
  finite: jax.Array

  def poison(self, answer: jax.Array) -> jax.Array:
    """Returns NaN for the active tasks if the input was not finite.

    Args:
      answer: `[..., T]`, `solver_dtype()`.

    Returns:
      `[..., T]`, `solver_dtype()`: `answer` if the input was finite.
    """
    bad = jnp.where(self.active, jnp.nan, 0.0).astype(answer.dtype)
    return jnp.where(self.finite, answer, jnp.broadcast_to(bad, answer.shape))

  def certify(
    self,
    residual: jax.Array,
    iterations: jax.Array | int,
    tol: jax.Array | float,
  ) -> _certificate.Certificate:
    """Makes a certificate; its residual is NaN if the input was not finite.

    Args:
      residual: Scalar, `solver_dtype()`.
      iterations: Scalar int32, or a Python number.
      tol: Scalar, what `residual` may be at most.

    Returns:
      A `Certificate`.
    """
    return _certificate.Certificate(
      jnp.where(self.finite, residual, jnp.nan),
      jnp.asarray(iterations, jnp.int32),
      (residual <= tol) & self.finite,
    )


def unit_gram(gram: jax.Array, active: jax.Array | None = None) -> UnitGram:
  """Checks a Gram matrix and scales it by its own diagonal.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Tasks that take part.

  Returns:
    The scaled matrix and what it takes to undo the scaling.

  Raises:
    ValueError: If the shapes are not `[T, T]` and `[T]`.
  """
  gram = jnp.asarray(gram)
  if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.shape[0]:
    raise ValueError(
      f"gram must be a square matrix [T, T], T >= 1; got shape {gram.shape}."
    )
  num_tasks = gram.shape[0]
  active = jnp.asarray(True if active is None else active)
  if active.shape not in ((), (num_tasks,)):
    raise ValueError(
      f"active must have shape ({num_tasks},), one entry per task; got "
      f"{active.shape}."
    )
  active = jnp.broadcast_to(active.astype(bool), (num_tasks,))
  scaled = _scaling.scale_gram(gram.astype(_dtypes.solver_dtype()), active)
  present = scaled.usable & scaled.finite
  eye = jnp.eye(num_tasks, dtype=bool)
  both = present[:, None] & present[None, :] & ~eye
  unit = jnp.where(both, scaled.cosines, eye.astype(scaled.cosines.dtype))
  norms = jnp.where(present, scaled.lengths, 1.0)
  return UnitGram(unit, norms, present, active, scaled.finite)


def tolerance(tol: float | None, roundings: float) -> float:
  """Returns `tol`, or its default: so many roundings of the solver's dtype.

  Args:
    tol: What the caller asked for, if anything.
    roundings: The default, in units of `finfo(solver_dtype()).eps`.

  Returns:
    The tolerance.

  Raises:
    ValueError: If `tol` is a Python number that is not positive.
  """
  if tol is None:
    return roundings * float(jnp.finfo(_dtypes.solver_dtype()).eps)
  if isinstance(tol, (int, float)) and not tol > 0:
    raise ValueError(f"tol must be positive, or None; got {tol}.")
  return tol


def iteration_limit(max_iter: int | None, default: int) -> int:
  """Returns `max_iter`, or its default.

  Args:
    max_iter: What the caller asked for, if anything.
    default: The limit if `max_iter` is None.

  Returns:
    The limit.

  Raises:
    ValueError: If `max_iter` is a Python number below 1.
  """
  if max_iter is None:
    return default
  if isinstance(max_iter, (int, float)) and max_iter < 1:
    raise ValueError(f"max_iter must be at least 1, or None; got {max_iter}.")
  return max_iter
