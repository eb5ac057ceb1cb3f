"""The average of each loss over one early epoch, to compare with later."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype


class EarlyEpoch(NamedTuple):
  """What is remembered of that epoch.

  Attributes:
    early_loss_sum: Array [T], the sum of its losses.
    early_losses_seen: Array [T] int32, how many losses a task has had, up to
      one after the epoch.
  """

  early_loss_sum: jax.Array
  early_losses_seen: jax.Array


class EarlyAverage(NamedTuple):
  """Which of a task's own losses make its average.

  An absent task's epochs stand still: one that comes late has its own.

  Attributes:
    epoch: The number of the epoch, from 0.
    steps_per_epoch: How many losses make an epoch.
  """

  epoch: ArrayLike
  steps_per_epoch: ArrayLike

  def check(self, name: str) -> None:
    """Raises where the numbers, the first of which is `name`, are none."""
    _checks.check_whole(name, self.epoch, 0)
    _checks.check_whole("steps_per_epoch", self.steps_per_epoch, 1)

  def init(self, num_tasks: int) -> EarlyEpoch:
    """Before the first loss."""
    return EarlyEpoch(
      early_loss_sum=jnp.zeros((num_tasks,), solver_dtype()),
      early_losses_seen=jnp.zeros((num_tasks,), jnp.int32),
    )

  def _length(self) -> jax.Array:
    return jnp.asarray(self.steps_per_epoch, jnp.int32)

  def _start(self) -> jax.Array:
    return jnp.asarray(self.epoch, jnp.int32) * self._length()

  def observe(
    self, losses: jax.Array, counts: jax.Array, memory: EarlyEpoch
  ) -> EarlyEpoch:
    """Counts the losses [T] of the tasks in `counts` [T]."""
    seen, start = memory.early_losses_seen, self._start()
    end = start + self._length()
    inside = counts & (seen >= start) & (seen < end)
    return EarlyEpoch(
      early_loss_sum=memory.early_loss_sum
      + jnp.where(inside, losses, jnp.zeros_like(losses)),
      early_losses_seen=jnp.minimum(seen + counts.astype(jnp.int32), end + 1),
    )

  def ratios(
    self, losses: jax.Array, memory: EarlyEpoch
  ) -> tuple[jax.Array, jax.Array]:
    """The losses over their averages [T], and whose epoch is over, bools.

    The ratio is 1 until it is.
    """
    over = memory.early_losses_seen > self._start() + self._length()
    one = jnp.ones_like(losses)
    average = memory.early_loss_sum / self._length().astype(losses.dtype)
    ratio = jnp.where(over, losses, one) / jnp.where(over, average, one)
    return ratio, over
