"""Gradients that meet the others one by one, in random orders of their own."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Extra = TypeVar("Extra")


class Left(NamedTuple):
  """What is left of all gradients so far, `ĝ_i = Σ_k coefficients_ik g_k`.

  Attributes:
    coefficients: Array [T, T].
    products: Array [T, T], entry (i, k) is `ĝ_i · g_k`.
  """

  coefficients: jax.Array
  products: jax.Array


#: Function `(left, others [T], extra) -> (shares [T], extra)`: how much of
#: gradient `others[i]` is added to what is left of gradient i.
Meet = Callable[[Left, jax.Array, Extra], tuple[jax.Array, Extra]]


def first_order_key(seed: int) -> jax.Array:
  """The `order_key` before the first step, array [2] uint32."""
  return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def draw_orders(
  order_key: jax.Array, num_tasks: int
) -> tuple[jax.Array, jax.Array]:
  """Draws for every gradient the order in which it meets the others.

  Args:
    order_key: Array [2] uint32, raw data of the key that draws the orders.
    num_tasks: The number of tasks `T`.

  Returns:
    Array [T, T] of int, each row a permutation, and the next `order_key`.
  """
  key = jax.random.wrap_key_data(order_key, impl="threefry2x32")
  key, now = jax.random.split(key)
  # 32 bits under x64 too, so that the orders are the same there.
  bits = jax.random.bits(now, (num_tasks, num_tasks), jnp.uint32)
  return jnp.argsort(bits, axis=1), jax.random.key_data(key)


def meet_in_turn(
  gram: jax.Array, orders: jax.Array, meet: Meet[Extra], extra: Extra
) -> tuple[jax.Array, Extra]:
  """Lets every gradient meet the others, one by one.

  Args:
    gram: Array [T, T].
    orders: Array [T, T] of int, row i the order in which gradient i meets the
      others; the turn in which it would meet itself passes.
    meet: What happens when they meet.
    extra: What `meet` carries along.

  Returns:
    Array [T, T], row i the coefficients of what is left of gradient i, and
    what `meet` carried along.
  """
  num_tasks = gram.shape[0]
  tasks = jnp.arange(num_tasks)

  def turn(
    carry: tuple[Left, Extra], others: jax.Array
  ) -> tuple[tuple[Left, Extra], None]:
    # All tasks at once, each with the one that is next in its own order.
    # `products` is `coefficients @ gram`, kept up to date row by row.
    left, extra = carry
    share, extra = meet(left, others, extra)
    share = jnp.where(others == tasks, 0.0, share)
    left = Left(
      left.coefficients.at[tasks, others].add(share),
      left.products + share[:, None] * gram[others],
    )
    return (left, extra), None

  start = Left(jnp.eye(num_tasks, dtype=gram.dtype), gram)
  (left, extra), _ = jax.lax.scan(turn, (start, extra), orders.T)
  return left.coefficients, extra
