"""What the pseudo-inverse and the eigenvalues of the Gram matrix give.

IMTL-G's and ConFIG's equal projections, and Aligned-MTL's balancing of the
singular values. Gradients may be linearly dependent: everything is a
pseudo-inverse, with eigenvalues below `T * eps` of the largest taken for zero,
`T` being the number of tasks that take part.
"""

import jax
import jax.numpy as jnp
from jax import lax

from optax_mtl.solvers import (
  _certificate,
  _compensated,
  _equal_projections,
  _unit_gram,
)
from optax_mtl.solvers._compensated import Pair

_SCALES = ("min", "median", "rmse")
# Up to so many tasks an eigensolver works on the whole tridiagonal matrix, and
# that is nearly as good as what else takes its place.
_FEW = 16


def equal_projections(
  gram: jax.Array,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Weights whose combined gradient has the same projection on every gradient.

  IMTL-G's: :math:`g_i^\top d / \|g_i\|` is the same for all `i`, and the
  weights, some of which may be negative, sum to 1. They are :math:`M^+
  \sqrt{\operatorname{diag} M}`, normalised; the pseudo-inverse is taken at unit
  diagonal, so that short gradients keep their say. Where gradients are linearly
  dependent and no combination has equal projections, the least-squares one is
  returned, except where it is zero, or its weights sum to zero: then it is the
  combination of the gradients that vanishes, if the weights of that one sum to
  anything, else equal weights. Two opposite gradients get
  :math:`w_i \propto 1 / \|g_i\|`, which makes them cancel.

  For linearly independent gradients the weights are those of the matrix as it
  is given, to about one rounding each. What the rounding of the matrix itself
  does to them is beyond any solver: :math:`\epsilon / (1 + c)` for two
  gradients with cosine `c`, as an example.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 64 roundings of the
      solver's dtype (7.6e-6 in float32).

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights, which sum to 1 if any task takes
      part. NaN for the active tasks if `gram` has an entry between active tasks
      that is not finite.
    - A `Certificate`. With `x` the coefficients on the unit gradients,
      `residual` is the largest distance of a projection from their mean,
      relative to :math:`\sum_j |x_j|`; it is not small where no combination has
      equal projections. `iterations` is 0.

  Raises:
    ValueError: If a shape does not fit, or `tol` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import spectral
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> weights, _ = spectral.equal_projections(gradients @ gradients.T)
    >>> print(weights @ gradients)
    [0.8 0.8]

  References:
    Liu et al., `Towards Impartial Multi-Task Learning
    <https://openreview.net/forum?id=IMPnRXEWpvr>`_, ICLR 2021.
  """
  unit = _unit_gram.unit_gram(gram, active)
  tol = _unit_gram.tolerance(tol, 64.0)
  parts = _equal_projections.solve_equal_projections(gram, unit)
  # Only ratios of the lengths count; this way none of them overflows.
  powers = parts.binary.powers
  smallest = jnp.min(jnp.where(unit.present, powers, jnp.inf))
  largest = jnp.max(jnp.where(unit.present, powers, 0.0))
  shrink = jnp.where(unit.present, smallest / powers, 0.0)
  grow = jnp.where(unit.present, powers / largest, 0.0)

  def counts(terms):
    """Whether the sum of the weights is more than rounding."""
    floor = 4.0 * parts.eps * parts.count * jnp.sum(jnp.abs(terms))
    return jnp.abs(jnp.sum(terms)) > floor

  terms = Pair(parts.solution.high * shrink, parts.solution.low * shrink)
  rest = parts.rest / parts.binary.lengths.high * shrink
  solved = counts(terms.high)
  # The combination that vanishes, or equal weights, instead of the solution.
  instead = jnp.where(counts(rest), rest, unit.present.astype(rest.dtype))
  terms = Pair(
    jnp.where(solved, terms.high, instead), jnp.where(solved, terms.low, 0.0)
  )
  sum_terms = _compensated.total(terms)
  sum_terms = Pair(
    jnp.where(sum_terms.high != 0, sum_terms.high, 1.0), sum_terms.low
  )
  weights = _compensated.divide(terms, sum_terms).high
  weights = jnp.where(unit.present, weights, 0.0)
  answer = Pair(weights * grow, jnp.zeros_like(weights))
  residual = _equal_projections.spread(parts, unit.present, answer)
  return unit.poison(weights), unit.certify(residual, 0, tol)


def conflict_free_direction(
  gram: jax.Array,
  *,
  active: jax.Array | None = None,
  tol: float | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Coefficients of the unit vector with equal cosines to all gradients.

  ConFIG's direction :math:`\hat d \propto U^+ \mathbf 1`, with `U` the unit
  gradients: the same, non-negative cosine to each of them. Where gradients are
  linearly dependent and there is no such direction, it is the least-squares
  one; where that is zero, as for two opposite gradients, all coefficients are 0
  and `converged` is False. The coefficients are as exact as the weights of
  `equal_projections`.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their coefficient is 0.
    tol: Largest residual that counts as solved. Default: 64 roundings of the
      solver's dtype (7.6e-6 in float32).

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the coefficients `c`, with
      :math:`\|G^\top c\| = 1`. NaN for the active tasks if `gram` has an entry
      between active tasks that is not finite.
    - A `Certificate`, as of `equal_projections`.

  Raises:
    ValueError: If a shape does not fit, or `tol` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import spectral
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> coefficients, _ = spectral.conflict_free_direction(
    ...   gradients @ gradients.T
    ... )
    >>> print(coefficients @ gradients)
    [0.70710677 0.70710677]

  References:
    Liu, Chu and Thuerey, `ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks <https://arxiv.org/abs/2408.11104>`_, ICLR 2025.
  """
  unit = _unit_gram.unit_gram(gram, active)
  tol = _unit_gram.tolerance(tol, 64.0)
  parts = _equal_projections.solve_equal_projections(gram, unit)
  exists = parts.square > 0
  scale = jnp.where(
    exists, 1.0 / jnp.sqrt(jnp.where(exists, parts.square, 1.0)), 0.0
  )
  x = _compensated.scale(parts.solution, scale)
  answer = Pair(x, jnp.zeros_like(x))
  residual = _equal_projections.spread(parts, unit.present, answer)
  missing = jnp.any(unit.present) & ~exists
  residual = jnp.where(missing, 1.0, residual)
  return unit.poison(x / parts.binary.powers), unit.certify(residual, 0, tol)


def _decompose(
  gram: jax.Array, unit: _unit_gram.UnitGram, order: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The matrix in the given order, over its largest entry, and its eigenpairs.

  The eigenvalues ascend. Where the lengths of the gradients are far apart, but
  not their directions close, the singular values of Cholesky's factor have all
  their digits, and those are the roots of the eigenvalues; an eigensolver's
  errors are roundings of the largest one.
  """
  binary = _compensated.binary_gram(gram, unit)
  dtype = binary.gram.dtype
  eps = float(jnp.finfo(dtype).eps)
  present = unit.present[order]
  powers = jnp.where(present, binary.powers[order], 0.0)
  relative = powers / jnp.where(powers[0] > 0, powers[0], 1.0)
  scaled = binary.gram[order][:, order]
  matrix = scaled * relative[:, None] * relative[None, :]
  if len(order) <= _FEW:
    return matrix, *jnp.linalg.eigh(matrix)
  factor = lax.linalg.cholesky(scaled, symmetrize_input=False)
  # A pivot is the part of a gradient that is no combination of longer ones.
  pivot = jnp.min(jnp.diagonal(factor))
  independent = jnp.square(pivot) > 64.0 * eps * len(order)
  graded = jnp.min(jnp.where(present, relative, 1.0)) < 0.25

  def by_factor():
    vectors, roots, _ = jnp.linalg.svd(
      factor * relative[:, None], full_matrices=False
    )
    return jnp.square(roots[::-1]), vectors[:, ::-1]

  values, vectors = lax.cond(
    graded & independent, by_factor, lambda: tuple(jnp.linalg.eigh(matrix))
  )
  return matrix, values, vectors


def aligned_weights(
  gram: jax.Array,
  *,
  preference: jax.Array | None = None,
  scale: str = "min",
  active: jax.Array | None = None,
  tol: float | None = None,
) -> tuple[jax.Array, _certificate.Certificate]:
  r"""Weights that combine the gradients after equalising singular values.

  Aligned-MTL's: with :math:`M = V \Lambda V^\top`,
  :math:`w = \sqrt{\lambda_s}\, V \Lambda^{-1/2} V^\top p`. In place of the
  gradients, their nearest orthogonal frame of common length
  :math:`\sqrt{\lambda_s}` is combined. The decomposition is of `M` itself: the
  method is not meant to forget the lengths of single gradients.

  Args:
    gram: `[T, T]`, a real dtype. Gram matrix of the task gradients.
    preference: `[T]`, a real dtype, the weights `p` of the tasks. Default: one
      over the number of active tasks.
    scale: Which of the eigenvalues kept is :math:`\lambda_s`: `"min"`,
      `"median"` (the lower one of two) or `"rmse"` (their mean, so that
      :math:`\sqrt{\lambda_s}` is the root mean square of the singular values).
    active: `[T]` bool, or None for all. Other tasks take no part, nor does one
      whose gradient is zero: their weight is 0.
    tol: Largest residual that counts as solved. Default: 3000 roundings of the
      solver's dtype (3.6e-4 in float32).

  Returns:
    A pair of

    - `[T]`, `solver_dtype()`: the weights. NaN for the active tasks if `gram`
      has an entry between active tasks that is not finite.
    - A `Certificate`; `residual` is the largest entry of :math:`B M B -
      \lambda_s V V^\top` relative to :math:`\lambda_s`, where `w = B p`.
      Rounding puts it at about :math:`\epsilon \lambda_{\max} /
      \lambda_{\min}`, over the eigenvalues kept; much lower where only the
      lengths of the gradients are far apart. `iterations` is 0.

  Raises:
    ValueError: If `scale` is not one of the three, a shape does not fit, or
      `tol` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from optax_mtl.solvers import spectral
    >>> gradients = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> weights, _ = spectral.aligned_weights(gradients @ gradients.T)
    >>> print(weights @ gradients)
    [0.5 0.5]

  References:
    Senushkin et al., `Independent Component Alignment for Multi-Task Learning
    <https://arxiv.org/abs/2305.19000>`_, CVPR 2023.
  """
  if scale not in _SCALES:
    raise ValueError(f"scale must be one of {_SCALES}; got {scale!r}.")
  unit = _unit_gram.unit_gram(gram, active)
  dtype = unit.gram.dtype
  num_tasks = unit.gram.shape[0]
  tol = _unit_gram.tolerance(tol, 3000.0)
  if preference is None:
    preference = unit.active.astype(dtype)
    preference = preference / jnp.maximum(jnp.sum(preference), 1.0)
  preference = jnp.asarray(preference)
  if preference.shape != (num_tasks,):
    raise ValueError(
      f"preference must have shape ({num_tasks},), one entry per task; got "
      f"{preference.shape}."
    )
  preference = jnp.where(unit.present, preference.astype(dtype), 0.0)
  # By descending length: LAPACK then keeps the digits of small eigenvalues of
  # a matrix that is graded.
  order = jnp.argsort(
    jnp.where(unit.present, unit.norms, -1.0), descending=True
  )
  matrix, values, vectors = _decompose(gram, unit, order)
  spectrum = _equal_projections.with_rank(
    values, vectors, _equal_projections.number(unit)
  )
  preference = preference[order]
  kept = spectrum.kept
  rank = jnp.sum(kept.astype(jnp.int32))
  # Ascending, so that those kept are the last `rank` ones.
  if scale == "min":
    index = num_tasks - rank
    chosen = spectrum.values[jnp.minimum(index, num_tasks - 1)]
  elif scale == "median":
    index = num_tasks - rank + jnp.maximum(rank - 1, 0) // 2
    chosen = spectrum.values[jnp.minimum(index, num_tasks - 1)]
  else:
    total = jnp.sum(jnp.where(kept, spectrum.values, 0.0))
    chosen = total / jnp.maximum(rank, 1).astype(dtype)
  root = jnp.where(kept, jnp.sqrt(chosen / spectrum.values), 0.0)
  basis = spectrum.vectors
  balance = jnp.matmul(basis * root[None, :], basis.T, precision="highest")
  weights = jnp.matmul(balance, preference, precision="highest")
  weights = jnp.where(unit.present, weights[jnp.argsort(order)], 0.0)
  projector = jnp.matmul(
    basis * kept.astype(dtype)[None, :], basis.T, precision="highest"
  )
  aligned = jnp.matmul(
    jnp.matmul(balance, matrix, precision="highest"),
    balance,
    precision="highest",
  )
  residual = jnp.max(jnp.abs(aligned / chosen - projector))
  residual = jnp.where(rank > 0, residual, 0.0)
  return unit.poison(weights), unit.certify(residual, 0, tol)
