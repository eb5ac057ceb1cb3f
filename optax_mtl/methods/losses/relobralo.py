"""ReLoBRaLo: relative loss balancing with random lookback."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step


class RelobraloMemory(NamedTuple):
  """What `relobralo` remembers.

  Attributes:
    balance: Array [T], `λ` of the last update, 1 before a task's first.
    first_losses: Array [T], `L_i(0)`, each task's first finite loss.
    recent_losses: Array [T], `L_i(t-1)`, each task's last finite loss.
    losses_seen: Array [T] int32, how many finite losses a task has had, 2 at
      most.
    lookback_key: Array [2] uint32, raw data of the key that draws the lookback.
  """

  balance: jax.Array
  first_losses: jax.Array
  recent_losses: jax.Array
  losses_seen: jax.Array
  lookback_key: jax.Array


def draw_lookback(
  lookback_key: jax.Array, rho: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Draws `ρ`: whether the last weights are kept, and no look taken back.

  Args:
    lookback_key: Array [2] uint32, as in `RelobraloMemory`.
    rho: The probability of keeping them.

  Returns:
    A scalar bool, and the next `lookback_key`.
  """
  key = jax.random.wrap_key_data(lookback_key, impl="threefry2x32")
  key, now = jax.random.split(key)
  # 32 bits under x64 too, so that the draws are the same there.
  draw = jax.random.uniform(now, (), jnp.float32)
  return draw < jnp.asarray(rho, jnp.float32), jax.random.key_data(key)


@method(
  paper="Bischof & Kraus, Multi-Objective Loss Balancing for Physics-Informed "
  "Deep Learning, 2021",
  url="https://arxiv.org/abs/2110.09813",
  weights_sum="T",
  # With the paper's numbers 50 steps of a test would move next to nothing, and
  # look back in none of them.
  example=lambda tasks: {"alpha": 0.9, "rho": 0.5},
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def relobralo(
  num_tasks: int,
  alpha: ArrayLike = 0.999,
  rho: ArrayLike = 0.9999,
  temperature: ArrayLike = 1.0,
  *,
  seed: int = 0,
) -> WeightRule[RelobraloMemory]:
  """Relative loss balancing: a task whose loss fell less weighs more.

  `λ(t) = α (ρ λ(t-1) + (1-ρ) λ̂(t; 0)) + (1-α) λ̂(t; t-1)` with
  `λ̂(t; s) = T softmax(L(t) / (τ L(s)))`. `ρ` is drawn in each step, 1 with the
  probability `rho`; where it is 0, the weights look back to the first losses.
  `α` is 1 in the first step and 0 in the second, so that the weights start at 1
  and take their first value from the first two losses. They sum to the number
  of active tasks T, and each ratio is invariant to the scale of its loss.

  The losses should be positive. Where the older loss is zero, or the ratio is
  not finite, the ratio is 1. A negative loss is an error where it is known, and
  under `jit` its ratios are 1. A loss that is not finite is none: the task's
  weight and losses stand still. So do those of an absent task; its first two
  steps are the first two in which it has a loss, and where tasks were absent
  now and then the weights of those that are there are scaled to their sum.

  Codes that go by the name leave out the factor T, or `λ(t-1)`; on constant
  losses, where these weights are 1, theirs jump with each `ρ`.

  Args:
    num_tasks: The number of tasks `T`.
    alpha: `α` in [0, 1], the share of the past from the third step on. Default
      0.999, as in the paper.
    rho: The probability in [0, 1] of keeping the last weights. Default 0.9999,
      that of the authors' published implementation; the paper asks for one
      close to 1.
    temperature: `τ > 0`; larger is closer to equal weights. Default 1, as in
      the authors' implementation; the paper tries several.
    seed: Seeds the draws of `ρ`.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: `seed` is no integer, or the update is called without `losses`.
    ValueError: `alpha`, `rho` or `temperature` is out of range, or a loss is
      negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.relobralo(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> for losses in ([2.0, 2.0], [1.0, 2.0]):
    ...   losses = jnp.array(losses)
    ...   _, state = tx.update(jnp.ones((2, 2)), state, losses=losses)
    >>> print(np.asarray(state.weights).round(3))
    [0.755 1.245]

  References:
    Bischof & Kraus, `Multi-Objective Loss Balancing for Physics-Informed Deep
    Learning <https://arxiv.org/abs/2110.09813>`_, 2021.
  """
  _checks.check_range("alpha", alpha, 0, 1)
  _checks.check_range("rho", rho, 0, 1)
  _checks.check_range("temperature", temperature, 0, open_low=True)
  _checks.check_seed("seed", seed)

  def init() -> RelobraloMemory:
    key = jax.random.key(seed, impl="threefry2x32")
    dtype = solver_dtype()
    return RelobraloMemory(
      balance=jnp.ones((num_tasks,), dtype),
      first_losses=jnp.zeros((num_tasks,), dtype),
      recent_losses=jnp.zeros((num_tasks,), dtype),
      losses_seen=jnp.zeros((num_tasks,), jnp.int32),
      lookback_key=jax.random.key_data(key),
    )

  def shares(step: Step, since: jax.Array, known: jax.Array) -> jax.Array:
    """`λ̂(t; s)` [T] for the losses `since` [T], of the tasks that have any."""
    ratio = step.losses / since
    known = known & jnp.isfinite(ratio) & (step.losses >= 0) & (since > 0)
    ratio = jnp.where(known, ratio, jnp.ones_like(ratio))
    logits = ratio / jnp.asarray(temperature, ratio.dtype)
    return step.num_active * jax.nn.softmax(logits, where=step.active)

  def observe(step: Step, memory: RelobraloMemory) -> RelobraloMemory:
    _checks.check_not_negative(
      step.losses, "losses=", "since relobralo compares them by their ratio"
    )
    keeps, key = draw_lookback(memory.lookback_key, rho)
    losses, seen = step.losses, memory.losses_seen
    first = shares(step, memory.first_losses, seen > 0)
    last = shares(step, memory.recent_losses, seen > 0)
    share = jnp.asarray(alpha, losses.dtype)
    share = jnp.where(seen == 0, 1.0, jnp.where(seen == 1, 0.0, share))
    past = jnp.where(keeps | (seen == 0), memory.balance, first)
    learns = step.active & jnp.isfinite(losses)
    return RelobraloMemory(
      balance=step.hold(
        share * past + (1 - share) * last, memory.balance, learns
      ),
      first_losses=step.hold(losses, memory.first_losses, learns & (seen == 0)),
      recent_losses=step.hold(losses, memory.recent_losses, learns),
      losses_seen=jnp.minimum(seen + learns.astype(jnp.int32), 2),
      lookback_key=key,
    )

  def weigh(
    step: Step, memory: RelobraloMemory
  ) -> tuple[jax.Array, RelobraloMemory]:
    # The mean is 1 where no task was ever absent, to rounding.
    return memory.balance / step.mean(memory.balance), memory

  return WeightRule(weigh, init, observe)
