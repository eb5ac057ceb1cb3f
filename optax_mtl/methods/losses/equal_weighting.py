"""Equal weighting: the plain sum of the losses."""

from typing import Literal

import jax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step


@method(
  paper="The sum of the losses, the baseline of every paper",
  url="https://arxiv.org/abs/2004.13379",
  weights_sum="T (sum) or 1 (mean)",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def equal_weighting(
  num_tasks: int, *, reduction: Literal["sum", "mean"] = "sum"
) -> WeightRule[tuple[()]]:
  """Every task's gradient counts the same: the gradient of the summed loss.

  The weights sum to the number of active tasks T with "sum", to 1 with "mean".

  Args:
    num_tasks: The number of tasks `T`.
    reduction: "sum" (default: what a summed loss gives) or "mean".

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

  @from_step
  def rule(step: Step) -> jax.Array:
    weights = step.active.astype(solver_dtype())
    return weights / step.num_active if reduction == "mean" else weights

  return rule
