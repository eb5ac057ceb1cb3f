"""Smooth Tchebycheff scalarization: a soft maximum of the losses."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods.losses._early_epoch import EarlyAverage, EarlyEpoch
from optax_mtl.methods.losses._positive import count, positive_losses, shares

Variant = Literal["original", "log"]


class StchMemory(NamedTuple):
  """What `stch` remembers.

  Attributes:
    lowest_losses: Array [T], each loss's minimum so far; 0 before its first.
    lowest_losses_set: Array [T] of bool, who has had one.
    early_epoch: The losses of one early epoch, of which "log" takes the mean.
  """

  lowest_losses: jax.Array
  lowest_losses_set: jax.Array
  early_epoch: EarlyEpoch


@method(
  paper="Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective "
  "Optimization, ICML 2024",
  url="https://arxiv.org/abs/2402.19078",
  weights_sum="1 without a preference",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def stch(
  num_tasks: int,
  preference: _checks.TaskValues | None = None,
  *,
  mu: ArrayLike = 1.0,
  ideal: _checks.TaskValues | None = None,
  variant: Variant = "original",
  steps_per_epoch: ArrayLike | None = None,
  warmup_epochs: ArrayLike = 4,
) -> WeightRule[StchMemory]:
  """Smooth Tchebycheff: descends a soft maximum of the weighted losses.

  The objective is `μ log Σ exp(λ_i (L_i - z_i) / μ)`, so that
  `w = λ softmax(λ (L - z) / μ)`, entry by entry. As `μ` goes to zero it is the
  largest `λ_i (L_i - z_i)` alone that is descended, and the solutions are those
  where all of these are equal: `λ` is a preference of the kind where `(1, 0)`
  makes task 1 matter. It counts as it is, whatever it sums to.

  `μ` and the differences of the losses have one unit: with losses in the
  thousands `μ = 1` is the maximum, and with losses of 0.001 equal weights.
  Where their units differ, or are unknown, take "log", LibMTL's variant for
  networks: `w_i = T λ_i softmax(λ log(L / L_b) / μ)_i / L_i`, with `L_b` each
  loss's average over the epoch after the warm-up, until whose end
  `w_i = λ_i / L_i`.

  A loss that is not finite has weight 0. For "log" the losses have to be
  positive: a negative one is an error where it is known, and one of zero, or
  under `jit` a negative one, has weight 0.

  Args:
    num_tasks: The number of tasks `T`.
    preference: `λ`: array [T], a sequence in the order of the rows, or a dict
      by the tasks' names. Default 1 each. One that comes with an update takes
      its place.
    mu: `μ > 0`, the smoothing. Default 1.
    ideal: `z`, the least that each loss can be, a number or one for each task.
      Default: the least that it has been so far. Not for "log".
    variant: "original" (default) or "log".
    steps_per_epoch: How many updates make an epoch, at least 1. For "log"
      alone, which needs it.
    warmup_epochs: How many epochs are the warm-up of "log". Default 4, as in
      LibMTL.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T], and takes `preference` [T] and
    `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `mu` or an epoch is out of range, `variant` is unknown,
      `steps_per_epoch` or `ideal` does not go with it, a preference is negative
      or does not fit the tasks.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.stch(num_tasks=2, ideal=0.0)
    >>> state = tx.init(jnp.zeros(2))
    >>> losses = jnp.array([2.0, 1.0])
    >>> _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> print(np.asarray(state.weights).round(3))
    [0.731 0.269]

  References:
    Lin et al., `Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization <https://arxiv.org/abs/2402.19078>`_, ICML 2024.
  """
  _checks.check_range("mu", mu, 0, open_low=True)
  _checks.check_choice("variant", variant, ("original", "log"))
  log = variant == "log"
  if log != (steps_per_epoch is not None):
    raise ValueError(
      "steps_per_epoch= belongs to variant='log', which needs it: its averages "
      f"are over an epoch. Got {steps_per_epoch} with variant={variant!r}."
    )
  if log and ideal is not None:
    raise ValueError(
      "ideal= belongs to variant='original': logarithms have no least value."
    )
  length = 1 if steps_per_epoch is None else steps_per_epoch
  early = EarlyAverage(warmup_epochs, length)
  early.check("warmup_epochs")
  wanted = None
  if preference is not None:
    wanted = _checks.task_argument(preference, num_tasks, "preference")
    _checks.check_preference(wanted.values, "preference")
  least = None
  if ideal is not None:
    least = _checks.number_or_task_argument(ideal, num_tasks, "ideal")

  def preferences(step: Step) -> jax.Array:
    """`λ` [T], not negative."""
    if step.has("preference"):
      why = "since it weighs the losses"
      _checks.check_not_negative(step.preference, "preference=", why)
      return jnp.maximum(step.preference, 0)
    if wanted is None:
      return jnp.ones((num_tasks,), solver_dtype())
    return jnp.maximum(step.given(wanted).astype(solver_dtype()), 0)

  def losses_of(step: Step) -> tuple[jax.Array, jax.Array]:
    """The losses [T] that count, and whose they are."""
    if log:
      return positive_losses(step, "since stch takes their logarithms")
    counts = step.active & jnp.isfinite(step.losses)
    return jnp.where(counts, step.losses, 0.0), counts

  def init() -> StchMemory:
    return StchMemory(
      lowest_losses=jnp.zeros((num_tasks,), solver_dtype()),
      lowest_losses_set=jnp.zeros((num_tasks,), jnp.bool_),
      early_epoch=early.init(num_tasks),
    )

  def observe(step: Step, memory: StchMemory) -> StchMemory:
    losses, counts = losses_of(step)
    if log:
      seen = early.observe(losses, counts, memory.early_epoch)
      return memory._replace(early_epoch=seen)
    last, known = memory.lowest_losses, memory.lowest_losses_set
    lowest = jnp.where(known, jnp.minimum(last, losses), losses)
    return memory._replace(
      lowest_losses=step.hold(lowest, last, counts),
      lowest_losses_set=known | counts,
    )

  def weigh(step: Step, memory: StchMemory) -> tuple[jax.Array, StchMemory]:
    losses, counts = losses_of(step)
    wants = preferences(step)
    factor = wants
    if log:
      ratios, over = early.ratios(losses, memory.early_epoch)
      # During the warm-up all terms are equal, whatever the preference.
      above = jnp.where(over, wants * jnp.log(ratios), jnp.zeros_like(ratios))
      factor = wants * count(counts, losses.dtype) / losses
    elif least is None:
      above = wants * (losses - memory.lowest_losses)
    else:
      above = wants * (losses - step.given(least).astype(losses.dtype))
    logits = above / jnp.asarray(mu, above.dtype)
    return factor * shares(logits, counts), memory

  return WeightRule(weigh, init, observe)
