"""The median of the gradients, entry by entry."""

from typing import Any, NamedTuple

from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.methods.gradients._ranks import middle_mean


class MedianMemory(NamedTuple):
  """What `median` remembers: nothing."""


@method(
  paper="Yin, Chen, Ramchandran & Bartlett, Byzantine-Robust Distributed "
  "Learning: Towards Optimal Statistical Rates, ICML 2018",
  url="https://arxiv.org/abs/1803.01498",
  weights_sum="none",
  claims=["scale_equivariant"],
)
def median(num_tasks: int) -> UpdateRule[MedianMemory]:
  """The median of the tasks' gradients, in each entry by itself.

  As long as more than half of the tasks agree on an entry, the others cannot
  carry it away, however large their gradients are. Of an even number of tasks
  it is the mean of the two in the middle; of two it is the mean. Nothing is
  summed over the tasks: an update is as long as one gradient, and T times
  shorter than the sum.

  It was made for workers that have the same task, some of them broken. Of
  tasks that differ it keeps the one that is in the middle of each entry, and
  need not descend any: where most tasks have zero gradients in an entry, as at
  heads without `shared=`, it is zero. Tell the source which leaves are shared.

  An absent task is not counted. An infinite entry is as any large one (the
  mean of the two in the middle may be infinite, or NaN of opposite ones); a NaN
  has no place in an order, and its entry of the update is NaN. A complex entry
  is two real ones.

  Args:
    num_tasks: The number of tasks `T`.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `num_tasks` is no int.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.median(num_tasks=3)
    >>> grads = jnp.array([[1.0, 2.0], [2.0, -1.0], [1e9, 0.0]])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> print(updates)
    [2. 0.]

  References:
    Yin, Chen, Ramchandran & Bartlett, `Byzantine-Robust Distributed Learning:
    Towards Optimal Statistical Rates <https://arxiv.org/abs/1803.01498>`_, ICML
    2018.
  """
  del num_tasks

  def update(step: Step, memory: MedianMemory) -> tuple[Any, MedianMemory]:
    return middle_mean(step, None), memory

  return UpdateRule(update, lambda params: MedianMemory())
