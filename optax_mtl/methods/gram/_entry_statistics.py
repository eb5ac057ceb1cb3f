"""Numbers of the entries of each task's gradient, and their ratios."""

from typing import Literal

import jax
import jax.numpy as jnp

from optax_mtl import linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._step import Step
from optax_mtl.linalg.cpu import real_parts

#: What of the entries is compared: numerator and denominator of a ratio.
Statistic = Literal["max_mean", "mean", "std", "kurtosis"]


def _size(part: jax.Array, unit: jax.Array) -> jax.Array:
  """The entries' sizes, in units of another."""
  return jnp.abs(part / unit)


def _ratio(part: jax.Array, unit: jax.Array) -> jax.Array:
  """The entries, in units of another size."""
  return part / unit


def _square(part: jax.Array, unit: jax.Array, center: jax.Array) -> jax.Array:
  """The squares of the distances from the center."""
  return jnp.square(part / unit - center)


def _fourth(part: jax.Array, unit: jax.Array, center: jax.Array) -> jax.Array:
  """The fourth powers of the distances from the center."""
  return jnp.square(_square(part, unit, center))


def _pair(
  leaves: list[jax.Array], statistic: Statistic
) -> tuple[jax.Array, jax.Array]:
  """What stands above and below in a ratio, of one gradient's entries.

  Computed on entries that are divided by the largest, so that no power of them
  over- or underflows.
  """
  dtype = solver_dtype()
  parts = [part.astype(dtype) for leaf in leaves for part in real_parts(leaf)]
  count = max(sum(part.size for part in parts), 1)
  largest = linalg.largest(parts)
  unit = jnp.where(largest == 0, jnp.ones_like(largest), largest)
  if statistic in ("max_mean", "mean"):
    mean = unit * linalg.total(_size, parts, numbers=[unit]) / count
    return (largest if statistic == "max_mean" else mean), mean
  # The authors' codes divide by n - 1 in the variance. The tasks have the same
  # number of entries, so that their ratios are the same.
  center = linalg.total(_ratio, parts, numbers=[unit]) / count
  variance = linalg.total(_square, parts, numbers=[unit, center]) / count
  value = unit * jnp.sqrt(variance)
  if statistic == "kurtosis":
    fourth = linalg.total(_fourth, parts, numbers=[unit, center]) / count
    # `std / kurtosis`; of entries that are all the same, `0 / 0`, it is 0.
    safe = jnp.where(fourth == 0, jnp.ones_like(fourth), fourth)
    value = value * jnp.square(variance) / safe
  return value, value


def entry_statistics(
  step: Step, statistic: Statistic
) -> tuple[jax.Array, jax.Array]:
  """What stands above and below in a ratio of the tasks' gradients.

  Over the entries of all leaves of the trunk together: "max_mean", the largest
  absolute value above and their mean below; "mean", the mean above and below;
  "std", the standard deviation; "kurtosis", that divided by the kurtosis.

  Args:
    step: The step.
    statistic: Which.

  Returns:
    Two arrays [T] in the solver's dtype, 0 for absent tasks.
  """
  return step.map_gradients(lambda leaves: _pair(leaves, statistic))


def positive_ratio(
  above: jax.Array, below: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The ratios, and which tasks have one: positive and finite.

  A gradient of zeros has none. Nothing is divided by zero on the way, so that a
  search for the first NaN (`jax_debug_nans`) does not stop here.

  Args:
    above: Scalar, or array [T].
    below: Array [T].

  Returns:
    The ratios, array [T], and the tasks that have one, array [T] of bool.
  """
  known = below > 0
  ratio = above / jnp.where(known, below, jnp.ones_like(below))
  return ratio, known & jnp.isfinite(ratio) & (ratio > 0)
