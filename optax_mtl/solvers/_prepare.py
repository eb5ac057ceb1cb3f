"""What every solver begins with: its arguments checked, the scales taken off.

And what every solver ends with: its certificate.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.solvers._certificate import Certificate, Status

# Some accelerators round the factors of a float32 product to 10 bits unless
# told otherwise, which is more than a certificate can bear.
dot = functools.partial(jnp.dot, precision="highest")


def over(numerator: Array, denominator: Array) -> Array:
  """Division; by 1 where the denominator is not positive."""
  return numerator / jnp.where(denominator > 0, denominator, 1.0)


def solve_positive(matrix: Array, right: Array) -> Array:
  """Solves `matrix x = right` by Cholesky's factor; NaN where that breaks down.

  Args:
    matrix: `[T, T]`, symmetric.
    right: `[T, K]`.

  Returns:
    `[T, K]`.
  """
  factor = lax.linalg.cholesky(matrix, symmetrize_input=False)
  for transpose in (False, True):
    right = lax.linalg.triangular_solve(
      factor, right, left_side=True, lower=True, transpose_a=transpose
    )
  return right


class Prepared(NamedTuple):
  """A Gram matrix as cosines and lengths, which have no scale.

  Attributes:
    cosines: `[T, T]`, `g_i.g_j / (n_i n_j)`, in `[-1, 1]`: unit diagonal, and
      zeros elsewhere in the rows and columns of tasks that take no part. The
      identity if an active entry was not finite, so that no loop runs on NaN:
      `poison` overwrites the answer then.
    lengths: `[T]`, `n_i = ||g_i||`; 1 for tasks that take no part.
    present: `[T]` bool: the tasks that take part: active, of positive length.
    active: `[T]` bool: the tasks that the caller did not exclude.
    finite: Scalar bool: every entry between active tasks is finite.
  """

  cosines: Array
  lengths: Array
  present: Array
  active: Array
  finite: Array

  @property
  def eps(self) -> float:
    """One rounding in the matrix's dtype."""
    return float(jnp.finfo(self.cosines.dtype).eps)

  @property
  def ones(self) -> Array:
    """`[T]`, 1 for tasks that take part and 0 for the others."""
    return self.present.astype(self.cosines.dtype)

  @property
  def number(self) -> Array:
    """How many tasks take part, at least 1; in the matrix's dtype."""
    return jnp.maximum(jnp.sum(self.ones), 1.0)

  @property
  def shortness(self) -> Array:
    """`[T]`, the shortest length over each; 0 for tasks that take no part."""
    shortest = jnp.min(jnp.where(self.present, self.lengths, jnp.inf))
    return jnp.where(self.present, shortest / self.lengths, 0.0)

  @property
  def relative_lengths(self) -> Array:
    """`[T]`, the lengths over the longest; 0 for tasks that take no part."""
    lengths = jnp.where(self.present, self.lengths, 0.0)
    return over(lengths, jnp.max(lengths))

  def poison(self, answer: Array) -> Array:
    """NaN in the active columns of `[..., T]` if the input was not finite."""
    bad = jnp.broadcast_to(self.active & ~self.finite, answer.shape)
    return jnp.where(bad, jnp.nan, answer)

  def certify(
    self,
    residual: Array,
    iterations: Array | int,
    tol: Array,
    *,
    out_of_iterations: Array | bool = False,
    stationary: Array | bool = False,
  ) -> Certificate:
    """Makes the certificate of an answer.

    Args:
      residual: Scalar.
      iterations: Scalar int32, or a Python number.
      tol: Scalar, what `residual` may be at most.
      out_of_iterations: Scalar bool: the limit ended it. Only looked at where
        the residual is above the tolerance, like the next.
      stationary: Scalar bool: there is no solution.

    Returns:
      The `Certificate`.
    """
    status = jnp.where(
      out_of_iterations, int(Status.OUT_OF_ITERATIONS), int(Status.AT_ROUNDING)
    )
    status = jnp.where(stationary, int(Status.STATIONARY), status)
    status = jnp.where(residual <= tol, int(Status.SOLVED), status)
    status = jnp.where(self.finite, status, int(Status.NOT_FINITE))
    return Certificate(
      residual=jnp.where(self.finite, residual, jnp.nan),
      iterations=jnp.asarray(iterations, jnp.int32),
      status=status.astype(jnp.int32),
    )


