"""The geometric mean of the losses."""

import jax
import jax.numpy as jnp

from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step
from optax_mtl.methods.losses._positive import count, positive_losses


@method(
  paper="Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and "
  "Geometric Loss Strategy for Multi-Task Learning, CVPR Workshops 2019",
  url="https://arxiv.org/abs/1904.08492",
  weights_sum="free",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def gls(num_tasks: int) -> WeightRule[tuple[()]]:
  """The geometric loss strategy: descends the geometric mean of the losses.

  `w_i = (Π L)^(1/T) / (T L_i)`. The weights' sum is free; multiplying a loss by
  a number changes the update's length alone. They come from logarithms: the
  product itself leaves float32's range for many tasks.

  The losses have to be positive. A negative one is an error where it is known.
  A loss of zero, whose weight would be infinite, or one that is not finite, has
  weight 0 and leaves the mean to the others; under `jit` so does a negative
  one. Where a loss nears zero by itself, as a hinge or the conditions of a
  differential equation can, its weight grows without bound and the others'
  vanish: give such losses a floor, `L_i + c`.

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
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.gls(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads, losses = jnp.eye(2), jnp.array([1.0, 4.0])
    >>> updates, state = tx.update(grads, state, losses=losses)
    >>> print(np.asarray(updates).round(3))
    [1.   0.25]

  References:
    Chennupati et al., `MultiNet++ <https://arxiv.org/abs/1904.08492>`_, CVPR
    Workshops 2019.
  """
  del num_tasks

  @from_step
  def rule(step: Step) -> jax.Array:
    losses, counts = positive_losses(step, "since gls takes their roots")
    number = count(counts, losses.dtype)
    # The logarithm of what is left out is that of 1.
    mean = jnp.exp(jnp.sum(jnp.log(losses)) / number)
    return jnp.where(counts, mean / (number * losses), jnp.zeros_like(losses))

  return rule
