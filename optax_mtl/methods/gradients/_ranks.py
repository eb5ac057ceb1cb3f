"""Means of the middle of the tasks' gradients, entry by entry."""

from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl._dtypes import solver_dtype
from optax_mtl._step import Step
from optax_mtl.methods.gradients import _entries
from optax_mtl.methods.gradients._trunk import as_update, trunk_rows


def _ranked(rows: jax.Array, active: jax.Array) -> list[jax.Array]:
  """Of each task, how many others' entries come before its own, [*shape].

  By counting: T² / 2 comparisons, all in one fusion. Equal entries come in the
  tasks' order, and absent ones after all others.
  """
  num_tasks = rows.shape[0]
  ranks = [jnp.zeros_like(row, jnp.int32) for row in rows]
  for t in range(num_tasks):
    for s in range(t):
      first = (rows[s] <= rows[t]) & active[s]
      ranks[t] += first.astype(jnp.int32)
      ranks[s] += (~first & active[t]).astype(jnp.int32)
  return ranks


# Jitted so that leaves of one shape are traced and lowered once.
@jax.jit
def _middle(
  rows: jax.Array, active: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
  """The mean of the entries whose rank among active tasks is in [low, high)."""
  rows = rows.astype(solver_dtype())
  num_tasks = rows.shape[0]
  zeros = jnp.zeros_like(rows[0])

  def add(total: jax.Array, term: Any) -> jax.Array:
    there, row, rank = term
    # By selection: of what is left out some may be infinite.
    return total + jnp.where(
      there & (rank >= low) & (rank < high), row, jnp.zeros_like(row)
    )

  if num_tasks <= _entries.UNROLLED:
    ranks = _ranked(rows, active)
    total = zeros
    for t in range(num_tasks):
      total = add(total, (active[t], rows[t], ranks[t]))
  else:
    # Absent tasks come last, and are not reached: `high` is at most the number
    # of those that are there.
    there = active.reshape((-1,) + (1,) * (rows.ndim - 1))
    ordered = jnp.sort(jnp.where(there, rows, jnp.inf), axis=0)
    everyone = jnp.ones((num_tasks,), jnp.bool_)
    places = jnp.arange(num_tasks, dtype=jnp.int32)
    total = _entries.over_tasks(add, zeros, (everyone, ordered, places))

  def look(bad: jax.Array, term: Any) -> jax.Array:
    there, row = term
    return bad | (there & jnp.isnan(row))

  # A NaN has no rank: it is looked for, so that it is not left out in silence.
  lost = _entries.over_tasks(look, zeros != 0, (active, rows))
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
