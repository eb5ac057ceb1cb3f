"""Fixed weights, the baseline of every survey."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype


class FixedWeightingState(NamedTuple):
  """State of `fixed_weighting`.

  Attributes:
    weights: Array [T], the weights of the last update.
  """

  weights: jax.Array


@_base.method(
  paper="Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A "
  "Survey, TPAMI 2021",
  url="https://arxiv.org/abs/2004.13379",
  family="fixed",
  weights_sum="as given",
  example=lambda tasks: {"weights": [1.0 + task for task in tasks]},
  claims=["scale_equivariant"],
)
def fixed_weighting(
  num_tasks: int,
  weights: Any,
  *,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Weights chosen by hand: `d = Σ w_i g_i`.

  The weights are used as given, and not normalised. Set them so that the
  weighted losses have about the same magnitude, or search a grid; `vmap` over
  `optax.inject_hyperparams(fixed_weighting, static_args="num_tasks")` trains
  the whole grid at once.

  Args:
    num_tasks: The number of tasks `T`.
    weights: Array or sequence [T], or a dict by task name (sorted), of numbers.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: What the other leaves get: "sum", each task's own gradient, or
      "weighted", the same weights as the trunk.
    on_nonfinite: "propagate" a NaN or inf, or "drop" the task for this step,
      judged by what `update` gets: see `value_and_task_grads` on NaN.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `weights` does not hold T numbers.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.fixed_weighting(num_tasks=2, weights=[1.0, 0.1])
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [2.0, 5.0]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates)
    [1.2 0.5]

  References:
    Vandenhende et al., `Multi-Task Learning for Dense Prediction Tasks: A
    Survey <https://arxiv.org/abs/2004.13379>`_, TPAMI 2021.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  given = _checks.task_vector(weights, num_tasks, "weights")

  def init():
    return FixedWeightingState(given.astype(solver_dtype()))

  def weigh(step, state):
    del state
    return FixedWeightingState(
      jnp.where(step.active, given, jnp.zeros_like(given))
    )

  return _base.weighted_combination(
    "fixed_weighting",
    num_tasks,
    init,
    weigh,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
