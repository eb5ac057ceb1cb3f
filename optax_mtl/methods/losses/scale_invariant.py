"""The sum of the losses' logarithms."""

import jax
import jax.numpy as jnp

from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step
from optax_mtl.methods.losses._positive import positive_losses


@method(
  paper="Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, "
  "where it is a baseline",
  url="https://arxiv.org/abs/2202.01017",
  weights_sum="free",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def scale_invariant(num_tasks: int) -> WeightRule[tuple[()]]:
  """Scale-invariant loss: descends the sum of the losses' logarithms.

  `w_i = 1 / L_i`, so that no loss's scale matters. The weights' sum is free. It
  is `log_losses(equal_weighting(T))`, which does the same for any method.

  The losses have to be positive. A negative one is an error where it is known.
  A loss of zero, whose weight would be infinite, or one that is not finite, has
  weight 0; under `jit` so does a negative one. The sum is unbounded below where
  one loss can reach zero by itself, as the conditions of a differential
  equation can: its weight grows, and the others stand still beside it. Give
  such losses a floor, `L_i + c`, which bounds the weight by `1 / c`.

  Args:
    num_tasks: The number of tasks `T`.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: A loss is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.scale_invariant(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads, losses = jnp.eye(2), jnp.array([2.0, 4.0])
    >>> updates, state = tx.update(grads, state, losses=losses)
    >>> print(updates)
    [0.5  0.25]

  References:
    Navon et al., `Multi-Task Learning as a Bargaining Game
    <https://arxiv.org/abs/2202.01017>`_, ICML 2022.
  """
  del num_tasks

  @from_step
  def rule(step: Step) -> jax.Array:
    why = "since scale_invariant takes their logarithms"
    losses, counts = positive_losses(step, why)
    return jnp.where(counts, 1 / losses, jnp.zeros_like(losses))

  return rule
