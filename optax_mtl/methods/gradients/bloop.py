"""Bloop: auxiliary losses that leave the main one's descent as it is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks, linalg
from optax_mtl._dtypes import solver_dtype, wide
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.methods._reference_task import (
  all_but,
  check_reference_task,
  reference_task,
  row_of_task_0,
)
from optax_mtl.methods.gradients._trunk import trunk_of


class BloopMemory(NamedTuple):
  """What `bloop` remembers.

  Attributes:
    main_average: Tree like the params, the moving average of the main task's
      gradient, 0 before the first.
    main_average_set: Scalar bool, whether there was one.
  """

  main_average: Any
  main_average_set: jax.Array


def _dot(left: list[jax.Array], right: list[jax.Array]) -> jax.Array:
  """The inner product of two gradients, a scalar."""
  return linalg.project([leaf[None] for leaf in left], right, 1)[0]


# Jitted so that leaves of one shape are traced and lowered once.
@jax.jit
def _own(leaf: jax.Array, there: jax.Array) -> jax.Array:
  """The main task's gradient, 0 where it is absent."""
  leaf = wide(leaf)
  return jnp.where(there, leaf, jnp.zeros_like(leaf))


@jax.jit
def _towards(old: jax.Array, new: jax.Array, rate: jax.Array) -> jax.Array:
  """The moving average."""
  # Real factors of complex leaves, which strict promotion refuses.
  with jax.numpy_dtype_promotion("standard"):
    return old + rate * (new - old)


@jax.jit
def _across(
  own: jax.Array, other: jax.Array, average: jax.Array, along: jax.Array
) -> jax.Array:
  """The main gradient and what the auxiliary one has across the average."""
  with jax.numpy_dtype_promotion("standard"):
    new = own + (wide(other) - along * average)
  return new.astype(other.dtype)


@method(
  paper="Hsieh et al., Careful with that Scalpel: Improving Gradient Surgery "
  "with an EMA, ICML 2024",
  url="https://arxiv.org/abs/2402.02998",
  weights_sum="none",
  example=lambda tasks: {"main": row_of_task_0(tasks)},
  claims=["scale_equivariant"],
)
def bloop(
  num_tasks: int,
  main: int | str = 0,
  *,
  auxiliary_weight: _checks.TaskValues = 0.1,
  decay: ArrayLike = 0.9,
) -> UpdateRule[BloopMemory]:
  """Descends a main loss, and an auxiliary one only across its direction.

  `d = g_0 + λ (g_1 - (g_1·m / ‖m‖²) m)`: the auxiliary gradient loses its part
  along `m`, a moving average of the main gradient, whether that part helps or
  hurts. So the summed step descends the main loss as its own gradient does, and
  among its minimizers the auxiliary loss is minimized. There are no weights
  that could sum to anything; heads get their own gradients.

  The average `m ← 0.9 m + 0.1 g_0` takes in the current gradient before it is
  used, and starts at the first one, as in the authors' code. While there is
  none, since the main task has been absent or its gradient zero, nothing is
  taken away.

  The paper has one auxiliary loss. With several, the sum of their weighted
  gradients is projected, which is each projected by itself: the projection is
  linear.

  The authors' code adds 1e-7 to `‖m‖²`, so that it projects no longer once the
  gradients are small; here nothing is added. Its option `rescale` is left out.

  Args:
    num_tasks: The number of tasks `T`: 2 in the paper.
    main: The main task, by its row or its name. Default row 0; rows go by the
      order of the sorted names.
    auxiliary_weight: `λ`, a number or one for each task: a sequence in the
      order of the rows, or a dict by the tasks' names; the main task's is not
      looked at. Default 0.1, as in the authors' code.
    decay: Share of the old average in the new one, in [0, 1). Default 0.9, as
      in the authors' code; 0 projects on the batch's own gradient.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `main` is neither a string nor an index.
    ValueError: `decay` is out of range, or an argument has other tasks' names.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.bloop(num_tasks=2, auxiliary_weight=0.5)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates)
    [1.  0.5]

  References:
    Hsieh et al., `Careful with that Scalpel: Improving Gradient Surgery with an
    EMA <https://arxiv.org/abs/2402.02998>`_, ICML 2024.
  """
  check_reference_task(main, num_tasks, "main")
  _checks.check_range("decay", decay, 0, 1, open_high=True)
  given = _checks.number_or_task_argument(
    auxiliary_weight, num_tasks, "auxiliary_weight"
  )

  def init(params: Any) -> BloopMemory:
    zeros = jax.tree.map(lambda p: jnp.zeros_like(wide(jnp.asarray(p))), params)
    return BloopMemory(zeros, jnp.zeros((), jnp.bool_))

  def update(step: Step, memory: BloopMemory) -> tuple[Any, BloopMemory]:
    row = reference_task(main, step, "main")
    there = step.active[row]
    weights = step.given(given).astype(solver_dtype())
    others = all_but(row, step)
    weights = jnp.where(others, weights, jnp.zeros_like(weights))
    # All leaves get these weights: of the heads' nothing is used.
    auxiliary = step.gradients.combine(
      weights, head_weights=weights, keep=others
    )
    gradient = jax.tree.map(
      lambda leaf: _own(leaf, there), step.gradients.gradient_of(row)
    )
    rate = jnp.where(
      memory.main_average_set, 1 - jnp.asarray(decay, solver_dtype()), 1
    )
    rate = jnp.where(there, rate, jnp.zeros_like(rate))
    average = jax.tree.map(
      lambda old, new: _towards(old, new, rate), memory.main_average, gradient
    )
    along = _projection(
      [wide(leaf) for leaf in trunk_of(step, auxiliary)],
      trunk_of(step, average),
    )
    new = jax.tree.map(
      lambda own, other, m: _across(own, other, m, along),
      gradient,
      auxiliary,
      average,
    )
    known = memory.main_average_set | there
    return new, BloopMemory(average, known)

  return UpdateRule(update, init)


def _projection(
  gradient: list[jax.Array], direction: list[jax.Array]
) -> jax.Array:
  """How much of the direction is in the gradient, a scalar; 0 of none."""
  square = _dot(direction, direction)
  none = square == 0
  return jnp.where(
    none,
    jnp.zeros_like(square),
    _dot(gradient, direction) / jnp.where(none, jnp.ones_like(square), square),
  )
