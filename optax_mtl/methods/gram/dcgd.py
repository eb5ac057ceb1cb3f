"""DCGD: two gradients' update inside of the cone where neither loss rises."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step
from optax_mtl.methods._reference_task import (
  check_reference_task,
  reference_task,
  row_of_task_0,
)

Variant = Literal["center", "average", "projection"]

_VARIANTS = ("center", "average", "projection")
# A group's squared length is known to a few roundings of the square of the sum
# of its members' lengths: below so many, in units of T, it is rounding alone.
_NOTHING = 4.0


def _members(residual: Any) -> tuple[int | str, ...]:
  """The argument as a tuple."""
  if isinstance(residual, (list, tuple)):
    return tuple(residual)
  return (residual,)


@method(
  paper="Hwang & Lim, Dual Cone Gradient Descent for Training "
  "Physics-Informed Neural Networks, NeurIPS 2024",
  url="https://arxiv.org/abs/2409.18426",
  weights_sum="free",
  example=lambda tasks: {"residual": row_of_task_0(tasks)},
  claims=["positive_weights", "scale_equivariant"],
)
def dcgd(
  num_tasks: int,
  variant: Variant = "center",
  *,
  residual: int | str | Sequence[int | str] = 0,
) -> WeightRule[tuple[()]]:
  """Dual cone gradient descent: two groups of losses, neither of which rises.

  The method is one of two gradients: in a physics-informed network that of the
  equation's residual, `g_r`, and that of all boundary and initial conditions,
  `g_b`, the sum of theirs. The update lies in their dual cone, in which
  `g_r · d >= 0` and `g_b · d >= 0`. Of more than two tasks it is the two sums
  that do not rise, as in the authors' code, and not each task. Variants:

  - "center": `(n_r + n_b)/2 (g_r/n_r + g_b/n_b)`, the projection of the sum on
    the cone's axis. It is ConFIG with two tasks.
  - "average": the sum, unless that raises one of the two losses: then the mean
    of each gradient's projection on the other's normal plane, which is half of
    PCGrad.
  - "projection": the sum's projection on the dual cone: `dual_proj` of the sum,
    with two tasks.

  The weights' sum is free: 2 in the latter two where nothing conflicts. Where a
  group has no gradient, or is absent, the update is the other's. The authors'
  code adds 1e-8 to the norms; here nothing is added, and "center" is written
  without the division by `1 + cos` that fails for opposite gradients, of which
  the update is zero.

  Args:
    num_tasks: The number of tasks `T`: 2, or more in two groups.
    variant: "center" (default), "average" or "projection".
    residual: The task of the residual, by its row or its name, or several of
      them, as for a system of equations; all others are the second group.
      Default row 0; rows go by the order of the sorted names.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `residual` holds something that is neither a string nor an index.
    ValueError: `variant` is unknown, or there is no such task.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.dcgd(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [2. 2.]

  References:
    Hwang & Lim, `Dual Cone Gradient Descent for Training Physics-Informed
    Neural Networks <https://arxiv.org/abs/2409.18426>`_, NeurIPS 2024.
  """
  _checks.check_choice("variant", variant, _VARIANTS)
  tasks = _members(residual)
  for task in tasks:
    check_reference_task(task, num_tasks, "residual")
  # A single task is a group without another. A traced row is not compared.
  most = max(num_tasks - 1, 1)
  known = [
    t for t in tasks if isinstance(t, str) or _checks.is_python_number(t)
  ]
  if not 0 < len(tasks) <= most or len(set(known)) < len(known):
    raise ValueError(
      f"residual must name between 1 and {most} of the {num_tasks} tasks, each "
      f"once, so that there are two groups; got {list(tasks)}."
    )

  @from_step
  def rule(step: Step) -> jax.Array:
    rows = jnp.arange(num_tasks, dtype=jnp.int32)
    first = jnp.zeros((num_tasks,), jnp.bool_)
    for task in tasks:
      first |= rows == reference_task(task, step, "residual")
    gram = step.gram()
    groups = jnp.stack([first, ~first]) & step.active[None, :]
    sums = groups.astype(gram.dtype)
    weights = _of_two(gram, sums, variant)
    return jnp.matmul(weights, sums, precision="highest")

  return rule


def _of_two(gram: jax.Array, sums: jax.Array, variant: Variant) -> jax.Array:
  """The weights [2] of two sums of gradients.

  Args:
    gram: Array [T, T].
    sums: Array [2, T], which tasks are in each.
    variant: As for `dcgd`.

  Returns:
    Array [2].
  """
  products = jnp.matmul(
    jnp.matmul(sums, gram, precision="highest"), sums.T, precision="highest"
  )
  sizes = jnp.matmul(sums, jnp.sqrt(jnp.diagonal(gram)), precision="highest")
  squares = jnp.diagonal(products)
  eps = float(jnp.finfo(gram.dtype).eps)
  floor = _NOTHING * eps * len(gram) * jnp.square(sizes)
  # Not the other way round, so that NaN shows.
  nothing = squares <= floor
  lengths = jnp.sqrt(jnp.where(nothing, 1.0, squares))
  cosine = products[0, 1] / lengths[0] / lengths[1]
  both = ~jnp.any(nothing)
  if variant == "center":
    weights = 0.5 * (lengths[0] + lengths[1]) / lengths
  else:
    # What the sum gains of each, over its length.
    gains = lengths + cosine * lengths[::-1]
    if variant == "average":
      apart = 0.5 * (1.0 - cosine * lengths[::-1] / lengths)
      weights = jnp.where(jnp.any(gains < 0), apart, jnp.ones_like(apart))
    else:
      weights = 1.0 + jnp.maximum(-gains, 0.0) / lengths
  return jnp.where(both, weights, jnp.ones_like(weights))
