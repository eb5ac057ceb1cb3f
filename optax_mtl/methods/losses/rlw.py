"""Random loss weighting: weights that are drawn."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step

Law = Literal["normal", "uniform", "bernoulli", "dirichlet"]


class RlwMemory(NamedTuple):
  """What `rlw` remembers.

  Attributes:
    weight_key: Array [2] uint32, raw data of the key that draws the weights.
  """

  weight_key: jax.Array


def draw_numbers(
  weight_key: jax.Array, num_tasks: int, law: Law
) -> tuple[jax.Array, jax.Array]:
  """The numbers that the weights are made of, before they sum to 1.

  Args:
    weight_key: Array [2] uint32, as in `RlwMemory`.
    num_tasks: How many.
    law: As in `rlw`.

  Returns:
    Array [num_tasks] float32, each number from a key of its own, and the next
    `weight_key`.
  """
  key = jax.random.wrap_key_data(weight_key, impl="threefry2x32")
  key, now = jax.random.split(key)
  draw = {
    "normal": jax.random.normal,
    "uniform": jax.random.uniform,
    "bernoulli": jax.random.uniform,
    "dirichlet": jax.random.exponential,
  }[law]
  # 32 bits under x64 too, so that the draws are the same there.
  numbers = jax.vmap(
    lambda i: draw(jax.random.fold_in(now, i), (), jnp.float32)
  )(jnp.arange(num_tasks))
  if law == "bernoulli":
    numbers = (numbers < 0.5).astype(numbers.dtype)
  return numbers, jax.random.key_data(key)


@method(
  paper="Lin, Ye, Zhang & Tsang, Reasonable Effectiveness of Random Weighting: "
  "A Litmus Test for Multi-Task Learning, TMLR 2022",
  url="https://arxiv.org/abs/2111.10603",
  weights_sum="1",
  claims=["simplex", "positive_weights", "scale_equivariant"],
)
def rlw(
  num_tasks: int,
  law: Law = "normal",
  *,
  seed: int = 0,
) -> WeightRule[RlwMemory]:
  """Random loss weighting: weights that are drawn anew in every step.

  They sum to 1, and have the mean 1/T: a test of what weights that are chosen
  gain over the noise that any weighting adds.

  * "normal": `softmax(z)` with `z ~ N(0, I)`.
  * "uniform": `softmax(u)` with `u` uniform in [0, 1): nearly equal weights.
  * "bernoulli": each task is in or out with a probability of 1/2, and those
    that are in share equally. Where none is, all do; that is our choice.
  * "dirichlet": uniform over all weights that sum to 1.

  Absent tasks take no number: the others weigh as if there were no more.
  In the authors' code, LibMTL, the Bernoulli numbers are the weights
  themselves, drawn again where none is in, and Dirichlet's go through a softmax
  too. Some others, such as IGB4MTL, multiply the weights by T.

  Args:
    num_tasks: The number of tasks `T`.
    law: "normal" (default), "uniform", "bernoulli" or "dirichlet".
    seed: Seeds the draws.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `seed` is no integer.
    ValueError: `law` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.rlw(num_tasks=2, law="dirichlet")
    >>> _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)))
    >>> print(np.asarray(state.weights, float).sum().round(3))
    1.0

  References:
    Lin, Ye, Zhang & Tsang, `Reasonable Effectiveness of Random Weighting
    <https://arxiv.org/abs/2111.10603>`_, TMLR 2022.
  """
  _checks.check_choice(
    "law", law, ("normal", "uniform", "bernoulli", "dirichlet")
  )
  _checks.check_seed("seed", seed)

  def init() -> RlwMemory:
    key = jax.random.key(seed, impl="threefry2x32")
    return RlwMemory(weight_key=jax.random.key_data(key))

  def weigh(step: Step, memory: RlwMemory) -> tuple[jax.Array, RlwMemory]:
    numbers, key = draw_numbers(memory.weight_key, num_tasks, law)
    numbers = numbers.astype(solver_dtype())
    # Each active task takes the next number.
    place = jnp.cumsum(step.active.astype(jnp.int32)) - 1
    numbers = numbers[jnp.maximum(place, 0)]
    if law in ("normal", "uniform"):
      numbers = jnp.exp(numbers)
    numbers = step.only_active(numbers)
    total = jnp.sum(numbers)
    equal = step.active.astype(numbers.dtype) / step.num_active
    weights = numbers / jnp.where(total > 0, total, 1.0)
    return jnp.where(total > 0, weights, equal), RlwMemory(key)

  return WeightRule(weigh, init)
