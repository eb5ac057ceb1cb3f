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


def _total(parts: list[jax.Array]) -> jax.Array:
  """The sum of all entries, a scalar."""
  return sum((jnp.sum(part) for part in parts), jnp.zeros((), solver_dtype()))


def _pair(
  leaves: list[jax.Array], statistic: Statistic
) -> tuple[jax.Array, jax.Array]:
  """What stands above and below in a ratio, of one gradient's entries.

  Computed on entries that are divided by the largest, so that no power of them
  over- or underflows.
  """
  dtype = solver_dtype()
  parts = linalg.stack_alike(
    [part.astype(dtype) for leaf in leaves for part in real_parts(leaf)]
  )
  zero = jnp.zeros((), dtype)
  count = max(sum(part.size for part in parts), 1)
  largest = jnp.max(
    jnp.stack([zero, *(jnp.max(jnp.abs(p), initial=0) for p in parts)])
  )
  unit = jnp.where(largest == 0, jnp.ones_like(largest), largest)
  parts = [part / unit for part in parts]
  if statistic in ("max_mean", "mean"):
    mean = unit * _total([jnp.abs(part) for part in parts]) / count
    return (largest if statistic == "max_mean" else mean), mean
  # The authors' codes divide by n - 1 in the variance. The tasks have the same
  # number of entries, so that their ratios are the same.
  center = _total(parts) / count
  squares = [jnp.square(part - center) for part in parts]
  variance = _total(squares) / count
  value = unit * jnp.sqrt(variance)
  if statistic == "kurtosis":
    fourth = _total([jnp.square(square) for square in squares]) / count
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
