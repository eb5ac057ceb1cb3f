"""Improvable gap balancing: what is left of each loss to gain."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods.losses._early_epoch import EarlyAverage, EarlyEpoch
from optax_mtl.methods.losses._positive import count, positive_losses, shares

_WHY = "since igb takes their logarithms"


@method(
  paper="Dai, Fei & Lu, Improvable Gap Balancing for Multi-Task Learning, "
  "UAI 2023",
  url="https://arxiv.org/abs/2307.15429",
  weights_sum="free",
  example=lambda tasks: {"steps_per_epoch": 5},
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def igb(
  num_tasks: int,
  *,
  base_epoch: ArrayLike = 1,
  steps_per_epoch: ArrayLike,
) -> WeightRule[EarlyEpoch]:
  """Improvable gap balancing (v1): a loss that fell less weighs more.

  `w_i = T softmax(L / L_b)_i / L_i`, where `L_b` is each loss's average over
  one early epoch; until that is over the ratios are 1, so that
  `w_i = 1 / L_i`. It descends the losses' logarithms, whose weights sum to T;
  the weights' own sum is free. Multiplying a loss by a number changes nothing.
  The paper's second version learns the weights of the logarithms by
  reinforcement, and is not here.

  The losses have to be positive. A negative one is an error where it is known.
  A loss of zero, whose weight would be infinite, or one that is not finite, has
  weight 0 and counts in no average; under `jit` so does a negative one. Where a
  loss nears zero by itself, its weight grows without bound: give it a floor,
  `L_i + c`. A task's epochs are counted in its own losses, so that one that
  comes late has an early epoch too.

  Args:
    num_tasks: The number of tasks `T`.
    base_epoch: The number of the epoch whose averages are `L_b`, from 0.
      Default 1, the second, our choice: the first holds the losses of a network
      that knows nothing.
    steps_per_epoch: How many updates make an epoch, at least 1. There is no
      default, since the averages are what the method rests on.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `base_epoch` or `steps_per_epoch` is out of range, or a loss is
      negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.igb(num_tasks=2, base_epoch=0, steps_per_epoch=1)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in ([2.0, 2.0], [1.0, 2.0]):
    ...   losses = jnp.array(losses)
    ...   _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> print(np.asarray(state.weights).round(3))
    [0.755 0.622]

  References:
    Dai, Fei & Lu, `Improvable Gap Balancing for Multi-Task Learning
    <https://arxiv.org/abs/2307.15429>`_, UAI 2023.
  """
  early = EarlyAverage(base_epoch, steps_per_epoch)
  early.check("base_epoch")

  def observe(step: Step, memory: EarlyEpoch) -> EarlyEpoch:
    return early.observe(*positive_losses(step, _WHY), memory)

  def weigh(step: Step, memory: EarlyEpoch) -> tuple[jax.Array, EarlyEpoch]:
    losses, counts = positive_losses(step, _WHY)
    ratios, _ = early.ratios(losses, memory)
    share = count(counts, losses.dtype) * shares(ratios, counts)
    return jnp.where(counts, share / losses, jnp.zeros_like(losses)), memory

  return WeightRule(weigh, lambda: early.init(num_tasks), observe)
