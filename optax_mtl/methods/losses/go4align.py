"""GO4Align: risk-guided weights that groups of tasks share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods.losses._positive import count, positive_losses, shares

_WHY = "since go4align divides by them"


class Go4alignMemory(NamedTuple):
  """What `go4align` remembers.

  Attributes:
    log_risks: Array [T], `log p` up to a constant, 0 before a task's first
      loss.
  """

  log_risks: jax.Array


def group_means(
  values: jax.Array, counts: jax.Array, num_groups: int
) -> jax.Array:
  """The exact k-means of numbers: the mean of each one's group.

  On a line the groups of the optimum are runs of the sorted numbers, so that it
  is found by dynamic programming, in K steps on [T + 1, T + 1], without a start
  that the result would depend on.

  Args:
    values: Array [T], not negative.
    counts: Array [T] of bool: who is grouped.
    num_groups: `K`, the most groups that there are.

  Returns:
    Array [T], 0 for those that do not count.
  """
  num_tasks = values.shape[0]
  row = jnp.arange(num_tasks)
  # Sorting by comparisons, those that do not count last: for a handful of tasks
  # cheaper to compile than a sort, a gather and a scatter.
  keys = jnp.where(counts, values, jnp.inf)
  earlier = (keys[None, :] < keys[:, None]) | (
    (keys[None, :] == keys[:, None]) & (row[None, :] < row[:, None])
  )
  rank = jnp.sum(earlier.astype(jnp.int32), axis=1)
  # [T, T]: whether a task's place is this one.
  placed = (rank[:, None] == row[None, :]).astype(values.dtype)
  placed = jnp.where(counts[:, None], placed, jnp.zeros_like(placed))
  there = jnp.sum(placed, axis=0)
  points = jnp.sum(placed * values[:, None], axis=0)
  # So that squares stay in range.
  top = jnp.max(points)
  units = points / jnp.where(top > 0, top, 1.0)
  apart = jnp.square(units[:, None] - units[None, :])
  apart = jnp.triu(apart * there[:, None] * there[None, :])
  # The sum over all pairs from l to m - 1, of positive terms alone, over their
  # number: what the run [l, m) adds to the sum of squares.
  pairs = jnp.cumsum(apart[::-1], axis=0)[::-1]
  pairs = jnp.pad(jnp.cumsum(pairs, axis=1), ((0, 1), (1, 0)))
  before = jnp.pad(jnp.cumsum(there), (1, 0))
  number = jnp.maximum(before[None, :] - before[:, None], 1)
  ends = jnp.arange(num_tasks + 1)
  # Column sums above start at the first column; below the diagonal there is
  # nothing to take off, since `apart` is zero there.
  runs = jnp.where(ends[:, None] <= ends[None, :], pairs / number, jnp.inf)
  best = jnp.where(ends == 0, 0.0, jnp.inf).astype(values.dtype)
  starts = []
  for _ in range(num_groups):
    costs = best[:, None] + runs
    starts.append(jnp.argmin(costs, axis=0))
    best = jnp.min(costs, axis=0)
  end = jnp.asarray(num_tasks)
  group = jnp.zeros((num_tasks,), jnp.int32)
  for start in reversed(starts):
    end = start[end]
    group += (ends[:-1] >= end).astype(jnp.int32)
  same = (group[:, None] == group[None, :]).astype(values.dtype)
  same = same * there[None, :]
  total = jnp.sum(same * points[None, :], axis=1)
  means = total / jnp.maximum(jnp.sum(same, axis=1), 1)
  return jnp.sum(placed * means[None, :], axis=1)


@method(
  paper="Shen et al., GO4Align: Group Optimization for Multi-Task Alignment, "
  "NeurIPS 2024",
  url="https://arxiv.org/abs/2404.06486",
  weights_sum="free",
  # With one group there is nothing to group.
  example=lambda tasks: {"num_groups": min(2, len(tasks))},
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def go4align(
  num_tasks: int,
  num_groups: int = 1,
  *,
  rate: ArrayLike = 1e-4,
) -> WeightRule[Go4alignMemory]:
  """Group optimization: tasks of one group share a risk-guided weight.

  Risks `p`, first equal, follow `p <- p exp(-η L) / Σ`; then
  `q_i = p_i Σ_j L_j / L_i`, and k-means puts the numbers `q` into K groups. A
  task's weight is the mean of its group's `q`. The weights' sum is free, and
  the same for any K: that of `q`, which is T where all losses are equal and
  grows with their spread.

  With one group, the default and the authors' setting, all tasks have the same
  weight: it is equal weighting times a number, and does nothing about losses of
  different scales. With T groups each has its own `q`.

  The k-means is exact, where the authors' starts from random centres and may
  end elsewhere. `η` has the unit of `1 / L`: losses in the thousands
  concentrate `p` within some steps on the task whose loss is the smallest.

  The losses have to be positive. A negative one is an error where it is known.
  A loss of zero or one that is not finite has weight 0 and leaves `p`; under
  `jit` so does a negative one. An absent task's risk stands still.

  Args:
    num_tasks: The number of tasks `T`.
    num_groups: `K`, from 1 to T. Default 1.
    rate: `η >= 0`. Default 1e-4, as in the authors' code.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: `num_groups` is no int, or the update is called without `losses`.
    ValueError: `num_groups` or `rate` is out of range, or a loss is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.go4align(num_tasks=3, num_groups=2, rate=0.0)
    >>> state = tx.init(jnp.zeros(3))
    >>> losses = jnp.array([1.0, 1.0, 2.0])
    >>> _, state = tx.update(jnp.eye(3), state, losses=losses)
    >>> print(np.asarray(state.weights, float).round(3))
    [1.333 1.333 0.667]

  References:
    Shen et al., `GO4Align: Group Optimization for Multi-Task Alignment
    <https://arxiv.org/abs/2404.06486>`_, NeurIPS 2024.
  """
  _checks.check_int("num_groups", num_groups, 1, num_tasks)
  _checks.check_range("rate", rate, 0)

  def init() -> Go4alignMemory:
    return Go4alignMemory(log_risks=jnp.zeros((num_tasks,), solver_dtype()))

  def observe(step: Step, memory: Go4alignMemory) -> Go4alignMemory:
    losses, counts = positive_losses(step, _WHY)
    risks = memory.log_risks - jnp.asarray(rate, losses.dtype) * losses
    # Logarithms, centred: `p` itself would all be zero for large losses.
    masked = jnp.where(counts, risks, jnp.zeros_like(risks))
    centre = jnp.sum(masked) / count(counts, risks.dtype)
    return Go4alignMemory(step.hold(risks - centre, memory.log_risks, counts))

  def weigh(
    step: Step, memory: Go4alignMemory
  ) -> tuple[jax.Array, Go4alignMemory]:
    losses, counts = positive_losses(step, _WHY)
    total = jnp.sum(jnp.where(counts, losses, jnp.zeros_like(losses)))
    weights = shares(memory.log_risks, counts) * (total / losses)
    if num_groups == 1:
      weights = jnp.where(counts, weights, jnp.zeros_like(weights))
      mean = jnp.sum(weights) / count(counts, weights.dtype)
      weights = jnp.full_like(weights, mean)
    elif num_groups < num_tasks:
      weights = group_means(weights, counts, num_groups)
    return jnp.where(counts, weights, jnp.zeros_like(weights)), memory

  return WeightRule(weigh, init, observe)
