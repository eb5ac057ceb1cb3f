"""Learning-rate annealing: weights that even out the gradients' entries."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._reference_task import (
  all_but,
  check_reference_task,
  reference_task,
  row_of_task_0,
)
from optax_mtl.methods.gram._entry_statistics import (
  entry_statistics,
  positive_ratio,
)


class LrAnnealingMemory(NamedTuple):
  """What `lr_annealing` remembers.

  Attributes:
    annealed_weights: Array [T], the moving averages `λ`, 1 at first.
  """

  annealed_weights: jax.Array


@method(
  paper="Wang, Teng & Perdikaris, Understanding and Mitigating Gradient Flow "
  "Pathologies in Physics-Informed Neural Networks, SISC 2021",
  url="https://arxiv.org/abs/2001.04536",
  weights_sum="free",
  example=lambda tasks: {"reference": row_of_task_0(tasks)},
  claims=["positive_weights", "scale_equivariant"],
)
def lr_annealing(
  num_tasks: int,
  reference: int | str = 0,
  *,
  statistic: Literal["max_mean", "mean", "std"] = "max_mean",
  relative: bool | None = None,
  decay: ArrayLike = 0.9,
) -> WeightRule[LrAnnealingMemory]:
  """Brings the gradients' entries to the size of the residual's largest.

  `λ̂_i = max|g_0| / mean|λ_i g_i|` over the entries of all shared leaves, where
  task 0 is the residual, whose weight stays 1, and `λ_i ← 0.9 λ_i + 0.1 λ̂_i`
  from 1. The weights' sum is free. The authors refresh them every tenth step,
  from the second on: `refresh_every(lr_annealing(num_tasks), 10, first=1)`;
  by itself the method does so in every step.

  With `λ_i` in the mean, as in the authors' code, a weight settles where its
  square is the ratio of the two, and so at the square root of what it would be
  without.

  A task keeps its weight where there is no ratio: where its gradient or the
  residual's is zero, absent or not finite.

  What is published under the name differs. The authors' code takes the mean of
  the means of the weight matrices, each counting the same, and leaves out the
  biases; here each entry counts the same. Others leave `λ_i` out of the mean
  (`relative=False`), take a mean above too (`statistic="mean"`), or weigh the
  new value by 0.9 (`decay=0.1`). The inverse Dirichlet weights of Maddu et al.
  are `reference="max", statistic="std", decay=0.5`; their code, and DB-PINN's,
  compares with the residual: `reference=0`.

  Args:
    num_tasks: The number of tasks `T`.
    reference: The residual, by its row or its name (default row 0; rows go by
      the order of the sorted names); or "max": the largest statistic of all,
      with which the residual is compared too.
    statistic: "max_mean" (default), the largest absolute entry above and their
      mean below; "mean", the mean above and below; "std", the standard
      deviation.
    relative: Whether `λ_i` stands in the denominator. None: for "max_mean" yes,
      for the others no.
    decay: Share of the old weight in the new one, in [0, 1). Default 0.9.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `reference` is neither a string nor an index.
    ValueError: An argument is out of range or unknown, or no task has the name.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.lr_annealing(num_tasks=2)
    >>> grads = jnp.array([[4.0, 0.0], [1.0, 1.0]])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> print(np.asarray(state.weights).round(3))
    [1.  1.3]

  References:
    Wang et al., `Understanding and Mitigating Gradient Flow Pathologies in
    Physics-Informed Neural Networks <https://arxiv.org/abs/2001.04536>`_, SISC
    2021; Maddu et al., `Inverse Dirichlet Weighting Enables Reliable Training
    of Physics-Informed Neural Networks <https://arxiv.org/abs/2107.00940>`_,
    2022.
  """
  if reference != "max":
    check_reference_task(reference, num_tasks, "reference")
  _checks.check_choice("statistic", statistic, ("max_mean", "mean", "std"))
  _checks.check_range("decay", decay, 0, 1, open_high=True)
  _checks.check_choice("relative", relative, (None, True, False))
  inside = statistic == "max_mean" if relative is None else relative

  def init() -> LrAnnealingMemory:
    return LrAnnealingMemory(jnp.ones((num_tasks,), solver_dtype()))

  def weigh(
    step: Step, memory: LrAnnealingMemory
  ) -> tuple[jax.Array, LrAnnealingMemory]:
    old = memory.annealed_weights
    above, below = entry_statistics(step, statistic)
    learns = step.active
    if reference == "max":
      # Not by `jnp.max` alone: on some platforms it loses a NaN.
      top = jnp.max(above) + 0 * jnp.sum(above)
    else:
      residual = reference_task(reference, step, "reference", ("max",))
      top = above[residual]
      learns = all_but(residual, step)
    ratio, known = positive_ratio(top, old * below if inside else below)
    learns = learns & known
    rate = 1 - jnp.asarray(decay, old.dtype)
    new = step.hold(old + rate * (ratio - old), old, learns)
    return new, LrAnnealingMemory(new)

  return WeightRule(weigh, init)
