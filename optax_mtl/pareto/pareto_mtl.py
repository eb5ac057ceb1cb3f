"""Pareto MTL: one solution in each sub-region of the loss space."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_mtl import _base, _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.pareto.preferences import das_dennis_directions
from optax_mtl.solvers import min_norm
from optax_mtl.solvers._certificate import Certificate, initial_certificate


class ParetoMtlState(NamedTuple):
  """State of `pareto_mtl`.

  Attributes:
    weights: Array [T], the weights of the last update; they may be negative.
    certificate: How exactly the last update solved its problem.
    optimizing: Scalar bool, whether the second phase has begun.
    phase_step: Scalar int32, the number of updates spent in the first phase.
  """

  weights: jax.Array
  certificate: Certificate
  optimizing: jax.Array
  phase_step: jax.Array


def _unit(vectors: jax.Array) -> jax.Array:
  """Rows scaled to length 1; a zero row stays."""
  norms = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / jnp.where(norms == 0, jnp.ones_like(norms), norms)


@_base.method(
  paper="Lin, Zhen, Li, Zhang & Kwong, Pareto Multi-Task Learning, "
  "NeurIPS 2019",
  url="https://arxiv.org/abs/1912.12854",
  family="pareto",
  needs=["losses", "preference"],
  uses_gram=True,
  weights_sum="free",
  example=lambda tasks: {
    "directions": das_dennis_directions(max(tasks) + 1, 2)[:, list(tasks)],
    "feasibility_steps": 5,
  },
  claims=["scale_equivariant"],
)
def pareto_mtl(
  num_tasks: int,
  directions: Any,
  *,
  feasibility_steps: Any = 100,
  epsilon: Any = 0.0,
  normalize_constraints: bool = False,
  rescale: bool = False,
  solver: str = "wolfe",
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
  """Finds a Pareto stationary point in the sub-region of one preference.

  K directions divide the positive orthant of losses; the sub-region of `u_k`
  holds the loss vectors that are closer in angle to `u_k` than to any other:
  `G_j = (u_j - u_k)ᵀ L <= 0` for all j. The first phase descends the violated
  constraints alone, along the min-norm point of `{∇G_j : G_j > 0}`, until none
  is violated or `feasibility_steps` are spent. The second descends the losses
  and the constraints that bind, along the min-norm point of
  `{∇L_i} ∪ {∇G_j : G_j > -ε}`. The switch is made once, inside jit. Since
  `∇G_j` is a combination of task gradients, all of it is one weight a task:
  `α_i = λ_i + Σ_j β_j (u_ji - u_ki)`. These weights may be negative, and have
  no fixed sum.

  The preference is an extra arg of the update, so that `jax.vmap` over
  preferences, and over params and states with them, trains the whole front at
  once. It is a *direction*: the solution is wanted near the ray `L ∝ u`, and
  with (1, 0) the loss of the second task is to be zero.
  `optax_mtl.pareto.invert_preference` turns a weight into a direction.

  The paper takes `G_j >= 0` as violated in the first phase and states no
  numbers for the budget; the sign test here is strict in both phases and made
  on `L / ‖L‖`, as in the authors' code. Losses should not be negative.

  Args:
    num_tasks: The number of tasks `T`.
    directions: Array [K, T], non-negative: all directions that divide the
      space; scaled to length 1 here. See `optax_mtl.pareto.uniform_directions`
      and `das_dennis_directions`.
    feasibility_steps: Budget of the first phase, at least 0. Default 100 (our
      choice; the authors use 20 of 100 steps on their toy problem, two epochs
      on MultiMNIST).
    epsilon: Constraints this close to being violated bind in the second phase;
      in units of `‖L‖`. Default 0, as in the authors' code.
    normalize_constraints: Whether to scale each `∇G_j` by `1 / ‖u_j - u_k‖`, so
      that many directions, which lie close to each other, do not shorten the
      steps. Not in the paper. Default False: it helps with many directions and
      few steps, but a larger `feasibility_steps` helps more.
    rescale: Whether to scale the weights of the second phase to `Σ|α_i| = T`,
      as the authors' MultiMNIST code does; not in the paper. Default False.
    solver: The variant of `optax_mtl.solvers.min_norm`. Default "wolfe", exact.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: What the other leaves get: "sum", each task's own gradient, or
      "weighted", the same weights as the trunk.
    on_nonfinite: "propagate" a NaN or inf, or "drop" the task for this step,
      judged by what `update` gets: see `value_and_task_grads` on NaN.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and `preference` [T], and takes
    `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses` or `preference`.
    ValueError: `directions` has the wrong shape, or a number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> directions = optax_mtl.pareto.uniform_directions(5)
    >>> tx = optax_mtl.pareto_mtl(num_tasks=2, directions=directions)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads, losses = jnp.eye(2), jnp.array([1.0, 1.0])
    >>> updates, state = tx.update(
    ...   grads, state, losses=losses, preference=directions[2]
    ... )
    >>> print(updates.round(3), state.optimizing)
    [0.5 0.5] True

  References:
    Lin et al., `Pareto Multi-Task Learning <https://arxiv.org/abs/1912.12854>`_,
    NeurIPS 2019.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  _checks.check_range("feasibility_steps", feasibility_steps, 0)
  _checks.check_range("epsilon", epsilon, 0)
  directions = jnp.asarray(directions)
  if directions.ndim != 2 or directions.shape[1] != num_tasks:
    raise ValueError(
      f"directions must have shape [K, {num_tasks}], one row a preference, got "
      f"{list(directions.shape)}."
    )

  def init():
    return ParetoMtlState(
      weights=jnp.full((num_tasks,), 1 / num_tasks, solver_dtype()),
      certificate=initial_certificate(),
      optimizing=jnp.zeros((), jnp.bool_),
      phase_step=jnp.zeros((), jnp.int32),
    )

  def weigh(step, state):
    dtype = solver_dtype()
    # Absent tasks span no axis of the loss space.
    present = step.active.astype(dtype)
    losses = _unit(step.losses)
    own = _unit(step.preference * present)
    others = _unit(directions.astype(dtype) * present[None, :])
    normals = others - own[None, :]
    values = normals @ losses
    # The preference itself is among the directions: its row is no constraint.
    distance = jnp.linalg.norm(normals, axis=-1)
    is_constraint = distance > 16 * jnp.finfo(dtype).eps
    violated = is_constraint & (values > 0)
    binding = is_constraint & (values > -jnp.asarray(epsilon, dtype))
    if normalize_constraints:
      length = jnp.where(is_constraint, distance, jnp.ones_like(distance))
      normals = normals / length[:, None]

    spent = state.phase_step >= jnp.asarray(feasibility_steps, jnp.int32)
    optimizing = state.optimizing | spent | ~jnp.any(violated)
    rows = jnp.concatenate([jnp.eye(num_tasks, dtype=dtype), normals])
    in_hull = jnp.concatenate(
      [
        step.active & optimizing,
        jnp.where(optimizing, binding, violated),
      ]
    )
    gram = step.gram()
    hull = rows @ gram @ rows.T
    multipliers, certificate = min_norm(
      (hull + hull.T) / 2, variant=solver, active=in_hull
    )
    weights = multipliers @ rows
    if rescale:
      length = jnp.sum(jnp.abs(weights))
      factor = step.num_active / jnp.where(length == 0, 1.0, length)
      weights = jnp.where(optimizing & (length > 0), weights * factor, weights)
    return ParetoMtlState(
      weights=weights.astype(dtype),
      certificate=certificate,
      optimizing=optimizing,
      phase_step=state.phase_step + (~optimizing).astype(jnp.int32),
    )

  return _base.weighted_combination(
    "pareto_mtl",
    num_tasks,
    init,
    weigh,
    shared=shared,
    heads=heads,
    on_nonfinite=on_nonfinite,
  )
