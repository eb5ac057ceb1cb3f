"""The mean of the gradients without the largest and the smallest entries."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.methods.gradients._ranks import middle_mean


class TrimmedMeanMemory(NamedTuple):
  """What `trimmed_mean` remembers: nothing."""


@method(
  paper="Yin, Chen, Ramchandran & Bartlett, Byzantine-Robust Distributed "
  "Learning: Towards Optimal Statistical Rates, ICML 2018",
  url="https://arxiv.org/abs/1803.01498",
  weights_sum="none",
  example=lambda tasks: {"trim": min(1, (len(tasks) - 1) // 2)},
  claims=["scale_equivariant"],
)
def trimmed_mean(
  num_tasks: int, trim: ArrayLike = 1
) -> UpdateRule[TrimmedMeanMemory]:
  """The mean of the tasks' gradients without the extremes of each entry.

  In each entry the `trim` largest and the `trim` smallest are left out, and the
  update is the mean of the rest: so up to `trim` tasks, whatever their
  gradients are, cannot carry an entry beyond those of the others. It is a mean
  over `T - 2 trim` tasks: as long as one gradient, and not as their sum.
  `trim=0` is the mean, and the largest trim that leaves something is `median`.

  It was made for workers that have the same task, some of them broken. Of
  tasks that differ it leaves out those that differ most, and need not descend
  any. Where most tasks have zero gradients in an entry, as at heads without
  `shared=`, what is left is zero: tell the source which leaves are shared.

  The paper trims a fraction of the workers; here, as in TorchJD, it is a
  number. An absent task is not counted, and where so few are there that nothing
  would be left, less is trimmed, down to the median. An infinite entry is as
  any large one; a NaN has no place in an order, and its entry of the update is
  NaN. A complex entry is two real ones.

  Args:
    num_tasks: The number of tasks `T`.
    trim: How many entries are left out on either side, below T / 2. Default 1.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    ValueError: `trim` is no whole number from 0 on, or leaves nothing.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.trimmed_mean(num_tasks=4)
    >>> grads = jnp.array([[1.0], [3.0], [1e9], [-5.0]])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(1)))
    >>> print(updates)
    [2.]

  References:
    Yin, Chen, Ramchandran & Bartlett, `Byzantine-Robust Distributed Learning:
    Towards Optimal Statistical Rates <https://arxiv.org/abs/1803.01498>`_, ICML
    2018.
  """
  _checks.check_whole("trim", trim, 0)
  most = (num_tasks - 1) // 2
  known: Any = trim
  if _checks.is_python_number(known) and known > most:
    raise ValueError(
      f"trim={trim} on either side leaves nothing of {num_tasks} tasks: it can "
      f"be at most {most}, which is optax_mtl.median(num_tasks)."
    )

  def update(
    step: Step, memory: TrimmedMeanMemory
  ) -> tuple[Any, TrimmedMeanMemory]:
    return middle_mean(step, jnp.asarray(trim).astype(jnp.int32)), memory

  return UpdateRule(update, lambda params: TrimmedMeanMemory())
