"""Equal weighting: the plain sum of the losses."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype


class EqualWeightingState(NamedTuple):
  """State of `equal_weighting`.

  Attributes:
    weights: Array [T], the weights of the last update.
  """

  weights: jax.Array


@_base.method(
  paper="The sum of the losses, the baseline of every paper",
  url="https://arxiv.org/abs/2004.13379",
  family="fixed",
  weights_sum="T (sum) or 1 (mean)",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def equal_weighting(
  num_tasks: int,
  *,
  reduction: str = "sum",
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Every task's gradient counts the same: the gradient of the summed loss.

  The weights sum to the number of active tasks T with "sum", to 1 with "mean".

  Args:
    num_tasks: The number of tasks `T`.
    reduction: "sum" (default: what a summed loss gives) or "mean".
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
    ValueError: `reduction` or another choice is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.equal_weighting(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [2.0, 5.0]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates)
    [3. 5.]
  """
  _checks.check_choice("reduction", reduction, ("sum", "mean"))

  def init():
    return EqualWeightingState(jnp.ones((num_tasks,), solver_dtype()))

  def weigh(step, state):
    del state
    weights = step.active.astype(solver_dtype())
    if reduction == "mean":
      weights = weights / step.num_active
    return EqualWeightingState(weights)

  return _base.weighted_combination(
    "equal_weighting",
    num_tasks,
    init,
    weigh,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
