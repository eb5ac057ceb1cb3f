"""What the pseudo-inverse and the eigenvalues of the Gram matrix give.

IMTL-G's and ConFIG's equal projections, and Aligned-MTL's balancing of the
singular values. Gradients may be linearly dependent: everything is a
pseudo-inverse, with eigenvalues below `T * eps` of the largest taken for zero,
`T` being the number of tasks that take part.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl.solvers import _prepare
from optax_mtl.solvers._certificate import Certificate
from optax_mtl.solvers._prepare import Prepared, Spectrum, dot, over

_SCALES = ("min", "median", "rmse")
# What is computed from `T` terms and should be zero is taken for zero below so
# many roundings of each: two for the entries of the matrix, two for the sum.
_FLOOR = 4.0
# Up to so many tasks LAPACK runs its QR method on the tridiagonal matrix, which
# keeps the digits of small eigenvalues of a matrix that is graded from the top;
# beyond (its SMLSIZ is 25), divide and conquer does not.
_FEW = 16
# Below this ratio of the lengths, squared, a small eigenvalue is one of a short
# gradient, and worth a factor.
_GRADED = 0.25
# Least squared pivot of a factor, in roundings and units of `T`, whose singular
# values have all their digits: two digits above the threshold of the rank.
_PIVOT = 64.0


class _Equal(NamedTuple):
  """Equal projections in coefficients on the unit gradients.

  Attributes:
    solution: `[T]`, the least-squares solution of least norm of `C x = 1`.
    impossible: Scalar bool: not even that has equal projections, as gradients
      are linearly dependent; if any has, it is a combination that vanishes.
    vanishing: `[T]`, of these the nearest to `n_min / n`.
  """

  solution: Array
  impossible: Array
  vanishing: Array


def _solve_equal(gram: Prepared) -> _Equal:
  """Solves `C x = 1` by the eigenvalues of the cosines `C`.

  How far it can be trusted: an entry of a Gram matrix formed in float32 is off
  by half a rounding, `eps / 2` of the product of two lengths, at least. That
  moves the coefficients by up to `eps / 2 T` over the smallest eigenvalue of
  `C`, in relative terms, and no solver can take it back: two rows with a cosine
  of `c` are moved by `eps / (1 + c)`. The solver adds a few times that.
  """
  ones = gram.ones
  # Rows and columns of absent tasks are zero here, so that they have rank 0.
  matrix = gram.cosines * ones[:, None] * ones[None, :]
  spectrum = _prepare.with_rank(gram, *jnp.linalg.eigh(matrix))
  dependent = jnp.sum(spectrum.kept.astype(ones.dtype)) < gram.number
  # What rounding leaves of a component that is zero must not be divided by a
  # small eigenvalue: the components' own rounding is that of T terms. Where
  # gradients are independent every component is meant.
  wanted = dot(ones, spectrum.vectors)
  floor = _FLOOR * gram.eps * gram.number**1.5
  used = spectrum.kept & (~dependent | (jnp.abs(wanted) > floor))

  def inverse(right: Array) -> Array:
    parts = jnp.where(used, dot(right, spectrum.vectors) / spectrum.values, 0.0)
    return dot(spectrum.vectors, parts) * ones

  # One step of refinement takes off what the eigenvectors' rounding adds.
  x = inverse(ones)
  x = x + inverse(ones - dot(matrix, x))
  # The error of `C x` is rounding of its terms, also where a small eigenvalue
  # turns the null space by as much; more than that is a part of the ones vector
  # that no combination reaches.
  apart = jnp.max(jnp.abs(ones - dot(matrix, x)))
  size = jnp.maximum(jnp.sum(jnp.abs(x)), 1.0)
  impossible = dependent & (apart > _FLOOR * gram.eps * gram.number * size)
  null = jnp.where(spectrum.kept, 0.0, dot(gram.shortness, spectrum.vectors))
  return _Equal(
    solution=x,
    impossible=impossible,
    vanishing=dot(spectrum.vectors, null) * ones,
  )


def _spread(gram: Prepared, x: Array) -> Array:
  """How far the projections of `x` are from equal, relative to their terms."""
  projections = dot(gram.cosines, x) * gram.ones
  middle = jnp.sum(projections) / gram.number
  apart = jnp.abs(projections - middle) * gram.ones
  return over(jnp.max(apart), jnp.sum(jnp.abs(x)))


def equal_projections(
  gram: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Weights whose combined gradient has the same projection on every gradient.

  IMTL-G's: `g_i · d / ‖g_i‖` is the same for all `i`, and the weights, some of
  which may be negative, sum to 1. They are `M⁺ √diag(M)`, normalised; the
  pseudo-inverse is taken at unit diagonal, so that short gradients keep their
  say.

  Where gradients are linearly dependent, only combinations that vanish may have
  equal projections, all of them zero: as with one task more than params, where
  the paper's closed form has that answer, or with two opposite gradients, whose
  weights are `1 / ‖g_i‖`, normalised. Of those, one is returned, if the weights
  of any sum to something. Else no combination has equal projections: the
  least-squares one is returned, or equal weights where its weights sum to zero,
  and the status is `STATIONARY`.

  Accuracy: that of the matrix itself. Half a rounding of its entries moves the
  coefficients on the unit gradients by `T ε / 2` over the smallest eigenvalue
  of the cosines, for two gradients with cosine `c` by `ε / (1 + c)`; the solver
  adds a few times that.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 64 roundings of the
      solver's dtype (7.6e-6 in float32); 1 to 3 are usual, and up to 30 where
      gradients are dependent but for rounding.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights, which sum to 1 if any task takes
      part. NaN for the active tasks if `gram` has an entry between active tasks
      that is not finite.
    - A `Certificate`. With `x` the coefficients on the unit gradients,
      `residual` is the largest distance of a projection from their mean,
      relative to `Σ_j |x_j|`; it is not small where no combination has equal
      projections. `iterations` is 0.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import spectral
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> weights, _ = spectral.equal_projections(gradients @ gradients.T)
    >>> [round(x, 4) for x in (weights @ gradients).tolist()]
    [0.8, 0.8]

  References:
    Liu et al., `Towards Impartial Multi-Task Learning
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_, ICLR 2021.
  """
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 64.0)
  equal = _solve_equal(prepared)
  # Weights over the shortest gradient's: only ratios of the lengths count.
  terms = equal.solution * prepared.shortness
  vanishing = equal.vanishing * prepared.shortness

  def counts(terms: Array) -> Array:
    """Whether the sum of the weights is more than rounding."""
    floor = _FLOOR * prepared.eps * prepared.number * jnp.sum(jnp.abs(terms))
    return jnp.abs(jnp.sum(terms)) > floor

  terms = jnp.where(equal.impossible & counts(vanishing), vanishing, terms)
  terms = jnp.where(counts(terms), terms, prepared.ones)
  total = jnp.sum(terms)
  weights = terms / jnp.where(total != 0, total, 1.0)
  residual = _spread(prepared, weights * prepared.relative_lengths)
  return prepared.poison(weights), prepared.certify(
    residual, 0, tol, stationary=equal.impossible
  )


