"""PCGrad: conflicting gradients projected off each other."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step


class PcgradMemory(NamedTuple):
  """What `pcgrad` remembers.

  Attributes:
    order_key: Array [2] uint32, raw data of the key that draws the orders.
  """

  order_key: jax.Array


def draw_orders(
  order_key: jax.Array, num_tasks: int
) -> tuple[jax.Array, jax.Array]:
  """Draws for every gradient the order in which it meets the others.

  Args:
    order_key: Array [2] uint32, as in `PcgradMemory`.
    num_tasks: The number of tasks `T`.

  Returns:
    Array [T, T] of int, each row a permutation, and the next `order_key`.
  """
  key = jax.random.wrap_key_data(order_key, impl="threefry2x32")
  key, now = jax.random.split(key)
  # 32 bits under x64 too, so that the orders are the same there.
  bits = jax.random.bits(now, (num_tasks, num_tasks), jnp.uint32)
  return jnp.argsort(bits, axis=1), jax.random.key_data(key)


def _surgery(gram: jax.Array, orders: jax.Array) -> jax.Array:
  """Projects every gradient off those that it conflicts with, one by one.

  Args:
    gram: Array [T, T].
    orders: Array [T, T] of int, row i the order in which gradient i meets the
      others.

  Returns:
    Array [T, T], row i the coefficients of the projected gradient i.
  """
  num_tasks = gram.shape[0]
  tasks = jnp.arange(num_tasks)
  squares = jnp.diagonal(gram)

  def meet(
    carry: tuple[jax.Array, jax.Array], others: jax.Array
  ) -> tuple[tuple[jax.Array, jax.Array], None]:
    # All tasks at once, each with the one that is next in its own order.
    # `products` is `coefficients @ gram`, kept up to date row by row.
    coefficients, products = carry
    product = products[tasks, others]
    square = squares[others]
    # Not `product < 0`: of gradients whose products overflow it is NaN, and has
    # to show.
    conflicts = ~(product >= 0) & (others != tasks) & ~(square <= 0)
    share = jnp.where(
      conflicts, -product / jnp.where(square == 0, 1.0, square), 0.0
    )
    coefficients = coefficients.at[tasks, others].add(share)
    products = products + share[:, None] * gram[others]
    return (coefficients, products), None

  start = (jnp.eye(num_tasks, dtype=gram.dtype), gram)
  (coefficients, _), _ = jax.lax.scan(meet, start, orders.T)
  return coefficients


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
    key = jax.random.key(seed, impl="threefry2x32")
    return PcgradMemory(order_key=jax.random.key_data(key))

  def weigh(step: Step, memory: PcgradMemory) -> tuple[jax.Array, PcgradMemory]:
    orders, order_key = draw_orders(memory.order_key, num_tasks)
    weights = jnp.sum(_surgery(step.gram(), orders), axis=0)
    if reduction == "mean":
      weights = weights / step.num_active
    return weights, PcgradMemory(order_key)

  return WeightRule(weigh, init)
