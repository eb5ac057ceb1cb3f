"""PCGrad: conflicting gradients projected off each other."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype


class PcgradState(NamedTuple):
  """State of `pcgrad`.

  Attributes:
    weights: Array [T], the weights of the last update.
    order_key: Array [2] uint32, raw data of the key that draws the orders.
  """

  weights: jax.Array
  order_key: jax.Array


def draw_orders(
  order_key: jax.Array, num_tasks: int
) -> tuple[jax.Array, jax.Array]:
  """Draws for every gradient the order in which it meets the others.

  Args:
    order_key: Array [2] uint32, as in `PcgradState`.
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

  def meet(carry, others):
    # All tasks at once, each with the one that is next in its own order.
    # `products` is `coefficients @ gram`, kept up to date row by row.
    coefficients, products = carry
    product = products[tasks, others]
    square = squares[others]
    conflicts = (product < 0) & (others != tasks) & (square > 0)
    share = jnp.where(
      conflicts, -product / jnp.where(square > 0, square, 1.0), 0.0
    )
    coefficients = coefficients.at[tasks, others].add(share)
    products = products + share[:, None] * gram[others]
    return (coefficients, products), None

  start = (jnp.eye(num_tasks, dtype=gram.dtype), gram)
  (coefficients, _), _ = jax.lax.scan(meet, start, orders.T)
  return coefficients


@_base.method(
  paper="Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020",
  url="https://arxiv.org/abs/2001.06782",
  family="gram",
  uses_gram=True,
  weights_sum="free, T without conflict",
  claims=["positive_weights", "scale_equivariant"],
)
def pcgrad(
  num_tasks: int,
  *,
  reduction: str = "sum",
  seed: int = 0,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
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
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: What the other leaves get: "sum", each task's own gradient, or
      "weighted", the same weights as the trunk.
    on_nonfinite: "propagate" a NaN or inf, or "drop" the task for this step,
      judged by what `update` gets: see `value_and_task_grads` on NaN.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `reduction` or another choice is unknown.

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
  num_tasks = _checks.check_num_tasks(num_tasks)
  _checks.check_choice("reduction", reduction, ("sum", "mean"))

  def init():
    return PcgradState(
      weights=jnp.ones((num_tasks,), solver_dtype()),
      order_key=jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
    )

  def weigh(step, state):
    orders, order_key = draw_orders(state.order_key, num_tasks)
    weights = jnp.sum(_surgery(step.gram(), orders), axis=0)
    if reduction == "mean":
      weights = weights / step.num_active
    return PcgradState(weights, order_key)

  return _base.weighted_combination(
    "pcgrad",
    num_tasks,
    init,
    weigh,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
