"""Fixed weights, the baseline of every survey."""

import jax

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step


@method(
  paper="Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A "
  "Survey, TPAMI 2021",
  url="https://arxiv.org/abs/2004.13379",
  weights_sum="as given",
  example=lambda tasks: {"weights": [1.0 + task for task in tasks]},
  claims=["scale_equivariant"],
)
def fixed_weighting(
  num_tasks: int, weights: _checks.TaskValues | None = None
) -> WeightRule[tuple[()]]:
  """Weights of your own, fixed or given with each update: `d = Σ w_i g_i`.

  The weights are used as given, and not normalised. Set them so that the
  weighted losses have about the same magnitude, or search a grid; `vmap` over
  `optax.inject_hyperparams(fixed_weighting, static_args="num_tasks")` trains
  the whole grid at once. There the weights are an array or a list; optax takes
  a dict for a constant.

  Weights that change come with the update, as `weights=`: those of a schedule,
  `table[step]`, or of a rule of your own. They take the place of the argument's
  in that update.

  Args:
    num_tasks: The number of tasks `T`.
    weights: Array or sequence [T] of numbers, in the order of the rows; or a
      dict by the tasks' names, which are then compared with those of `losses=`.
      None: they come with each update.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `weights` [T], in the same forms, and `active`,
    an optional array [T] of bool.

  Raises:
    TypeError: There are no weights, neither here nor with the update.
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
    >>> updates, state = tx.update(grads, state, weights=jnp.array([0.0, 1.0]))
    >>> print(updates)
    [2. 5.]

  References:
    Vandenhende et al., `Multi-Task Learning for Dense Prediction Tasks: A
    Survey <https://arxiv.org/abs/2004.13379>`_, TPAMI 2021.
  """
  given = None
  if weights is not None:
    given = _checks.task_argument(weights, num_tasks, "weights")

  @from_step
  def rule(step: Step) -> jax.Array:
    if given is None or step.has("weights"):
      return step.weights
    return step.only_active(step.given(given))

  return rule
