"""Steps that are not finite are left out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks, _state_checks
from optax_mtl.wrappers._wrapped import (
  Wrapped,
  update_around,
  within_translators,
  wrapped,
)


class SkipNonfiniteState(NamedTuple):
  """State of `skip_nonfinite`.

  Attributes:
    skipped_in_a_row: Scalar int32.
    skipped_total: Scalar int32.
    inner_state: The state of what is wrapped.
  """

  skipped_in_a_row: jax.Array
  skipped_total: jax.Array
  inner_state: Any


def skip_nonfinite(
  inner: optax.GradientTransformation, max_consecutive: ArrayLike = 5
) -> Wrapped:
  """Leaves out updates that are not finite, and keeps the state from them.

  What `optax.apply_if_finite` is for one gradient. A step is skipped if the
  update holds a NaN or inf, or the new state of `inner` does where the old one
  did not: the update is zero then, and the state stays. After `max_consecutive`
  skipped steps in a row the next one goes through as it is, so that a run that
  broke for good shows it. To go on with the tasks that are finite instead, see
  `optax_mtl.drop_nonfinite`.

  Args:
    inner: A method, or a chain that begins with one.
    max_consecutive: How many steps in a row may be skipped. Default 5.

  Returns:
    A transformation with the update arguments of `inner`.

  Raises:
    ValueError: `max_consecutive` is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.skip_nonfinite(optax_mtl.mgda(num_tasks=2))
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [jnp.nan, 2.0]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates, state.skipped_total)
    [0. 0.] 1
  """
  _checks.check_whole("max_consecutive", max_consecutive, 0)
  if isinstance(inner, Wrapped) and inner.translates:
    return within_translators(
      lambda tx: skip_nonfinite(tx, max_consecutive), inner
    )
  _checks.check_transformation("inner", inner)
  inner_tx = optax.with_extra_args_support(inner)

  def init(params: Any) -> SkipNonfiniteState:
    return SkipNonfiniteState(
      skipped_in_a_row=jnp.zeros((), jnp.int32),
      skipped_total=jnp.zeros((), jnp.int32),
      inner_state=inner_tx.init(params),
    )

  def update(
    updates: Any,
    state: SkipNonfiniteState,
    params: Any = None,
    **extra_args: Any,
  ) -> tuple[Any, SkipNonfiniteState]:
    _state_checks.check_kind("skip_nonfinite", state, SkipNonfiniteState)
    new, inner_state = update_around(
      "skip_nonfinite", inner_tx, updates, state.inner_state, params, extra_args
    )
    fine = _stays_finite(new) & _stays_finite(inner_state, state.inner_state)
    goes = fine | (state.skipped_in_a_row >= max_consecutive)

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
      return jnp.where(goes, a, b)

    skipped = (~goes).astype(jnp.int32)
    return jax.tree.map(lambda u: pick(u, jnp.zeros_like(u)), new), (
      SkipNonfiniteState(
        skipped_in_a_row=jnp.where(goes, 0, state.skipped_in_a_row + 1),
        skipped_total=state.skipped_total + skipped,
        inner_state=jax.tree.map(pick, inner_state, state.inner_state),
      )
    )

  return wrapped(
    init, update, inner, lambda other: skip_nonfinite(other, max_consecutive)
  )


def _stays_finite(new: Any, old: Any | None = None) -> jax.Array:
  """Whether everything in `new` is finite that was so before, a scalar bool.

  A transformation may keep inf in its state until it knows a value, as
  `optax.contrib.reduce_on_plateau` does.

  Args:
    new: Tree of arrays.
    old: Tree of arrays of the same shapes. None: all was finite.
  """
  fine = jnp.ones((), jnp.bool_)
  before = jax.tree.leaves(new if old is None else old)
  for leaf, last in zip(jax.tree.leaves(new), before, strict=True):
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
      continue
    stays = jnp.isfinite(leaf)
    if old is not None:
      stays |= ~jnp.isfinite(last)
    fine &= jnp.all(stays)
  return fine