def conflict_free_direction(
  gram: ArrayLike,
  *,
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Coefficients of the unit vector with equal cosines to all gradients.

  ConFIG's direction: `U⁺ 1`, normalised, with `U` the unit gradients: the same,
  non-negative cosine to each of them. Where gradients are linearly dependent
  and there is no such direction, it is the least-squares one; where that is
  zero, as for two opposite gradients, all coefficients are 0. The status is
  `STATIONARY` in both cases. The coefficients are as exact as the weights of
  `equal_projections`.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their coefficient is 0.
    tol: Largest residual that counts as solved. Default: 64 roundings of the
      solver's dtype (7.6e-6 in float32); 1 to 3 are usual, and up to 30 where
      gradients are dependent but for rounding.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the coefficients `c`, with `‖Gᵀ c‖ = 1`. NaN for
      the active tasks if `gram` has an entry between active tasks that is not
      finite.
    - A `Certificate`, as of `equal_projections`.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: A shape does not fit, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import spectral
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> coefficients, _ = spectral.conflict_free_direction(
    ...   gradients @ gradients.T
    ... )
    >>> print((coefficients @ gradients).round(4))
    [0.7071 0.7071]

  References:
    Liu, Chu and Thuerey, `ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks <https://arxiv.org/abs/2408.11104>`_, ICLR 2025.
  """
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 64.0)
  equal = _solve_equal(prepared)
  # The projections are all 1, so that this is the square of the length.
  square = jnp.sum(equal.solution)
  x = over(equal.solution, jnp.sqrt(jnp.maximum(square, 0.0)))
  missing = jnp.any(prepared.present) & ~(square > 0)
  x = jnp.where(missing, 0.0, x)
  residual = jnp.where(missing, 1.0, _spread(prepared, x))
  return prepared.poison(x / prepared.lengths), prepared.certify(
    residual, 0, tol, stationary=equal.impossible
  )


def _decompose(gram: Prepared, order: Array) -> tuple[Array, Spectrum]:
  """The Gram matrix in an order, over its largest entry, and its spectrum.

  Where the lengths of the gradients are far apart, but not their directions
  close, the singular values of Cholesky's factor have all their digits, and
  those are the roots of the eigenvalues; an eigensolver's errors are roundings
  of the largest one.
  """
  relative = gram.relative_lengths[order]
  cosines = gram.cosines[order][:, order]
  matrix = cosines * relative[:, None] * relative[None, :]
  if len(order) <= _FEW:
    return matrix, _prepare.with_rank(gram, *jnp.linalg.eigh(matrix))
  factor = lax.linalg.cholesky(cosines, symmetrize_input=False)
  # A pivot is the part of a gradient that is no combination of longer ones.
  pivot = jnp.min(jnp.diagonal(factor))
  independent = jnp.square(pivot) > _PIVOT * gram.eps * len(order)
  graded = jnp.min(jnp.where(relative > 0, relative, 1.0)) < _GRADED

  def by_factor() -> tuple[Array, Array]:
    vectors, roots, _ = jnp.linalg.svd(
      factor * relative[:, None], full_matrices=False
    )
    return jnp.square(roots[::-1]), vectors[:, ::-1]

  def nothing() -> tuple[Array, Array]:
    return jnp.zeros_like(relative), jnp.zeros_like(matrix)

  # One after the other, which under vmap are all three made. On a CPU each is a
  # call that waits, in a thread of a pool, for work that it hands to the same
  # pool: two of them side by side wait for ever where it has two threads. No
  # value is above that limit, which no compiler knows.
  exact = graded & independent
  found = lax.cond(exact, by_factor, nothing)
  after = jnp.where(jnp.max(found[0]) > 4.0 * len(order) ** 2, 1.0, 0.0)
  pairs = lax.cond(
    exact,
    lambda: found,
    lambda: tuple(jnp.linalg.eigh(matrix + after.astype(matrix.dtype))),
  )
  return matrix, _prepare.with_rank(gram, *pairs)


def aligned_weights(
  gram: ArrayLike,
  *,
  preference: ArrayLike | None = None,
  scale: Literal["min", "median", "rmse"] = "min",
  active: ArrayLike | None = None,
  tol: ArrayLike | None = None,
) -> tuple[Array, Certificate]:
  """Weights that combine the gradients after equalising singular values.

  Aligned-MTL's: with `M = V Λ Vᵀ`, `w = √λ_s V Λ^(-1/2) Vᵀ p`. In place of the
  gradients, their nearest orthogonal frame of common length `√λ_s` is combined.
  The decomposition is of `M` itself: the method is not meant to forget the
  lengths of single gradients.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    preference: `[T]`, a real dtype, the weights `p` of the tasks. Default: one
      over the number of active tasks.
    scale: Which of the eigenvalues kept is `λ_s`: `"min"`, `"median"` (the
      lower one of two) or `"rmse"` (their mean, so that `√λ_s` is the root mean
      square of the singular values).
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 3000 roundings of the
      solver's dtype (3.6e-4 in float32), as eigenvalues may be a thousand times
      the one that is kept.

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is the largest entry of `B M B - λ_s V Vᵀ`
      relative to `λ_s`, where `w = B p`. Rounding puts it at about
      `ε λ_max / λ_min`, over the eigenvalues kept; much lower where only the
      lengths of the gradients are far apart. `iterations` is 0.

  Raises:
    TypeError: An argument has a dtype that makes no sense.
    ValueError: `scale` is not one of the three, a shape does not fit, or `tol`
      is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import spectral
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> weights, _ = spectral.aligned_weights(gradients @ gradients.T)
    >>> print((weights @ gradients).round(4))
    [0.5 0.5]

  References:
    Senushkin et al., `Independent Component Alignment for Multi-Task Learning
    <https://arxiv.org/abs/2305.19000>`_, CVPR 2023.
  """
  _checks.check_choice("scale", scale, _SCALES)
  prepared = _prepare.prepare(gram, active)
  tol = _prepare.tolerance(tol, 3000.0)
  dtype, num_tasks = prepared.cosines.dtype, len(prepared.lengths)
  if preference is None:
    shares = prepared.active.astype(dtype)
    shares = shares / jnp.maximum(jnp.sum(shares), 1.0)
  else:
    shares = _checks.task_vector(preference, num_tasks, "preference")
  shares = jnp.where(prepared.present, shares, 0.0)
  # By descending length: LAPACK then keeps the digits of small eigenvalues of
  # a matrix that is graded.
  order = jnp.argsort(prepared.relative_lengths, descending=True)
  matrix, (values, vectors, kept) = _decompose(prepared, order)
  rank = jnp.sum(kept.astype(jnp.int32))
  if scale == "rmse":
    total = jnp.sum(jnp.where(kept, values, 0.0))
    chosen = total / jnp.maximum(rank, 1).astype(dtype)
  else:
    # Ascending, so that those kept are the last `rank` ones.
    above = (rank - 1) // 2 if scale == "median" else 0
    chosen = values[jnp.clip(num_tasks - rank + above, 0, num_tasks - 1)]
  root = jnp.where(kept, jnp.sqrt(chosen / values), 0.0)
  balance = dot(vectors * root[None, :], vectors.T)
  weights = dot(balance, shares[order])
  weights = jnp.where(prepared.present, weights[jnp.argsort(order)], 0.0)
  projector = dot(vectors * kept.astype(dtype)[None, :], vectors.T)
  aligned = dot(dot(balance, matrix), balance)
  residual = jnp.max(jnp.abs(aligned / chosen - projector))
  residual = jnp.where(rank > 0, residual, 0.0)
  return prepared.poison(weights), prepared.certify(residual, 0, tol)
