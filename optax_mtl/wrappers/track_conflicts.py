"""How far the task gradients conflict, recorded in the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _checks, metrics
from optax_mtl._dtypes import solver_dtype
from optax_mtl.sources.stacked import as_task_gradients
from optax_mtl.wrappers._wrapped import (
  Wrapped,
  update_around,
  within_translators,
  wrapped,
)


class TrackConflictsState(NamedTuple):
  """State of `track_conflicts`.

  Attributes:
    cosines: Array [T, T], the cosines between the task gradients; 0 for a task
      that is absent or not finite.
    conflict_rate: Scalar, the share of pairs of the other tasks whose inner
      product is negative.
    inner_state: The state of what is wrapped.
  """

  cosines: jax.Array
  conflict_rate: jax.Array
  inner_state: Any


def track_conflicts(
  inner: optax.GradientTransformation, num_tasks: int
) -> Wrapped:
  """Records how far the task gradients of the last step conflicted.

  Read the figures with `optax.tree.get(opt_state, "conflict_rate")`. They cost
  a Gram matrix over the leaves that the method sees: little beside stacked
  gradients, but T more backward passes with the implicit source.

  Args:
    inner: A method, or a chain that begins with one.
    num_tasks: The number of tasks `T`.

  Returns:
    A transformation with the update arguments of `inner`.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> method = optax_mtl.equal_weighting(num_tasks=2)
    >>> tx = optax_mtl.track_conflicts(method, num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(state.conflict_rate)
    1.0
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  if isinstance(inner, Wrapped) and inner.translates:
    return within_translators(lambda tx: track_conflicts(tx, num_tasks), inner)
  _checks.check_transformation("inner", inner)
  inner_tx = optax.with_extra_args_support(inner)

  def init(params: Any) -> TrackConflictsState:
    dtype = solver_dtype()
    return TrackConflictsState(
      cosines=jnp.eye(num_tasks, dtype=dtype),
      conflict_rate=jnp.zeros((), dtype),
      inner_state=inner_tx.init(params),
    )

  def update(
    updates: Any,
    state: TrackConflictsState,
    params: Any = None,
    **extra_args: Any,
  ) -> tuple[Any, TrackConflictsState]:
    gradients = as_task_gradients(updates, num_tasks, params)
    gram = gradients.gram()
    # A task that is not finite conflicts with none: its NaN would have
    # `skip_nonfinite` leave out a step that `drop_nonfinite` has mended.
    counts = jnp.isfinite(jnp.diagonal(gram))
    active = gradients.taking_part(extra_args.get("active"))
    if active is not None:
      counts &= active
    gram = jnp.where(
      counts[:, None] & counts[None, :], gram, jnp.zeros_like(gram)
    )
    new, inner_state = update_around(
      "track_conflicts",
      inner_tx,
      updates,
      state.inner_state,
      params,
      extra_args,
    )
    return new, TrackConflictsState(
      metrics.conflict_cosines(gram),
      metrics.conflict_rate(gram, counts),
      inner_state,
    )

  return wrapped(
    init, update, inner, lambda other: track_conflicts(other, num_tasks)
  )
