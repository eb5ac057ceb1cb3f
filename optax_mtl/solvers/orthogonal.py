"""What each gradient has that the others have not.

With `C` the cosines, the part of the unit gradient `i` that is orthogonal to
all others has the coefficients `inv(C) e_i / inv(C)_ii`, and the squared length
`1 / inv(C)_ii`. Gradients may be linearly dependent: with the pseudo-inverse
the same holds for those that take no part in a dependence, and of the others
there is nothing left.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from optax_mtl.solvers import _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import dot, over

# A gradient takes part in a dependence if it has more than so many roundings,
# in units of `T`, of a null vector's squared length: an eigenvector of a matrix
# whose entries are rounded has less in the wrong place, unless the smallest
# eigenvalue that is kept is not far from those that are not.
_PART = 4.0


def orthogonal_parts(
  gram: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Coefficients of each gradient's part that is orthogonal to all others.

  `g_i` less its projection on the span of the others: zero if it lies in it,
  which is decided at unit diagonal by the rank, with eigenvalues below `T ε` of
  the largest taken for zero.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their rows and columns are 0.
    tol: Largest residual that counts as solved. Default: 64 roundings of the
      solver's dtype (7.6e-6 in float32).

  Returns:
    A pair of

    - `[T, T]`, `solver_dtype()`: row i the coefficients of the part of `g_i`.
      NaN in the active columns if `gram` has an entry between active tasks that
      is not finite.
    - A `Certificate`. `residual` is the largest product of such a part with a
      unit gradient other than its own, relative to the sum of the sizes of the
      coefficients on the unit gradients; zero proves that it is the part, as
      its coefficient on its own gradient is 1. `iterations` is 0.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or `tol` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl import solvers
    >>> gradients = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> parts, _ = solvers.orthogonal_parts(gradients @ gradients.T)
    >>> print((parts @ gradients).round(4))
    [[0.5 0.5]
     [0.  1. ]]

  References:
    Zhu et al., `Gradient Deconfliction via Orthogonal Projections onto
    Subspaces For Multi-task Learning <https://arxiv.org/abs/2503.03438>`_,
    WSDM 2025.
  """
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 64.0)
  ones = prepared.ones
  both = ones[:, None] * ones[None, :]
  # Absent tasks have zero rows here, so that they have rank 0.
  matrix = prepared.cosines * both
  spectrum = _prepare.with_rank(prepared, *jnp.linalg.eigh(matrix))
  vectors, kept = spectrum.vectors, spectrum.kept
  null = jnp.sum(jnp.where(kept, 0.0, jnp.square(vectors)), axis=1)
  free = prepared.present & (null <= _PART * prepared.eps * prepared.number)

  def inverse(right: Array) -> Array:
    parts = over(dot(vectors.T, right), spectrum.values[:, None])
    return dot(vectors, jnp.where(kept[:, None], parts, 0.0)) * both

  # Column i is that of gradient i. One step of refinement takes off what the
  # eigenvectors' rounding adds.
  wanted = jnp.diag(free.astype(matrix.dtype))
  columns = inverse(wanted)
  columns = columns + inverse(wanted - dot(matrix, columns))
  squares = over(jnp.ones_like(ones), jnp.diagonal(columns))
  parts = jnp.where(free[:, None], columns.T * squares[:, None], 0.0)
  own = jnp.eye(len(ones), dtype=bool)
  parts = jnp.where(own, wanted, parts)
  apart = jnp.where(own, 0.0, jnp.abs(dot(parts, matrix)))
  apart = over(apart, jnp.sum(jnp.abs(parts), axis=1)[:, None])
  lengths = prepared.lengths
  return (
    prepared.poison(parts * lengths[:, None] / lengths[None, :]),
    prepared.certify(jnp.max(apart), 0, tol),
  )
