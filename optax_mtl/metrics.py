"""Numbers that papers report: Δm, mean rank, conflicts between gradients.

Functions of arrays, for jit and vmap. Results are float32, or float64 under
x64.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl._dtypes import solver_dtype
from optax_mtl.sources.stacked import as_task_gradients

__all__ = [
  "alignment",
  "conflict_angles",
  "conflict_cosines",
  "conflict_rate",
  "delta_m",
  "gram_matrix",
  "mean_rank",
]


def _oriented(
  metrics: jax.typing.ArrayLike,
  higher_is_better: jax.typing.ArrayLike | Sequence[bool],
) -> tuple[jax.Array, jax.Array]:
  """The metrics, and a sign [K]: -1 where larger is better, else 1."""
  metrics = jnp.asarray(metrics, solver_dtype())
  upward = jnp.asarray(higher_is_better, bool)
  if metrics.ndim < 1 or upward.shape not in ((), metrics.shape[-1:]):
    raise ValueError(
      "higher_is_better must be one bool, or one for each of the K metrics"
      f" (the last axis of metrics); got shape {upward.shape} for metrics of"
      f" shape {metrics.shape}."
    )
  upward = jnp.broadcast_to(upward, metrics.shape[-1:])
  one = jnp.ones((), metrics.dtype)
  return metrics, jnp.where(upward, -one, one)


def delta_m(
  metrics: jax.typing.ArrayLike,
  baseline: jax.typing.ArrayLike,
  higher_is_better: jax.typing.ArrayLike | Sequence[bool],
) -> jax.Array:
  """Mean relative change against a baseline, in percent; lower is better.

  `Δm = 100/K Σ_m s_m (M_m - B_m) / B_m`, with `s_m = -1` if a higher `M_m` is
  better, else 1. So a positive `Δm` means worse than the baseline, usually the
  single-task networks, and -2 means two percent better on the average. Some
  papers report the negative of this.

  Args:
    metrics: Array [..., K], metrics M; a task may have several. Leading axes
      (methods, seeds) are kept.
    baseline: Array [K], their baselines B, positive. A zero gives inf or NaN.
    higher_is_better: Array [K] of bool, or one bool for all metrics.

  Returns:
    Array [...], percent.

  Raises:
    ValueError: The shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> metrics = jnp.array([0.9, 0.55])  # accuracy, error
    >>> round(float(delta_m(metrics, jnp.array([1.0, 0.5]), [True, False])), 3)
    10.0

  References:
    Maninis, Radosavovic, Kokkinos, Attentive single-tasking of multiple tasks,
    CVPR 2019.
  """
  metrics, sign = _oriented(metrics, higher_is_better)
  baseline = jnp.asarray(baseline, solver_dtype())
  if baseline.shape != metrics.shape[-1:]:
    raise ValueError(
      "baseline must have one value for each of the K metrics (the last axis"
      f" of metrics); got shape {baseline.shape} for metrics of shape"
      f" {metrics.shape}."
    )
  baseline, sign = (
    jnp.broadcast_to(array, metrics.shape) for array in (baseline, sign)
  )
  return 100 * jnp.mean(sign * (metrics - baseline) / baseline, axis=-1)


def mean_rank(
  metrics: jax.typing.ArrayLike,
  higher_is_better: jax.typing.ArrayLike | Sequence[bool],
) -> jax.Array:
  """Each method's rank among all methods, averaged over the metrics.

  `MR_a` is the mean over the metrics of 1 plus the number of methods that are
  better than `a`, plus half the number of others that are equal to it. Rank 1
  is the best; ties share their mean rank. A NaN is worse than any number.

  Args:
    metrics: Array [A, K], for A methods K metrics.
    higher_is_better: Array [K] of bool, or one bool for all metrics.

  Returns:
    Array [A], between 1 and A; lower is better.

  Raises:
    ValueError: The shapes do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> accuracy_and_error = jnp.array([[0.9, 0.2], [0.8, 0.1], [0.7, 0.3]])
    >>> mean_rank(accuracy_and_error, [True, False]).tolist()
    [1.5, 1.5, 3.0]
  """
  metrics, sign = _oriented(metrics, higher_is_better)
  if metrics.ndim != 2:
    raise ValueError(
      "metrics must be [methods, K], to rank the methods on each metric; got"
      f" shape {metrics.shape}. Average over seeds first, or use jax.vmap."
    )
  cost = metrics * jnp.broadcast_to(sign, metrics.shape)
  cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
  mine, other = jnp.broadcast_arrays(cost[:, None], cost[None])
  # A method ties with itself, which the constant takes back.
  better = jnp.sum(other < mine, axis=1, dtype=cost.dtype)
  equal = jnp.sum(other == mine, axis=1, dtype=cost.dtype)
  return jnp.mean(0.5 + better + 0.5 * equal, axis=1)


def gram_matrix(gradients: Any, shared: Any = None) -> jax.Array:
  """The inner products of the task gradients, as every method sees them.

  Args:
    gradients: A tree with leaves [T, *shape], or what a source returned.
    shared: Which leaves count: a pytree prefix of bools, or a callable from the
      params to one. None: the trunk that the source knows, or all leaves.

  Returns:
    Array [T, T].

  Raises:
    TypeError: A leaf is no array.
    ValueError: The leaves' first axes differ, or `shared` selects no leaf, or
      one outside the trunk.

  Example:
    >>> import jax.numpy as jnp
    >>> gradients = {"w": jnp.array([[1.0, 2.0], [0.0, -1.0]])}
    >>> gram_matrix(gradients).tolist()
    [[5.0, -2.0], [-2.0, 1.0]]
  """
  return as_task_gradients(gradients, None).gram(shared)


def _check_gram(gram: jax.typing.ArrayLike) -> jax.Array:
  gram = jnp.asarray(gram, solver_dtype())
  if gram.ndim < 2 or gram.shape[-1] != gram.shape[-2]:
    raise ValueError(
      "gram must be [..., T, T], the inner products of the task gradients; got"
      f" shape {gram.shape}."
    )
  return gram


def _check_active(
  active: jax.typing.ArrayLike | None, gram: jax.Array
) -> jax.Array:
  """Which tasks count, [..., T] of bool; all by default."""
  if active is None:
    active = jnp.ones(gram.shape[:-1], bool)
  active = jnp.asarray(active, bool)
  if active.shape not in (gram.shape[-1:], gram.shape[:-1]):
    raise ValueError(
      "active must have one bool for each of the T tasks, shape"
      f" {gram.shape[-1:]} or {gram.shape[:-1]}; got shape {active.shape}."
    )
  return jnp.broadcast_to(active, gram.shape[:-1])


def conflict_cosines(gram: jax.typing.ArrayLike) -> jax.Array:
  """Cosines between the task gradients, `M_ij / √(M_ii M_jj)`.

  Args:
    gram: Array [..., T, T], inner products of the task gradients.

  Returns:
    Array [..., T, T] in [-1, 1]; negative where two tasks conflict. The row and
    the column of a task with a zero gradient are 0.

  Raises:
    ValueError: `gram` is not square.

  Example:
    >>> import jax.numpy as jnp
    >>> conflict_cosines(jnp.array([[4.0, -1.0], [-1.0, 1.0]])).tolist()
    [[1.0, -0.5], [-0.5, 1.0]]
  """
  gram = _check_gram(gram)
  # The roots come first: the product of two squared norms could overflow.
  norms = jnp.sqrt(jnp.diagonal(gram, axis1=-2, axis2=-1))
  safe = jnp.where(norms > 0, norms, 1)
  rows, columns = jnp.broadcast_arrays(safe[..., None], safe[..., None, :])
  alive = norms > 0
  both = jnp.logical_and(
    *jnp.broadcast_arrays(alive[..., None], alive[..., None, :])
  )
  cosines = jnp.clip(gram / rows / columns, -1, 1)
  return jnp.where(both, cosines, 0)


def conflict_angles(gram: jax.typing.ArrayLike) -> jax.Array:
  """Angles between the task gradients, in radians.

  `φ_ij = arccos(M_ij / √(M_ii M_jj))`.

  Args:
    gram: Array [..., T, T], inner products of the task gradients.

  Returns:
    Array [..., T, T] in [0, π]; above π/2 where two tasks conflict, and π/2
    for a task with a zero gradient. Rounding shows below angles of about 5e-4
    in float32: the cosine is flat there.

  Raises:
    ValueError: `gram` is not square.

  Example:
    >>> import jax.numpy as jnp
    >>> angles = conflict_angles(jnp.array([[4.0, -1.0], [-1.0, 1.0]]))
    >>> round(float(jnp.degrees(angles[0, 1])), 3)
    120.0
  """
  return jnp.arccos(conflict_cosines(gram))


def conflict_rate(
  gram: jax.typing.ArrayLike, active: jax.typing.ArrayLike | None = None
) -> jax.Array:
  """Share of task pairs whose gradients have a negative inner product.

  Args:
    gram: Array [..., T, T], inner products of the task gradients. Leading axes
      (steps, seeds) are kept.
    active: Array [T] or [..., T] of bool, tasks that count; all by default.

  Returns:
    Array [...] in [0, 1]; 0 where there is no pair.

  Raises:
    ValueError: `gram` is not square, or `active` does not fit it.

  Example:
    >>> import jax.numpy as jnp
    >>> gram = jnp.array([[1., -1., 0.], [-1., 2., 1.], [0., 1., 1.]])
    >>> round(float(conflict_rate(gram)), 4)
    0.3333
  """
  gram = _check_gram(gram)
  active = _check_active(active, gram)
  rows, columns = jnp.broadcast_arrays(active[..., None], active[..., None, :])
  upper = jnp.broadcast_to(
    jnp.triu(jnp.ones(gram.shape[-2:], bool), 1), gram.shape
  )
  pairs = rows & columns & upper
  count = jnp.sum(pairs, axis=(-2, -1), dtype=gram.dtype)
  conflicts = jnp.sum(pairs & (gram < 0), axis=(-2, -1), dtype=gram.dtype)
  return conflicts / jnp.maximum(count, 1)


def alignment(
  gram: jax.typing.ArrayLike, active: jax.typing.ArrayLike | None = None
) -> jax.Array:
  """How far the task gradients point one way, whatever their lengths.

  `2 ‖mean ĝ_i‖² - 1`, with `ĝ_i` the gradients at length 1: 1 where all point
  one way, -1 where they cancel, and the cosine where there are two. A gradient
  of zero has no direction, and is left out.

  Args:
    gram: Array [..., T, T], inner products of the task gradients. Leading axes
      (steps, seeds) are kept.
    active: Array [T] or [..., T] of bool, tasks that count; all by default.

  Returns:
    Array [...] in [-1, 1]; -1 where there is no gradient.

  Raises:
    ValueError: `gram` is not square, or `active` does not fit it.

  Example:
    >>> import jax.numpy as jnp
    >>> round(float(alignment(jnp.array([[4.0, -1.0], [-1.0, 1.0]]))), 3)
    -0.5

  References:
    Wang et al., `Gradient Alignment in Physics-informed Neural Networks
    <https://arxiv.org/abs/2502.00604>`_, 2025.
  """
  gram = _check_gram(gram)
  diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1)
  alive = _check_active(active, gram) & (diagonal > 0)
  rows, columns = jnp.broadcast_arrays(alive[..., None], alive[..., None, :])
  cosines = jnp.where(rows & columns, conflict_cosines(gram), 0)
  count = jnp.sum(alive, axis=-1, dtype=gram.dtype)
  square = jnp.sum(cosines, axis=(-2, -1)) / jnp.square(jnp.maximum(count, 1))
  return jnp.clip(2 * square - 1, -1, 1)
