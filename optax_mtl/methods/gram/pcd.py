"""PCD: one primary task, and a share of progress for each of the others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._moving_mean import moving_mean
from optax_mtl.methods._reference_task import (
  all_but,
  check_reference_task,
  reference_task,
  row_of_task_0,
)
from optax_mtl.solvers import (
  Certificate,
  initial_certificate,
  nearest_with_gains,
)
from optax_mtl.solvers.combined import combined_norm

# `‖d̃‖²` is known to a few roundings of the square of the sum of its terms'
# lengths: shorter than so many roots of a rounding, it is rounding alone.
_NOTHING = 2.0


class PcdMemory(NamedTuple):
  """What `pcd` remembers.

  Attributes:
    square_average: Array [T], the moving average of the squared norms.
    square_mass: Array [T], how much of the average is known: it grows from 0 to
      1, and corrects the average for its start.
    certificate: How exactly the last update solved its problem.
  """

  square_average: jax.Array
  square_mass: jax.Array
  certificate: Certificate


@method(
  paper="Varam & AlHajri, Not All Objectives Are Born Equal: "
  "Priority-Constrained Descent for Hierarchical Multi-Objective "
  "Optimization, TMLR 2026",
  url="https://arxiv.org/abs/2606.29521",
  weights_sum="free",
  example=lambda tasks: {"primary": row_of_task_0(tasks)},
  claims=["positive_weights", "scale_equivariant"],
)
def pcd(
  num_tasks: int,
  tau: _checks.TaskValues = 0.02,
  *,
  primary: int | str = 0,
  decay: ArrayLike = 0.999,
) -> WeightRule[PcdMemory]:
  """Priority-constrained descent: the primary task, and progress for the rest.

  With each gradient divided by the root of a moving average of its squared
  norm, corrected for its start from zero, `g̃_i`, the direction `d̃` is the
  nearest to the primary `g̃_1` with `g̃_j · d̃ >= τ ‖g̃_j‖²` for every other
  task: each makes at least the share `τ` of the progress that a step along its
  own gradient would. The update is `d̃`, brought to the length of the primary
  gradient. No loss needs a weight: scaling one of the others changes nothing.
  The weights' sum is free. The primary loss itself has no such share: where a
  helper's gradient is opposite to the primary one, the helper is followed, and
  the primary loss rises.

  Where no direction gives every task its share, since a combination of the
  others' gradients vanishes (two opposite ones, for instance), the update is
  the primary gradient alone, as in the paper's algorithm, and the certificate's
  `status` in the state is STATIONARY. With `τ = 0` there always is one.

  Where the primary gradient is zero, so is the update: the paper's halt. It is
  zero also where rounding no longer tells `d̃` from zero, as for two opposite
  gradients and a `τ` of about 1e-3 or less in float32. Where the primary task
  is absent the paper is silent: the tasks that are there are summed.

  The authors' code tries all subsets of the constraints, and adds 1e-8 to the
  average of the squared norms; here the problem is solved by an active-set
  method for any number of tasks, and nothing is added. Under `refresh_every`
  the averages move in the steps that compute weights.

  Args:
    num_tasks: The number of tasks `T`.
    tau: `τ >= 0`, the share of its own progress that each other task gets: a
      number, or one for each task, in the order of the rows or as a dict by the
      tasks' names; the primary's is not looked at. Default 0.02, which is the
      paper's; it found the largest gains at 0.1 and below.
    primary: The primary task, by its row or its name. Default row 0; rows go by
      the order of the sorted names.
    decay: Share of the old value in the moving average of the squared norms, in
      [0, 1). Default 0.999, as in the paper; 0 makes unit gradients.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `primary` is neither a string nor an index.
    ValueError: An argument is out of range, or has other tasks' names.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.pcd(num_tasks=2, tau=0.5)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 9.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.894 0.447]

  References:
    Varam & AlHajri, `Not All Objectives Are Born Equal: Priority-Constrained
    Descent for Hierarchical Multi-Objective Optimization
    <https://arxiv.org/abs/2606.29521>`_, Transactions on Machine Learning
    Research, 2026.
  """
  check_reference_task(primary, num_tasks, "primary")
  _checks.check_range("decay", decay, 0, 1, open_high=True)
  given = _checks.number_or_task_argument(tau, num_tasks, "tau")
  _checks.check_values(
    given.values,
    lambda x: ~(x < 0),
    "tau is the share of its own progress that each task gets, and must not "
    "be negative: got {values}.",
  )

  def init() -> PcdMemory:
    return PcdMemory(
      jnp.zeros((num_tasks,), solver_dtype()),
      jnp.zeros((num_tasks,), solver_dtype()),
      initial_certificate(),
    )

  def weigh(step: Step, memory: PcdMemory) -> tuple[jax.Array, PcdMemory]:
    gram = step.gram()
    row = reference_task(primary, step, "primary")
    squares = jnp.diagonal(gram)
    old = (memory.square_average, memory.square_mass)
    average, mass = step.hold(
      moving_mean(*old, squares, decay),
      old,
      step.active & jnp.isfinite(squares),
    )
    # A zero average is that of a task that never had a gradient.
    root = jnp.sqrt(jnp.where(average > 0, average, 1.0))
    others = all_but(row, step)
    shares = step.given(given).astype(gram.dtype)
    first = step.active & ~others
    coefficients, certificate = nearest_with_gains(
      gram,
      jnp.where(first, 1 / root, 0.0),
      # Of `g̃_j · d̃ >= τ ‖g̃_j‖²`, times the root.
      jnp.where(others, shares * (jnp.sqrt(squares) / root), 0.0)
      * jnp.sqrt(squares),
      constrained=others,
      active=step.active,
    )
    length = combined_norm(gram, coefficients)
    size = jnp.sum(jnp.abs(coefficients) * jnp.sqrt(squares))
    eps = float(jnp.finfo(gram.dtype).eps)
    nothing = length <= _NOTHING * eps**0.5 * size
    own = jnp.sqrt(squares[row])
    factor = jnp.where(nothing, 0.0, own / jnp.where(nothing, 1.0, length))
    weights = jnp.where(
      step.active[row], coefficients * factor, step.active.astype(gram.dtype)
    )
    return weights, PcdMemory(average, mass, certificate)

  return WeightRule(weigh, init)
