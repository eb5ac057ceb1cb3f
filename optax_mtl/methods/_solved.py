"""What the methods that solve a problem on the Gram matrix have in common."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _base
from optax_mtl._dtypes import solver_dtype
from optax_mtl.solvers._certificate import Certificate, initial_certificate
from optax_mtl.solvers.combined import combined_norm


class SolvedWeightsState(NamedTuple):
  """State of a method that solves a problem in every step.

  Attributes:
    weights: Array [T], the weights of the last update.
    certificate: How exactly the last update solved its problem.
  """

  weights: jax.Array
  certificate: Certificate


def solved_weights(
  name: str,
  num_tasks: int,
  solve: Callable[[_base.Step], tuple[jax.Array, Certificate]],
  *,
  needs: Sequence[str] | None = None,
  **common: Any,
) -> optax.GradientTransformationExtraArgs:
  """The transformation whose weights are `solve(step)`, with no memory.

  Args:
    name: The method's registered name.
    num_tasks: The number of tasks `T`.
    solve: Function from the step to the weights [T] and a certificate.
    needs: As in `weighted_combination`.
    **common: `shared`, `heads` and `on_nonfinite`, as in
      `weighted_combination`.

  Returns:
    The transformation.
  """

  def init():
    equal = jnp.full((num_tasks,), 1 / num_tasks, solver_dtype())
    return SolvedWeightsState(equal, initial_certificate())

  def weigh(step, state):
    del state
    weights, certificate = solve(step)
    return SolvedWeightsState(weights.astype(solver_dtype()), certificate)

  return _base.weighted_combination(
    name, num_tasks, init, weigh, needs=needs, **common
  )


def task_shares(preference: Any, step: _base.Step) -> jax.Array:
  """What each task counts: the preference, or 1/T over the active tasks."""
  if preference is None:
    return step.active.astype(solver_dtype()) / step.num_active
  return step.only_active(preference)


def limit_norm(gram: jax.Array, weights: jax.Array, max_norm: Any) -> jax.Array:
  """Weights scaled down so that the update's norm is at most `max_norm`."""
  if max_norm is None:
    return weights
  norm = combined_norm(gram, weights)
  limit = jnp.asarray(max_norm, norm.dtype)
  # Written so that a NaN norm leaves NaN weights, and shows.
  return jnp.where(norm <= limit, weights, weights * (limit / norm))
