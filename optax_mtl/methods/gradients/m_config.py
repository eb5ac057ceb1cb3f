"""M-ConFIG: ConFIG on momenta, one task's gradient a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks, linalg
from optax_mtl._dtypes import solver_dtype, wide
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.methods._conflict_free import (
  LENGTHS,
  Length,
  conflict_free_weights,
)
from optax_mtl.methods.gradients._trunk import replaced, trunk_of, zero_rows
from optax_mtl.sources import masks


class MConfigMemory(NamedTuple):
  """What `m_config` remembers.

  Attributes:
    task_momenta: Tree with leaves [T, *param.shape], the moving average of each
      task's gradient, from zero.
    momentum_steps: Array [T] int32, how many gradients an average is over.
    pseudo_momentum: Tree like the params, the update before it is divided, as
      a moving average from zero.
    pseudo_square: Tree like the params, the moving average of the squares of
      the gradient that would have moved `pseudo_momentum` so.
    pseudo_step: Scalar int32, how many updates the last two are over.
    next_task: Scalar int32, the task whose turn it is.
  """

  task_momenta: Any
  momentum_steps: jax.Array
  pseudo_momentum: Any
  pseudo_square: Any
  pseudo_step: jax.Array
  next_task: jax.Array


def _turn(next_task: jax.Array, active: jax.Array) -> jax.Array:
  """The first task from `next_task` on, round the circle, that is active."""
  num_tasks = active.shape[0]
  waits = jnp.mod(jnp.arange(num_tasks, dtype=jnp.int32) - next_task, num_tasks)
  return jnp.argmin(jnp.where(active, waits, num_tasks)).astype(jnp.int32)


def _bias(decay: jax.Array, steps: jax.Array) -> jax.Array:
  """`1 - decay^steps`, what an average from zero falls short by."""
  return 1 - jnp.power(decay, steps.astype(decay.dtype))


def _square(leaf: jax.Array) -> jax.Array:
  """The squares of the entries, real."""
  return jnp.square(jnp.abs(leaf)).astype(solver_dtype())


# What is done to each leaf, jitted so that leaves of one shape are traced and
# lowered once, with as few numbers as will do: XLA computes in the kernel of
# each leaf what leads to them. Complex leaves times real factors are refused by
# strict promotion.
@jax.jit
@jax.numpy_dtype_promotion("standard")
def _moved(numbers: Any, momenta: jax.Array, leaf: jax.Array) -> jax.Array:
  """All momenta, the one of the task whose turn it is moved."""
  decay, task, anyone = numbers
  old = masks.row(momenta, task)
  new = jnp.where(anyone, decay * old + (1 - decay) * wide(leaf), old)
  return jax.lax.dynamic_update_index_in_dim(
    momenta, new, task, 0, allow_negative_indices=False
  )


@jax.jit
@jax.numpy_dtype_promotion("standard")
def _moved_square(
  numbers: Any, square: jax.Array, old: jax.Array, new: jax.Array
) -> jax.Array:
  """The average of the squares of the pseudo gradient."""
  of_new, of_old, square_decay, ready = numbers
  gradient = of_new * new - of_old * old
  moved = square_decay * square + (1 - square_decay) * _square(gradient)
  return jnp.where(ready, moved, square)


@jax.jit
@jax.numpy_dtype_promotion("standard")
def _moved_pseudo(numbers: Any, old: jax.Array, new: jax.Array) -> jax.Array:
  """The pseudo momentum."""
  short, ready = numbers
  return jnp.where(ready, short * new, old)


@jax.jit
@jax.numpy_dtype_promotion("standard")
def _divided(
  numbers: Any, like: jax.Array, new: jax.Array, square: jax.Array
) -> jax.Array:
  """The update, in the dtype of `like`."""
  short_square, eps, ready = numbers
  size = jnp.sqrt(square / short_square) + eps
  # 0 / 0 where there is no `eps`: an entry that never had a gradient.
  size = jnp.where(size > 0, size, 1.0)
  return jnp.where(ready, new / size, 0.0).astype(like.dtype)


@method(
  paper="Liu, Chu & Thuerey, ConFIG: Towards Conflict-free Training of "
  "Physics Informed Neural Networks, ICLR 2025",
  url="https://arxiv.org/abs/2408.11104",
  weights_sum="none",
)
def m_config(
  num_tasks: int,
  b1: ArrayLike = 0.9,
  b2: ArrayLike = 0.999,
  *,
  eps: ArrayLike = 1e-8,
  length: Length = "projection",
) -> UpdateRule[MConfigMemory]:
  """M-ConFIG: ConFIG on momenta, at one backward pass a step for any T.

  In each step one task, in turn, has its gradient taken and its momentum moved:
  `m_i ← β1 m_i + (1-β1) g_i`. The direction `ĝ` is that of `conflict_free`
  between all momenta, each corrected for its start from zero. The second moment
  is that of the gradient that would have moved one momentum to `ĝ`: with
  `m_c(t) = (1-β1^t) ĝ`, of `g_c = (m_c(t) - β1 m_c(t-1)) / (1-β1)`. The update
  is `ĝ / (√v̂ + ε)`, with `v̂` the corrected average of `g_c²`: what Adam makes
  of one task. There are no weights that could sum to anything.

  It is an optimizer itself: follow it with `optax.sgd`, or a schedule, and not
  with Adam.

  Until each task has had its turn once, the update is zero, and `t` counts from
  there, as in the authors' code. An absent task's turn passes to the next one
  that is there; its momentum stands still, and takes no part. Updates wait for
  the tasks that are there. A task whose momentum is zero takes no part either.

  With a source that knows the trunk, the momenta are the trunk's, and the
  heads' own gradients cost a second backward pass. A source that stacks the
  gradients has taken all T of them before this method chooses one: take
  `source="implicit"`. With it, `drop_nonfinite` looks at all T.

  Args:
    num_tasks: The number of tasks `T`.
    b1: `β1` in [0, 1), the decay of the momenta. Default 0.9, the paper's.
    b2: `β2` in [0, 1), the decay of the second moment. Default 0.999, the
      paper's.
    eps: `ε`, in the unit of the gradients. Default 1e-8, the paper's.
    length: As in `conflict_free`. Default "projection", the paper's.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `b1`, `b2` or `eps` is out of range, or `length` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.m_config(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 4.0]])
    >>> updates, state = tx.update(grads, state)  # task 0's turn
    >>> print(updates)
    [0. 0.]
    >>> updates, state = tx.update(grads, state)  # task 1's
    >>> print(updates.round(3))
    [1. 1.]

  References:
    Liu, Chu & Thuerey, `ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks <https://arxiv.org/abs/2408.11104>`_, ICLR 2025.
  """
  _checks.check_range("b1", b1, 0, 1, open_high=True)
  _checks.check_range("b2", b2, 0, 1, open_high=True)
  _checks.check_range("eps", eps, 0)
  _checks.check_choice("length", length, LENGTHS)

  def init(params: Any) -> MConfigMemory:
    leaves = jax.tree.map(lambda p: wide(jnp.asarray(p)), params)
    return MConfigMemory(
      task_momenta=zero_rows(num_tasks, params),
      momentum_steps=jnp.zeros((num_tasks,), jnp.int32),
      pseudo_momentum=jax.tree.map(jnp.zeros_like, leaves),
      pseudo_square=jax.tree.map(
        lambda p: jnp.zeros_like(p, solver_dtype()), leaves
      ),
      pseudo_step=jnp.zeros((), jnp.int32),
      next_task=jnp.zeros((), jnp.int32),
    )

  def update(step: Step, memory: MConfigMemory) -> tuple[Any, MConfigMemory]:
    decay = jnp.asarray(b1, solver_dtype())
    square_decay = jnp.asarray(b2, solver_dtype())
    active, anyone = step.active, jnp.any(step.active)
    task = _turn(memory.next_task, active)
    gradient = step.gradients.gradient_of(task)

    # Only the trunk's leaves move: those of heads stay zero, and what pulls
    # them back is not computed.
    def change(function: Any, numbers: Any, *trees: Any) -> Any:
      """The first tree, its trunk's leaves replaced by those of a function."""
      picked = [trunk_of(step, tree) for tree in trees]
      new = [function(numbers, *leaves) for leaves in zip(*picked, strict=True)]
      return replaced(step, new, trees[0])

    momenta = change(
      _moved, (decay, task, anyone), memory.task_momenta, gradient
    )
    steps = memory.momentum_steps.at[task].add(anyone.astype(jnp.int32))

    seen = steps > 0
    present = active & seen
    bias = jnp.where(seen, _bias(decay, steps), 1.0)
    scale = jnp.where(present, 1 / bias, 0.0)
    gram = linalg.gram(trunk_of(step, momenta), num_tasks)
    both = present[:, None] & present[None, :]
    gram = jnp.where(both, gram, 0.0) * scale[:, None] * scale[None, :]
    weights, _ = conflict_free_weights(gram, present, length)
    direction = change(
      lambda scaled, _, m: linalg.combine(m, scaled, present),
      weights * scale,
      memory.pseudo_momentum,
      momenta,
    )

    # Until all that are there have a momentum, nothing moves.
    ready = anyone & jnp.all(seen | ~active)
    count = memory.pseudo_step + ready.astype(jnp.int32)
    short = jnp.where(ready, _bias(decay, count), 1.0)
    short_square = jnp.where(ready, _bias(square_decay, count), 1.0)
    squares = change(
      _moved_square,
      (short / (1 - decay), decay / (1 - decay), square_decay, ready),
      memory.pseudo_square,
      memory.pseudo_momentum,
      direction,
    )
    momentum = change(
      _moved_pseudo, (short, ready), memory.pseudo_momentum, direction
    )
    updates = change(
      _divided,
      (short_square, jnp.asarray(eps, solver_dtype()), ready),
      gradient,
      direction,
      squares,
    )

    return updates, MConfigMemory(
      task_momenta=momenta,
      momentum_steps=steps,
      pseudo_momentum=momentum,
      pseudo_square=squares,
      pseudo_step=count,
      next_task=jnp.where(
        anyone, jnp.mod(task + 1, num_tasks), memory.next_task
      ).astype(jnp.int32),
    )

  return UpdateRule(update, init)
