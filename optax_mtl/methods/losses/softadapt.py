"""SoftAdapt: weights from the slopes of the losses."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step

Variant = Literal["original", "normalized", "loss_weighted"]


class SoftadaptMemory(NamedTuple):
  """What `softadapt` remembers.

  Attributes:
    loss_points: Array [T, order + 1], each task's last points, newest first.
    points_seen: Array [T] int32, how many points a task has, `order + 1` at
      most.
    point_loss_sum: Array [T], the sum of the losses in the running point.
    point_loss_count: Array [T] int32, how many losses the sum holds.
    point_step: Scalar int32, the number of updates in the running point.
  """

  loss_points: jax.Array
  points_seen: jax.Array
  point_loss_sum: jax.Array
  point_loss_count: jax.Array
  point_step: jax.Array


def backward_differences(order: int) -> np.ndarray:
  """The coefficients of the slope at the newest of `order + 1` points.

  The slope of the polynomial through the points, which are one apart.

  Args:
    order: The order of accuracy, at least 1.

  Returns:
    Array [order + 1], newest point first.
  """
  older = [(-1) ** j * math.comb(order, j) / j for j in range(1, order + 1)]
  return np.array([-math.fsum(older), *older])


@method(
  paper="Heydari, Thompson & Mehmood, SoftAdapt: Techniques for Adaptive Loss "
  "Weighting of Neural Networks with Multi-Part Loss Functions, 2019",
  url="https://arxiv.org/abs/1912.12355",
  weights_sum="T",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def softadapt(
  num_tasks: int,
  beta: ArrayLike = 0.1,
  *,
  variant: Variant = "original",
  order: int = 4,
  steps_per_epoch: ArrayLike = 1,
) -> WeightRule[SoftadaptMemory]:
  """SoftAdapt: a task whose loss falls slower, or rises, weighs more.

  `w = T softmax(β s)`, where `s_i` is the slope of loss i: its change from one
  point to the next, positive where it rises. A negative `β` turns it round, and
  favours the tasks that fall fastest; `β = 0` gives equal weights. The weights
  sum to the number of active tasks T, as `dwa`'s do; the paper's and the
  authors' code's sum to 1.

  * "original": as above. The slopes have the losses' scale, so that a loss in
    the thousands takes all the weight, or none.
  * "normalized": `s_i / Σ_j |s_j|` in the place of `s_i`.
  * "loss_weighted": `w_i` proportional to `L_i exp(β s_i)`, with the loss of
    the newest point; a negative loss counts as zero.

  The slope at the newest point is a finite difference of the given order, over
  the last `order + 1` points. A point is a loss, or an average over
  `steps_per_epoch` of them. The weights are 1 until each active task has all
  its points. An absent task's points stand still, and a loss that is not finite
  is none.

  In the authors' package the coefficients of a forward difference are applied,
  which give the slope at the oldest point; the normalized slopes are divided by
  their sum, which may be zero, and not by that of their magnitudes; and the
  loss-weighted variant takes the mean over the points. Other libraries call a
  softmax of ratios of losses by this name, which is `dwa` with
  `steps_per_epoch=1`.

  Args:
    num_tasks: The number of tasks `T`.
    beta: `β`, of either sign. Default 0.1, as in the paper.
    variant: "original" (default), "normalized" or "loss_weighted".
    order: The order of the finite difference, from 1, which compares the last
      two points. Default 4, five points, as in the authors' code.
    steps_per_epoch: How many updates are averaged to a point, at least 1.
      Default 1.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: `order` is no int, or the update is called without `losses`.
    ValueError: `variant` is unknown, or `order` or `steps_per_epoch` is out of
      range.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.softadapt(num_tasks=2, beta=1.0, order=1)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in ([2.0, 2.0], [1.0, 2.0]):
    ...   losses = jnp.array(losses)
    ...   _, state = tx.update(jnp.ones((2, 2)), state, losses=losses)
    >>> print(np.asarray(state.weights).round(3))
    [0.538 1.462]

  References:
    Heydari, Thompson & Mehmood, `SoftAdapt: Techniques for Adaptive Loss
    Weighting of Neural Networks with Multi-Part Loss Functions
    <https://arxiv.org/abs/1912.12355>`_, 2019.
  """
  _checks.check_choice(
    "variant", variant, ("original", "normalized", "loss_weighted")
  )
  _checks.check_range("beta", beta)
  _checks.check_whole("steps_per_epoch", steps_per_epoch, 1)
  # At 8 the root of the sum of the coefficients' squares, by which they amplify
  # the noise of the losses, is 33; at 4 it is 5.6.
  _checks.check_int("order", order, 1, 8)
  coefficients = backward_differences(order)

  def init() -> SoftadaptMemory:
    dtype = solver_dtype()
    return SoftadaptMemory(
      loss_points=jnp.zeros((num_tasks, order + 1), dtype),
      points_seen=jnp.zeros((num_tasks,), jnp.int32),
      point_loss_sum=jnp.zeros((num_tasks,), dtype),
      point_loss_count=jnp.zeros((num_tasks,), jnp.int32),
      point_step=jnp.zeros((), jnp.int32),
    )

  def observe(step: Step, memory: SoftadaptMemory) -> SoftadaptMemory:
    """Counts this step's losses, and closes a point that is complete."""
    given = step.active & jnp.isfinite(step.losses)
    total = memory.point_loss_sum + jnp.where(given, step.losses, 0.0)
    count = memory.point_loss_count + given.astype(jnp.int32)
    point_step = memory.point_step + 1
    ends = point_step >= jnp.asarray(steps_per_epoch, jnp.int32)
    average = total / jnp.maximum(count, 1).astype(total.dtype)
    closes = ends & (count > 0)
    moved = jnp.concatenate(
      [average[:, None], memory.loss_points[:, :-1]], axis=1
    )

    def reset(value: jax.Array) -> jax.Array:
      return jnp.where(ends, jnp.zeros_like(value), value)

    return SoftadaptMemory(
      loss_points=step.hold(moved, memory.loss_points, closes),
      points_seen=jnp.minimum(
        memory.points_seen + closes.astype(jnp.int32), order + 1
      ),
      point_loss_sum=reset(total),
      point_loss_count=reset(count),
      point_step=reset(point_step),
    )

  def weigh(
    step: Step, memory: SoftadaptMemory
  ) -> tuple[jax.Array, SoftadaptMemory]:
    points = memory.loss_points
    terms = jnp.asarray(coefficients, points.dtype)[None, :] * points
    slopes = jnp.sum(terms, axis=1)
    slopes = step.only_active(slopes)
    if variant == "normalized":
      total = jnp.sum(jnp.abs(slopes))
      slopes = slopes / jnp.where(total > 0, total, 1.0)
    logits = jnp.asarray(beta, slopes.dtype) * slopes
    counts = step.active
    if variant == "loss_weighted":
      newest = points[:, 0]
      counts &= newest > 0
      logits += jnp.log(jnp.where(counts, newest, 1.0))
    weights = step.num_active * jax.nn.softmax(logits, where=counts)
    known = jnp.all(~step.active | (memory.points_seen > order))
    # Without any positive loss there is nothing to weigh by.
    known &= jnp.any(counts)
    return jnp.where(known, weights, jnp.ones_like(weights)), memory

  return WeightRule(weigh, init, observe)
