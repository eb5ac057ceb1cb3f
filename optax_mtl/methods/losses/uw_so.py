"""Soft optimal uncertainty weighting: a softmax of inverse losses."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step
from optax_mtl.methods.losses._positive import positive_losses, shares


@method(
  paper="Kirchdorfer et al., Analytical Uncertainty-Based Loss Weighting in "
  "Multi-Task Learning, GCPR 2024",
  url="https://arxiv.org/abs/2408.07985",
  weights_sum="1",
  claims=[
    "simplex",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def uw_so(
  num_tasks: int, temperature: ArrayLike = 1.0
) -> WeightRule[tuple[()]]:
  """Soft optimal uncertainty weighting: a softmax of the inverse losses.

  `w = softmax((1 / L) / τ)`: uncertainty weighting with each variance at its
  optimum for the loss of the step, where the weight is `1 / L_i` up to a
  factor, and a softmax in the place of the sum that would divide it. The
  weights sum to 1.

  `τ` has the unit of `1 / L`, and wants tuning, as in the paper: losses of
  0.001 and 0.002 differ by 500 there, so that with `τ = 1` the smaller one
  takes all the weight, and stays the smaller one. A `τ` near the mean of
  `1 / L` spreads the weights.

  The losses have to be positive. A negative one is an error where it is known.
  A loss of zero or one that is not finite has weight 0; under `jit` so does a
  negative one.

  Args:
    num_tasks: The number of tasks `T`.
    temperature: `τ > 0`; larger is closer to equal weights. Default 1; the
      paper tunes it for each data set.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `temperature` is out of range, or a loss is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.uw_so(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> losses = jnp.array([0.5, 1.0])
    >>> _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> print(np.asarray(state.weights).round(3))
    [0.731 0.269]

  References:
    Kirchdorfer et al., `Analytical Uncertainty-Based Loss Weighting in
    Multi-Task Learning <https://arxiv.org/abs/2408.07985>`_, GCPR 2024.
  """
  del num_tasks
  _checks.check_range("temperature", temperature, 0, open_low=True)

  @from_step
  def rule(step: Step) -> jax.Array:
    losses, counts = positive_losses(step, "since uw_so inverts them")
    logits = 1 / losses / jnp.asarray(temperature, losses.dtype)
    # Infinity less infinity would be NaN in the softmax.
    return shares(jnp.minimum(logits, jnp.finfo(logits.dtype).max), counts)

  return rule
