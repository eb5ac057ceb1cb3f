"""Fixed weights, the baseline of every survey."""

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step


@method(
  paper="Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A "
  "Survey, TPAMI 2021",
  url="https://arxiv.org/abs/2004.13379",
  weights_sum="as given",
  example=lambda tasks: {"weights": [1.0 + task for task in tasks]},
  claims=["scale_equivariant"],
)
def fixed_weighting(
  num_tasks: int, weights: _checks.TaskValues
) -> WeightRule[tuple[()]]:
  """Weights chosen by hand: `d = Σ w_i g_i`.

  The weights are used as given, and not normalised. Set them so that the
  weighted losses have about the same magnitude, or search a grid; `vmap` over
  `optax.inject_hyperparams(fixed_weighting, static_args="num_tasks")` trains
  the whole grid at once.

  Args:
    num_tasks: The number of tasks `T`.
    weights: Array or sequence [T] of numbers, in the order of the rows; or a
      dict by the tasks' names, which are then compared with those of `losses=`.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `weights` does not hold T numbers, or other tasks' names.

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
  given = _checks.task_argument(weights, num_tasks, "weights")
  return from_step(lambda step: step.only_active(step.given(given)))