def prepare(gram: ArrayLike, active: ArrayLike | None = None) -> Prepared:
  """Checks a Gram matrix and splits it into cosines and lengths.

  Dividing by one length after the other keeps every intermediate value within
  the range of the lengths themselves, so nothing over- or underflows for
  gradients from 1e-19 to 1e19 in float32.

  Args:
    gram: `[T, T]`, a real dtype.
    active: `[T]` bool, or None for all. Whatever stands in the other rows, NaN
      included, is ignored.

  Returns:
    The prepared matrix, in `solver_dtype()`.

  Raises:
    TypeError: `gram` is complex or bool, or `active` is not bool.
    ValueError: The shapes are not `[T, T]` and `[T]`.
  """
  gram = jnp.asarray(gram)
  if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.shape[0]:
    raise ValueError(
      f"gram must have shape [T, T] with T >= 1, got {list(gram.shape)}. "
      "Pass G @ G.T; for a batch of matrices use jax.vmap."
    )
  if jnp.iscomplexobj(gram) or gram.dtype == jnp.bool_:
    raise TypeError(
      f"gram must be real, got {gram.dtype}. For complex gradients pass the "
      "real part of their inner products."
    )
  num_tasks = len(gram)
  if active is None:
    taking = jnp.ones(num_tasks, bool)
  else:
    taking = _checks.task_mask(active, num_tasks, "active")
  gram = gram.astype(solver_dtype())
  pair = taking[:, None] & taking[None, :]
  finite = jnp.all(jnp.isfinite(gram) | ~pair)
  squares = jnp.where(taking, jnp.diagonal(gram), 0.0)
  present = (squares > 0) & finite
  lengths = jnp.sqrt(jnp.where(present, squares, 1.0))
  # Halves first: the sum of two entries may overflow.
  cosines = 0.5 * gram + 0.5 * gram.T
  cosines = cosines / lengths[:, None] / lengths[None, :]
  # Rounding must not give a cosine above 1: the matrix would not be a Gram
  # matrix any more.
  cosines = jnp.clip(cosines, -1.0, 1.0)
  eye = jnp.eye(num_tasks, dtype=gram.dtype)
  both = present[:, None] & present[None, :] & (eye == 0)
  return Prepared(
    cosines=jnp.where(both, cosines, eye),
    lengths=lengths,
    present=present,
    active=taking,
    finite=finite,
  )


class Spectrum(NamedTuple):
  """Eigenpairs, and which of them count.

  Attributes:
    values: `[T]`, ascending; 1 where not kept.
    vectors: `[T, T]`, one eigenvector per column.
    kept: `[T]` bool.
  """

  values: Array
  vectors: Array
  kept: Array


def with_rank(gram: Prepared, values: Array, vectors: Array) -> Spectrum:
  """Decides the rank: eigenvalues below rounding are zero."""
  kept = values > gram.number * gram.eps * jnp.max(values)
  return Spectrum(
    values=jnp.where(kept, values, 1.0), vectors=vectors, kept=kept
  )


def tolerance(tol: ArrayLike | None, roundings: float) -> Array:
  """The tolerance, or its default: so many roundings of the solver's dtype.

  Args:
    tol: What the caller asked for, if anything; may be traced.
    roundings: The default, in units of `finfo(solver_dtype()).eps`.

  Returns:
    Scalar, `solver_dtype()`.

  Raises:
    ValueError: `tol` is a Python number that is not positive.
  """
  _checks.check_range("tol", tol, 0.0, open_low=True)
  if tol is None:
    tol = roundings * float(jnp.finfo(solver_dtype()).eps)
  return jnp.asarray(tol).astype(solver_dtype())


def iteration_limit(max_iter: ArrayLike | None, default: int) -> Array:
  """The limit on iterations, or its default.

  Args:
    max_iter: What the caller asked for, if anything; may be traced.
    default: The limit if `max_iter` is None.

  Returns:
    Scalar int32.

  Raises:
    ValueError: `max_iter` is a Python number below 1, or not a whole one.
  """
  _checks.check_whole("max_iter", max_iter, 1)
  return jnp.asarray(default if max_iter is None else max_iter).astype(
    jnp.int32
  )
