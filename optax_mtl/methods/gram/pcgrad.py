"""PCGrad: conflicting gradients projected off each other."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods.gram._surgery import (
  Left,
  draw_orders,
  first_order_key,
  meet_in_turn,
)


class PcgradMemory(NamedTuple):
  """What `pcgrad` remembers.

  Attributes:
    order_key: Array [2] uint32, raw data of the key that draws the orders.
  """

  order_key: jax.Array


def _surgery(gram: jax.Array, orders: jax.Array) -> jax.Array:
  """Projects every gradient off those that it conflicts with, one by one.

  Args:
    gram: Array [T, T].
    orders: Array [T, T] of int, row i the order in which gradient i meets the
      others.

  Returns:
    Array [T, T], row i the coefficients of the projected gradient i.
  """
  tasks = jnp.arange(gram.shape[0])
  squares = jnp.diagonal(gram)

  def meet(
    left: Left, others: jax.Array, nothing: tuple[()]
  ) -> tuple[jax.Array, tuple[()]]:
    product = left.products[tasks, others]
    square = squares[others]
    # Not `product < 0`: of gradients whose products overflow it is NaN, and has
    # to show.
    conflicts = ~(product >= 0) & ~(square <= 0)
    share = -product / jnp.where(square == 0, 1.0, square)
    return jnp.where(conflicts, share, 0.0), nothing

  return meet_in_turn(gram, orders, meet, ())[0]


@method(
  paper="Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020",
  url="https://arxiv.org/abs/2001.06782",
  weights_sum="free, T without conflict",
  claims=["positive_weights", "scale_equivariant"],
)
def pcgrad(
  num_tasks: int,
  *,
  reduction: Literal["sum", "mean"] = "sum",
  seed: int = 0,
) -> WeightRule[PcgradMemory]:
  """Projecting conflicting gradients: gradient surgery.

  Each gradient meets the others in a random order of its own, drawn afresh in
  every step; where the inner product of what is left of it with another
  original gradient is negative, it is projected on that one's normal plane.
  The update is the sum of the results. With more than two tasks it may still
  conflict with some of them. The weights sum to T where nothing conflicts, and
  to more than that otherwise.

  All T gradients are treated at once, on coefficients: the cost beside the Gram
  matrix is T steps on [T, T].

  Args:
    num_tasks: The number of tasks `T`.
    reduction: "sum" (default, as in the paper) or "mean" over the active tasks.
    seed: Seeds the orders.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `seed` is no integer.
    ValueError: `reduction` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.pcgrad(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(updates)
    [0.5 1.5]

  References:
    Yu et al., `Gradient Surgery for Multi-Task Learning
    <https://arxiv.org/abs/2001.06782>`_, NeurIPS 2020.
  """
  _checks.check_choice("reduction", reduction, ("sum", "mean"))
  _checks.check_seed("seed", seed)

  def init() -> PcgradMemory:
    return PcgradMemory(order_key=first_order_key(seed))

  def weigh(step: Step, memory: PcgradMemory) -> tuple[jax.Array, PcgradMemory]:
    orders, order_key = draw_orders(memory.order_key, num_tasks)
    weights = jnp.sum(_surgery(step.gram(), orders), axis=0)
    if reduction == "mean":
      weights = weights / step.num_active
    return weights, PcgradMemory(order_key)

  return WeightRule(weigh, init)
