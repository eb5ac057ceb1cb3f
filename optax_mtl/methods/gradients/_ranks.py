"""Means of the middle of the tasks' gradients, entry by entry."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._step import Step
from optax_mtl.methods.gradients import _entries
from optax_mtl.methods.gradients._trunk import as_update, trunk_rows


def _comparators(number: int) -> Iterator[tuple[int, int]]:
  """The pairs that Batcher's odd-even merge sort compares, in order."""
  merged = 1
  while merged < number:
    apart = merged
    while apart:
      for start in range(apart % merged, number - apart, 2 * apart):
        for low in range(start, min(start + apart, number - apart)):
          if low // (2 * merged) == (low + apart) // (2 * merged):
            yield low, low + apart
      apart //= 2
    merged *= 2


def _ordered(rows: jax.Array) -> list[jax.Array]:
  """The rows, sorted entry by entry.

  By a network of minima and maxima, which are elementwise: a sort of 10 rows
  takes a hundred times as long on a CPU.
  """
  if rows.shape[0] > _entries.UNROLLED:
    return list(jnp.sort(rows, axis=0))
  ordered = list(rows)
  for low, high in _comparators(len(ordered)):
    one, other = ordered[low], ordered[high]
    ordered[low], ordered[high] = (
      jnp.minimum(one, other),
      jnp.maximum(one, other),
    )
  return ordered


# Jitted so that leaves of one shape are traced and lowered once.
@jax.jit
def _middle(
  rows: jax.Array, active: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
  """The mean of the active tasks' entries, of places [low, high) in order."""
  rows = rows.astype(solver_dtype())
  # Absent tasks come last, and are not reached: `high` is at most the number of
  # those that are there.
  filled = jnp.where(linalg.beside(active, rows), rows, jnp.inf)
  total = jnp.zeros_like(rows[0])
  for place, row in enumerate(_ordered(filled)):
    # By selection: of what is left out some may be infinite.
    middle = (low <= place) & (place < high)
    total = total + jnp.where(middle, row, jnp.zeros_like(row))
  # A NaN has no place: it is looked for, so that it is not left out in silence.
  # (It cannot be absent, where rows are zero.)
  lost = _entries.over_tasks(
    lambda bad, row: bad | jnp.isnan(row), jnp.zeros_like(total, bool), rows
  )
  count = jnp.maximum(high - low, 1).astype(total.dtype)
  return jnp.where(lost, jnp.nan, total / count)


def middle_mean(step: Step, trim: jax.Array | None) -> Any:
  """The mean of the gradients' middle entries, in each entry of the trunk.

  Args:
    step: The step.
    trim: Scalar int32, how many of the largest and how many of the smallest
      entries of active tasks are left out; at most as many as leave the median.
      None: just as many.

  Returns:
    A tree like the params.
  """
  count = jnp.sum(step.active, dtype=jnp.int32)
  low = jnp.maximum(count - 1, 0) // 2
  if trim is not None:
    low = jnp.minimum(low, trim)
  leaves = trunk_rows(step)
  parts = [
    _middle(part, step.active, low, count - low)
    for part in _entries.split(leaves)
  ]
  return as_update(step, _entries.joined(parts, leaves))
