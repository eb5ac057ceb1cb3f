"""Loss discrepancy control: learnt weights, and a penalty on differences."""

from typing import Literal, NamedTuple

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
from optax_mtl.methods.losses._positive import positive_losses

Normalize = Literal["initial", "log", "none"]


class LdcMtlMemory(NamedTuple):
  """What `ldc_mtl` remembers.

  Attributes:
    balance_logits: Array [T], the numbers whose sigmoids weigh the losses.
    balance_optimizer: State of the optimizer of `balance_logits`, one for each
      task.
    start_losses: Array [T], `L_i(0)`, each task's first loss; 1 before it.
    start_losses_set: Array [T] of bool, who has had one.
  """

  balance_logits: jax.Array
  balance_optimizer: optax.OptState
  start_losses: jax.Array
  start_losses_set: jax.Array


def difference_signs(values: jax.Array, counts: jax.Array) -> jax.Array:
  """The slope of `Σ |v_i - v_{i+1}|` in each `v_i`.

  Args:
    values: `v` [T].
    counts: Array [T] of bool: who is among the neighbours.

  Returns:
    `s_i - s_{i-1}` [T] with `s_i` the sign of the difference to the next one
    that counts; 0 for those that do not.
  """
  place = jnp.cumsum(counts.astype(jnp.int32))
  both = counts[:, None] & counts[None, :]
  # Entry (i, j): whether j is the next one after i.
  follows = both & (place[None, :] == place[:, None] + 1)
  signs = jnp.sign(values[:, None] - values[None, :])
  signs = jnp.where(follows, signs, jnp.zeros_like(signs))
  return jnp.sum(signs, axis=1) - jnp.sum(signs, axis=0)


@method(
  paper="Xiao, Dong, Ban & Ji, LDC-MTL: Balancing Multi-Task Learning through "
  "Scalable Loss Discrepancy Control, 2025",
  url="https://arxiv.org/abs/2502.08585",
  weights_sum="free",
  claims=["positive_weights", "scale_equivariant"],
)
def ldc_mtl(
  num_tasks: int,
  penalty: ArrayLike = 0.05,
  *,
  normalize: Normalize = "initial",
  divide: bool = False,
  optimizer: optax.GradientTransformation | None = None,
) -> WeightRule[LdcMtlMemory]:
  """Loss discrepancy control: penalizes weighted losses that differ.

  The objective is `Σ w_i L̃_i + λ Σ |w_i L̃_i - w_{i+1} L̃_{i+1}|`, where `w` is
  the sigmoid of T learnt numbers and `L̃` a normalized loss. With `s_i` the sign
  of the i-th difference, the weight on the gradient of `L̃_i` is
  `w_i (1 + λ (s_i - s_{i-1}))`, negative for some where `λ > 1/2`. The
  differences are of neighbours in the order of the rows, so that this order
  counts; an absent task's neighbours become each other's. The weights' sum is
  free.

  `w` starts at 1/2 and descends the differences alone, one step an update, as
  we read the paper's single-loop algorithm. In the authors' code they come from
  a layer of the network and descend the whole objective, in which each of them
  shrinks; there the first term is divided by `Σ w`: `divide=True`.

  "initial" and "log" need positive losses. A negative one is an error where it
  is known; one of zero, or under `jit` a negative one, has weight 0, as has one
  that is not finite.

  Args:
    num_tasks: The number of tasks `T`.
    penalty: `λ >= 0`. Default 0.05, as in the authors' code for NYUv2 and QM9;
      theirs lie between 0.01 and 0.1.
    normalize: `L̃`: "initial" (default) `L / L(0)`, "log" `log(L / L(0))`, or
      "none" `L` itself, where losses of different units have no differences
      to speak of.
    divide: Whether the first term is divided by the sum of `w`.
    optimizer: Optimizer of the learnt numbers, run for each task by itself.
      Default: `optax.adam(0.025)`.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: `penalty` is out of range, `normalize` is unknown, or a loss is
      negative where it may not be.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.ldc_mtl(num_tasks=2, penalty=0.5, normalize="none")
    >>> state = tx.init(jnp.zeros(2))
    >>> losses = jnp.array([2.0, 1.0])
    >>> _, state = tx.update(jnp.eye(2), state, losses=losses)
    >>> print(state.weights)
    [0.75 0.25]

  References:
    Xiao, Dong, Ban & Ji, `LDC-MTL <https://arxiv.org/abs/2502.08585>`_, 2025.
  """
  _checks.check_range("penalty", penalty, 0)
  _checks.check_choice("normalize", normalize, ("initial", "log", "none"))
  inner = task_optimizer(optimizer, num_tasks)

  def losses_of(step: Step) -> tuple[jax.Array, jax.Array]:
    """The losses [T] that can be normalized, and whose they are."""
    if normalize == "none":
      counts = step.active & jnp.isfinite(step.losses)
      return jnp.where(counts, step.losses, 0.0), counts
    return positive_losses(step, "since ldc_mtl divides them by the first")

  def init() -> LdcMtlMemory:
    dtype = solver_dtype()
    return LdcMtlMemory(
      balance_logits=jnp.zeros((num_tasks,), dtype),
      balance_optimizer=inner.init(),
      start_losses=jnp.ones((num_tasks,), dtype),
      start_losses_set=jnp.zeros((num_tasks,), jnp.bool_),
    )

  def observe(step: Step, memory: LdcMtlMemory) -> LdcMtlMemory:
    losses, counts = losses_of(step)
    first = counts & ~memory.start_losses_set
    return memory._replace(
      start_losses=step.hold(losses, memory.start_losses, first),
      start_losses_set=memory.start_losses_set | first,
    )

  def weigh(step: Step, memory: LdcMtlMemory) -> tuple[jax.Array, LdcMtlMemory]:
    losses, counts = losses_of(step)
    # The normalized losses, and their slopes in the losses.
    scaled, slopes = losses, jnp.ones_like(losses)
    if normalize != "none":
      scaled, slopes = losses / memory.start_losses, 1 / memory.start_losses
    if normalize == "log":
      scaled, slopes = jnp.log(scaled), 1 / losses
    shares = jax.nn.sigmoid(memory.balance_logits)
    signs = difference_signs(shares * scaled, counts)
    factor = jnp.asarray(penalty, shares.dtype)
    total = jnp.sum(jnp.where(counts, shares, jnp.zeros_like(shares)))
    plain = 1 / jnp.where(total > 0, total, 1.0) if divide else 1.0
    weights = shares * (plain + factor * signs) * slopes
    gradient = shares * (1 - shares) * scaled * signs
    change, state = inner.step(gradient, memory.balance_optimizer)
    moved = (memory.balance_logits + change).astype(shares.dtype)
    return jnp.where(counts, weights, jnp.zeros_like(weights)), memory._replace(
      balance_logits=step.hold(moved, memory.balance_logits, counts),
      balance_optimizer=step.hold(state, memory.balance_optimizer, counts),
    )

  return WeightRule(weigh, init, observe)
