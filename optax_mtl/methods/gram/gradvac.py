"""GradVac: gradients turned towards each other, up to a usual angle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods.gram._surgery import (
  Left,
  draw_orders,
  first_order_key,
  meet_in_turn,
)

# A cosine is known to a few roundings. Between almost parallel gradients the
# formula turns two roundings of it into a share of 1; so cosines that differ by
# no more are equal, and no target is nearer to 1 than this, where the formula
# divides by `√(1 - ρ²)`.
_ROUNDINGS = 16.0


class GradvacMemory(NamedTuple):
  """What `gradvac` remembers.

  Attributes:
    cosine_targets: Array [T, T], `ρ`: entry (i, j) is the moving average of the
      cosine between what was left of gradient i and gradient j; 0 for i = j.
    order_key: Array [2] uint32, raw data of the key that draws the orders.
  """

  cosine_targets: jax.Array
  order_key: jax.Array


def _vaccine(
  gram: jax.Array,
  orders: jax.Array,
  targets: jax.Array,
  beta: jax.Array,
  most: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Turns every gradient towards those that are farther off than usual.

  Args:
    gram: Array [T, T].
    orders: Array [T, T] of int, row i the order in which gradient i meets the
      others.
    targets: Array [T, T], the cosines aimed at.
    beta: Scalar, how far these move towards the cosines found.
    most: Scalar, the largest cosine that is aimed at.

  Returns:
    Array [T, T], row i the coefficients of what becomes of gradient i; and the
    next targets.
  """
  tasks = jnp.arange(gram.shape[0])
  lengths = jnp.sqrt(jnp.diagonal(gram))
  little = _ROUNDINGS * float(jnp.finfo(gram.dtype).eps)

  def meet(
    left: Left, others: jax.Array, targets: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    size = jnp.sum(jnp.abs(left.coefficients) * lengths[None, :], axis=1)
    terms = jnp.where(size > 0, size, 1.0)
    # By the size first, as squares of squares would leave float32's range.
    square = jnp.sum(
      (left.coefficients / terms[:, None]) * (left.products / terms[:, None]),
      axis=1,
    )
    # What is left of opposite gradients is rounding, and has no direction.
    there = ~(square <= little) & ~(lengths[others] <= 0) & (others != tasks)
    own = terms * jnp.sqrt(jnp.where(there, square, 1.0))
    other = jnp.where(there, lengths[others], 1.0)
    cosine = jnp.clip(left.products[tasks, others] / own / other, -1.0, 1.0)
    aim = targets[tasks, others]
    target = jnp.minimum(jnp.minimum(aim, most), 1.0 - little)
    # Not `cosine < target`: where products overflow it is NaN, and has to show.
    turns = there & ~(cosine >= target - little)
    sine = jnp.sqrt((1.0 - cosine) * (1.0 + cosine))
    safe = jnp.where(turns, target, 0.0)
    share = safe * sine / jnp.sqrt((1.0 - safe) * (1.0 + safe)) - cosine
    share = jnp.where(turns, own / other * share, 0.0)
    moved = jnp.where(
      there & jnp.isfinite(cosine), (1.0 - beta) * aim + beta * cosine, aim
    )
    return share, targets.at[tasks, others].set(moved)

  return meet_in_turn(gram, orders, meet, targets)


@method(
  paper="Wang, Tsvetkov, Firat & Cao, Gradient Vaccine: Investigating and "
  "Improving Multi-task Optimization in Massively Multilingual Models, ICLR "
  "2021",
  url="https://arxiv.org/abs/2010.05874",
  weights_sum="free, at least T",
  claims=["positive_weights", "scale_equivariant"],
)
def gradvac(
  num_tasks: int,
  *,
  beta: ArrayLike = 0.01,
  initial_cosine: ArrayLike = 0.0,
  max_cosine: ArrayLike = 1.0,
  seed: int = 0,
) -> WeightRule[GradvacMemory]:
  """Gradient vaccine: gradients turned towards each other, as far as is usual.

  PCGrad with a target. Each gradient meets the others in a random order of its
  own, drawn afresh in every step. If the cosine `φ` between what is left of it,
  `ĝ_i`, and another original gradient is below the usual one, `ρ_ij`, so much
  of `g_j` is added that the cosine is `ρ_ij`:

  `ĝ_i += g_j ‖ĝ_i‖ (ρ √(1-φ²) - φ √(1-ρ²)) / (‖g_j‖ √(1-ρ²))`.

  Then `ρ_ij ← (1-β) ρ_ij + β φ`, whether or not it was below. The update is the
  sum of the results. With `ρ = 0`, as in the first step, it is PCGrad. The
  weights' sum is free, at least T.

  A pair of which one gradient is zero or absent does not meet, and its `ρ`
  stands still. So it does where opposite gradients left nothing but rounding.

  The paper's formula has no bound as `ρ` tends to 1, which it does between
  gradients that are parallel for long. To turn a gradient to a cosine `ρ` with
  another takes some `1 / √(1-ρ²)` of that one's lengths, and each gradient
  meets T - 1 others: when tasks that agreed begin to differ, one update can be
  hundreds of times as long as the gradients with T = 2, and with T = 8 by many
  orders of magnitude, finite and in silence. `max_cosine=0.9` bounds it to a
  factor of about 3 for each meeting. Without it cosines that differ by less
  than 16 roundings are equal, and no `ρ` is taken for nearer to 1 than that.

  The paper has one `ρ` for the whole model, for each layer or for each matrix;
  this is the first. `optax_mtl.on_trunk` chooses the leaves that the cosines
  are taken over. For a `ρ` for each layer, put one `gradvac` on the stacked
  gradients of each, with `optax.partition`.

  Args:
    num_tasks: The number of tasks `T`.
    beta: `β` in [0, 1]. Default 0.01, as in the paper; LibMTL has 0.5.
    initial_cosine: `ρ` before the first step, in [-1, 1]. Default 0, as in the
      paper. With `beta=0` it stays, a fixed target.
    max_cosine: The largest cosine that is aimed at, in [0, 1]. Default 1, as in
      the paper; for tasks that may agree take 0.9.
    seed: Seeds the orders.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `seed` is no integer.
    ValueError: `beta`, `initial_cosine` or `max_cosine` is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.gradvac(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(updates)
    [0.5 1.5]

  References:
    Wang et al., `Gradient Vaccine: Investigating and Improving Multi-task
    Optimization in Massively Multilingual Models
    <https://arxiv.org/abs/2010.05874>`_, ICLR 2021.
  """
  _checks.check_range("beta", beta, 0, 1)
  _checks.check_range("initial_cosine", initial_cosine, -1, 1)
  _checks.check_range("max_cosine", max_cosine, 0, 1)
  _checks.check_seed("seed", seed)

  def init() -> GradvacMemory:
    start = jnp.asarray(initial_cosine, solver_dtype())
    apart = 1 - jnp.eye(num_tasks, dtype=solver_dtype())
    return GradvacMemory(start * apart, first_order_key(seed))

  def weigh(
    step: Step, memory: GradvacMemory
  ) -> tuple[jax.Array, GradvacMemory]:
    orders, order_key = draw_orders(memory.order_key, num_tasks)
    parts, targets = _vaccine(
      step.gram(),
      orders,
      memory.cosine_targets,
      jnp.asarray(beta, solver_dtype()),
      jnp.asarray(max_cosine, solver_dtype()),
    )
    return jnp.sum(parts, axis=0), GradvacMemory(targets, order_key)

  return WeightRule(weigh, init)
