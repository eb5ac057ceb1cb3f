"""What is read off the eigendecomposition of the Gram matrix.

IMTL-G's and ConFIG's equal projections, and Aligned-MTL's balancing of the
singular values. Gradients may be linearly dependent: everything is a
pseudo-inverse, with eigenvalues below `T * eps` of the largest taken for zero,
`T` being the number of tasks that take part.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl.solvers import _certificate, _unit_gram

_SCALES = ("min", "median", "rmse")


class _Spectrum(NamedTuple):
  """Eigenpairs in ascending order, and which of them count."""

  values: jax.Array  # [T], 1 where not kept
  vectors: jax.Array  # [T, T], one eigenvector per column
  kept: jax.Array  # [T] bool


class _EqualProjections(NamedTuple):
  """The least-norm, least-squares solution of `M x = 1` at unit diagonal."""

  gram: jax.Array  # [T, T], zeros for absent tasks
  solution: jax.Array  # [T], x
  square: jax.Array  # scalar, x M x
  rest: jax.Array  # [T], the part of the ones vector that M sends to zero
  count: jax.Array  # scalar, how many tasks take part
  eps: float


def _among(unit: _unit_gram.UnitGram, matrix: jax.Array) -> jax.Array:
  """Zeros the rows and columns of absent tasks, so that they have rank 0."""
  both = unit.present[:, None] & unit.present[None, :]
  return jnp.where(both, matrix, 0.0)


def _count(unit: _unit_gram.UnitGram) -> jax.Array:
  """Number of tasks that take part, at least 1."""
  count = jnp.sum(unit.present.astype(unit.gram.dtype))
  return jnp.maximum(count, 1.0)


def _spectrum(matrix: jax.Array, count: jax.Array) -> _Spectrum:
  """Eigendecomposition with the rank decided."""
  values, vectors = jnp.linalg.eigh(matrix)
  eps = float(jnp.finfo(matrix.dtype).eps)
  kept = values > values[-1] * count * eps
  return _Spectrum(jnp.where(kept, values, 1.0), vectors, kept)


def _equal_projections(unit: _unit_gram.UnitGram) -> _EqualProjections:
  """Solves `M x = 1` on the range of the unit-diagonal Gram matrix."""
  gram = _among(unit, unit.gram)
  count = _count(unit)
  eps = float(jnp.finfo(gram.dtype).eps)
  spectrum = _spectrum(gram, count)
  ones = unit.present.astype(gram.dtype)

  def components(vector):
    found = jnp.matmul(vector, spectrum.vectors, precision="highest")
    return jnp.where(spectrum.kept, found, 0.0)

  def combine(coefficients):
    return jnp.matmul(spectrum.vectors, coefficients, precision="highest")

  # What rounding leaves of a component that is zero must not be normalised to
  # one: two opposite gradients have no projection in common but zero.
  target = components(ones)
  target = jnp.where(
    jnp.abs(target) > 4.0 * eps * count * jnp.sqrt(count), target, 0.0
  )
  scaled = target / spectrum.values
  solution = combine(scaled)
  # One step of refinement, within the directions that carry a component.
  error = components(
    combine(target) - jnp.matmul(gram, solution, precision="highest")
  )
  error = jnp.where(target == 0, 0.0, error) / spectrum.values
  solution = jnp.where(unit.present, solution + combine(error), 0.0)
  square = jnp.sum(target * scaled)
  rest = jnp.where(unit.present, ones - combine(target), 0.0)
  return _EqualProjections(gram, solution, square, rest, count, eps)


def _spread(parts: _EqualProjections, present, coefficients) -> jax.Array:
  """How far the projections are from equal, relative to all their terms."""
  projections = jnp.matmul(parts.gram, coefficients, precision="highest")
  middle = jnp.sum(projections) / parts.count
  spread = jnp.max(jnp.where(present, jnp.abs(projections - middle), 0.0))
  size = jnp.sum(jnp.abs(coefficients))
  return spread / jnp.where(size > 0, size, 1.0)


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
  parts = _equal_projections(unit)
  # Only ratios of the lengths count; this way none of them overflows.
  shortest = jnp.min(jnp.where(unit.present, unit.norms, jnp.inf))
  shrink = jnp.where(unit.present, shortest / unit.norms, 0.0)

  def total(x):
    """The sum of the weights, 0 where it is nothing but rounding."""
    terms = x * shrink
    found = jnp.sum(terms)
    floor = 4.0 * parts.eps * parts.count * jnp.sum(jnp.abs(terms))
    return jnp.where(jnp.abs(found) > floor, found, 0.0)

  equal = jnp.where(unit.present, unit.norms / shortest, 0.0)
  equal = equal / jnp.maximum(jnp.max(equal), 1.0)
  sum_solution, sum_rest = total(parts.solution), total(parts.rest)
  chosen = jnp.where(
    sum_solution != 0,
    parts.solution,
    jnp.where(sum_rest != 0, parts.rest, equal),
  )
  # The largest coefficient is brought to 1 first, so that neither the weights
  # nor the residual depend on the scale at hand.
  largest = jnp.max(jnp.abs(chosen))
  chosen = chosen / jnp.where(largest > 0, largest, 1.0)
  weights = chosen * shrink
  sum_weights = jnp.sum(weights)
  weights = weights / jnp.where(sum_weights != 0, sum_weights, 1.0)
  residual = _spread(parts, unit.present, chosen)
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
  and `converged` is False.

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
  parts = _equal_projections(unit)
  exists = parts.square > 0
  scale = jnp.where(
    exists, 1.0 / jnp.sqrt(jnp.where(exists, parts.square, 1.0)), 0.0
  )
  x = parts.solution * scale
  residual = _spread(parts, unit.present, x)
  missing = jnp.any(unit.present) & ~exists
  residual = jnp.where(missing, 1.0, residual)
  return unit.poison(x / unit.norms), unit.certify(residual, 0, tol)


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
      \lambda_{\min}`, over the eigenvalues kept. `iterations` is 0.

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
  relative = jnp.where(unit.present, unit.norms, 0.0)
  longest = jnp.max(relative)
  relative = relative / jnp.where(longest > 0, longest, 1.0)
  matrix = _among(unit, unit.gram) * relative[:, None] * relative[None, :]
  spectrum = _spectrum(matrix, _count(unit))
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
  weights = jnp.where(unit.present, weights, 0.0)
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
