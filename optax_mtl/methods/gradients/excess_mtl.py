"""ExcessMTL: weights that grow with how far each task is from its optimum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.methods.gradients._trunk import (
  as_update,
  replaced,
  trunk_of,
  trunk_rows,
  zero_rows,
)


class ExcessMtlMemory(NamedTuple):
  """What `excess_mtl` remembers.

  Attributes:
    gradient_roots: Tree with leaves [T, *param.shape], real: the root of the
      sum of the squares of each task's gradients so far.
    first_excess: Array [T], each task's first excess risk that was not zero; 0
      before there was one.
    log_excess_weights: Array [T], logarithms of the weights of all tasks, the
      largest of which is 0.
    excess_weights: Array [T], the weights of the last update; 0 before the
      first.
  """

  gradient_roots: Any
  first_excess: jax.Array
  log_excess_weights: jax.Array
  excess_weights: jax.Array


# Jitted so that leaves of one shape are traced and lowered once.
@jax.jit
def _grown(roots: jax.Array, rows: jax.Array) -> jax.Array:
  """The roots of the sums with one more square."""
  return jnp.hypot(roots, jnp.abs(rows).astype(roots.dtype))


def _risk(rows: jax.Array, roots: jax.Array) -> jax.Array:
  """`g² / √S`; of nothing, 0."""
  sizes = jnp.abs(rows).astype(roots.dtype)
  none = roots == 0
  # The quotient first: it is at most 1, where a square may overflow.
  share = sizes / jnp.where(none, jnp.ones_like(roots), roots)
  return sizes * share


@method(
  paper="He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024",
  url="https://arxiv.org/abs/2402.02009",
  weights_sum="1",
  claims=["scale_equivariant"],
)
def excess_mtl(
  num_tasks: int, rate: ArrayLike = 1e-2
) -> UpdateRule[ExcessMtlMemory]:
  """ExcessMTL: weights grow with the excess risks, not with the losses.

  What is left of a loss above its optimum cannot be seen, for a noisy task's
  optimum is high. It is estimated from the gradients: `e_i = Σ g² / √S`, over
  the shared params, where `S ← S + g²` sums the squares so far, as in Adagrad.
  The weights are multiplied by `exp(η e_i / e_i⁰)`, relative to each task's
  first excess risk `e_i⁰`, and divided by their sum, which is 1. So the scale
  of a loss does not matter, and a noisy task does not draw all weight.

  The first step has equal weights: it gives `e⁰`. A task whose gradient has
  been zero so far has no `e⁰`, where other codes get NaN from then on: its
  weight stands still until it has one. So does that of a task that is absent:
  the others share the rest among themselves. Weights only ever grow, relative
  to each other, by what is left of each task; over very many steps the largest
  takes all.

  The authors' code multiplies the weights by T, so its learning rates are T
  times smaller, lets them multiply the heads' gradients too, and adds 1e-7 to
  `S`, which makes small gradients look smaller still; here all is relative.
  Heads get their own gradients. The weights depend on `S`, and so on the
  params, which is why they are in a memory like theirs: `excess_weights`.

  Args:
    num_tasks: The number of tasks `T`.
    rate: `η`, at least 0. Default 1e-2, as in the authors' code.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `rate` is negative.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.excess_mtl(num_tasks=2)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> print(updates)
    [0.5 1. ]

  References:
    He et al., `Robust Multi-Task Learning with Excess Risks
    <https://arxiv.org/abs/2402.02009>`_, ICML 2024.
  """
  _checks.check_range("rate", rate, 0)

  def init(params: Any) -> ExcessMtlMemory:
    zeros = jnp.zeros((num_tasks,), solver_dtype())
    roots = jax.tree.map(jnp.real, zero_rows(num_tasks, params))
    return ExcessMtlMemory(roots, zeros, zeros, zeros)

  def update(
    step: Step, memory: ExcessMtlMemory
  ) -> tuple[Any, ExcessMtlMemory]:
    rows = trunk_rows(step)
    roots = [
      _grown(*pair)
      for pair in zip(trunk_of(step, memory.gradient_roots), rows, strict=True)
    ]
    excess = linalg.row_totals(_risk, num_tasks, rows, roots)
    known = memory.first_excess != 0
    ratio = excess / jnp.where(known, memory.first_excess, 1.0)
    moves = step.active & known
    logs = memory.log_excess_weights + jnp.where(
      moves, jnp.asarray(rate, solver_dtype()) * ratio, 0.0
    )
    # Those that do not move keep their share of the sum.
    before = memory.log_excess_weights
    # Where none does all are summed, so that no infinity meets another.
    some = moves | ~jnp.any(moves)
    had = jax.nn.logsumexp(jnp.where(some, before, -jnp.inf))
    have = jax.nn.logsumexp(jnp.where(some, logs, -jnp.inf))
    logs = jnp.where(moves, logs - (have - had), logs)
    # Only their differences count.
    logs = logs - jnp.max(logs)
    anyone = jnp.any(step.active)
    # Of nothing the softmax is 0 / 0.
    weights = jax.nn.softmax(logs, where=step.active | ~anyone)
    weights = step.only_active(weights)
    # The rows of absent tasks are zeros.
    new = as_update(step, linalg.combine(rows, weights))
    return new, ExcessMtlMemory(
      replaced(step, roots, memory.gradient_roots),
      jnp.where(known, memory.first_excess, excess),
      logs,
      weights,
    )

  return UpdateRule(update, init)
