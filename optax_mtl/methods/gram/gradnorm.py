"""GradNorm: weights that bring the gradients' norms to a common rate."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._task_optimizer import task_optimizer


class GradNormMemory(NamedTuple):
  """What `gradnorm` remembers.

  Attributes:
    task_weights: Array [T], the learnt weights, which the next update applies.
    mean_weights: Array [T], the running mean of `task_weights`, for a second
      training with these as fixed weights ("GradNorm static").
    mean_count: Array [T] int32, how many updates the mean is over.
    initial_losses: Array [T], `L_i(0)`.
    initial_losses_set: Array [T] of bool.
    norm_scale: Scalar, the mean weighted norm of the first update, by which the
      gradient of the weights is divided; 0 until there is one.
    task_weight_optimizer: State of the optimizer, one for each task.
  """

  task_weights: jax.Array
  mean_weights: jax.Array
  mean_count: jax.Array
  initial_losses: jax.Array
  initial_losses_set: jax.Array
  norm_scale: jax.Array
  task_weight_optimizer: optax.OptState


def _relative_rates(step: Step, initial_losses: jax.Array) -> jax.Array:
  """The inverse training rates `r_i`, with mean 1 over the active tasks."""
  one = jnp.ones_like(initial_losses)
  begun = initial_losses != 0
  ratio = step.losses / jnp.where(begun, initial_losses, one)
  ratio = jnp.where(begun, jnp.maximum(ratio, 0), one)
  mean = step.mean(ratio)
  return jnp.where(mean == 0, one, ratio / jnp.where(mean == 0, 1.0, mean))


@method(
  paper="Chen, Badrinarayanan, Lee & Rabinovich, GradNorm: Gradient "
  "Normalization for Adaptive Loss Balancing in Deep Multitask Networks, ICML "
  "2018",
  url="https://arxiv.org/abs/1711.02257",
  weights_sum="T",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def gradnorm(
  num_tasks: int,
  alpha: ArrayLike = 1.5,
  *,
  norm_params: Any | Callable[[Any], Any] = None,
  optimizer: optax.GradientTransformation | None = None,
  initial_losses: _checks.TaskValues | None = None,
  min_weight: ArrayLike = 1e-4,
) -> WeightRule[GradNormMemory]:
  """Moves the weights so that slower tasks get larger gradients.

  With `G_i = w_i n_i` the norm of task i's weighted gradient, `Ḡ` their mean,
  and `r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0))`, the weights descend
  `Σ |G_i - Ḡ r_i^α|` with the target held constant, whose gradient is
  `sign(G_i - Ḡ r_i^α) n_i`: no second derivative is needed. The network steps
  with the weights from before that. They sum to T, or to the number of tasks
  that have ever been active.

  Two things the paper leaves open: after the optimizer's step the weights are
  clamped to `min_weight` before they are renormalised; and their gradient is
  divided by the mean norm of the first update, a constant that Adam does not
  see except through its epsilon, which would stop small gradients.

  The losses should not be negative: a negative ratio counts as zero. A task
  whose first loss is zero has ratio 1. A task without a gradient at the
  measured leaves, because it has arrived, or because they are not its own,
  keeps its weight and is not compared with (in the paper's formula the others'
  weights would then fall for ever).

  Args:
    num_tasks: The number of tasks `T`.
    alpha: Strength of the pull towards a common rate, `α >= 0`. Default 1.5,
      the paper's for NYUv2; its toy problem uses 0.12.
    norm_params: Which of the shared leaves the norms are taken over: a pytree
      prefix of bools, or a callable from the params to one. The paper takes the
      last shared layer. None: all shared leaves.
    optimizer: Optimizer of the weights, run for each task by itself. Default:
      `optax.adam(0.025)`, as in the paper.
    initial_losses: `L_i(0)` [T], or a dict by the tasks' names, for instance
      `log C` for C classes, as the paper's footnote advises. None: the first
      finite loss of each task.
    min_weight: Floor of the weights, above 0. Default 1e-4 (our choice).

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `alpha` or `min_weight` is out of range, or `norm_params`
      matches no leaf, takes in a leaf of a head, or is used with the
      representation source.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.gradnorm(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    >>> updates, state = tx.update(grads, state, losses=jnp.array([1.0, 9.0]))
    >>> print(updates, np.asarray(state.memory.task_weights).round(3))
    [1. 3.] [1.025 0.975]

  References:
    Chen et al., `GradNorm: Gradient Normalization for Adaptive Loss Balancing
    in Deep Multitask Networks <https://arxiv.org/abs/1711.02257>`_, ICML 2018.
  """
  _checks.check_range("alpha", alpha, 0)
  _checks.check_range("min_weight", min_weight, 0, 1, open_low=True)
  inner = task_optimizer(optimizer, num_tasks)
  given = None
  if initial_losses is not None:
    given = _checks.task_argument(initial_losses, num_tasks, "initial_losses")

  def init() -> GradNormMemory:
    dtype = solver_dtype()
    first = jnp.ones((num_tasks,), dtype)
    return GradNormMemory(
      task_weights=jnp.ones((num_tasks,), dtype),
      mean_weights=jnp.ones((num_tasks,), dtype),
      mean_count=jnp.zeros((num_tasks,), jnp.int32),
      initial_losses=first if given is None else given.values.astype(dtype),
      initial_losses_set=jnp.full((num_tasks,), given is not None, jnp.bool_),
      norm_scale=jnp.zeros((), dtype),
      task_weight_optimizer=inner.init(),
    )

  def observe(step: Step, memory: GradNormMemory) -> GradNormMemory:
    """Notes each task's first finite loss."""
    if given is not None:
      step.given(given)  # the names must fit
    unset = step.active & ~memory.initial_losses_set
    first = unset & jnp.isfinite(step.losses)
    return memory._replace(
      initial_losses=jnp.where(first, step.losses, memory.initial_losses),
      initial_losses_set=memory.initial_losses_set | first,
    )

  def weigh(
    step: Step, memory: GradNormMemory
  ) -> tuple[jax.Array, GradNormMemory]:
    old = memory.task_weights
    norms = step.norms(norm_params, "norm_params")
    # No weight brings a gradient of zero to the common norm: compared with it,
    # the others would be lowered at each step, to the floor.
    step = dataclasses.replace(step, keep=step.active & (norms != 0))
    mean_norm = step.mean(old * norms)
    scale = jnp.where(memory.norm_scale == 0, mean_norm, memory.norm_scale)
    rates = _relative_rates(step, memory.initial_losses)
    target = mean_norm * jnp.power(rates, jnp.asarray(alpha, rates.dtype))
    gradient = jnp.sign(old * norms - target) * norms
    gradient = gradient / jnp.where(scale == 0, jnp.ones_like(scale), scale)

    change, optimizer_state = inner.step(gradient, memory.task_weight_optimizer)
    new = jnp.maximum(old + change, jnp.asarray(min_weight, old.dtype))
    # The active weights share what the absent ones leave of the total T, so
    # that a task which was never active keeps its 1 out of the sum.
    total = num_tasks - jnp.sum(jnp.where(step.active, 0.0, old))
    # Weights are positive: their sum is 0 only where no task is compared.
    learnt = step.mean(new) * step.num_active
    share = total / jnp.where(learnt == 0, jnp.ones_like(learnt), learnt)
    new = step.hold(new * share, old)
    count = memory.mean_count + step.active.astype(jnp.int32)
    mean = memory.mean_weights + (new - memory.mean_weights) / jnp.maximum(
      count, 1
    ).astype(old.dtype)
    return old, memory._replace(
      task_weights=new.astype(old.dtype),
      mean_weights=step.hold(mean, memory.mean_weights).astype(old.dtype),
      mean_count=count,
      norm_scale=scale,
      task_weight_optimizer=step.hold(
        optimizer_state, memory.task_weight_optimizer
      ),
    )

  return WeightRule(weigh, init, observe)
