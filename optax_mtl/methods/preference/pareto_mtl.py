"""Pareto MTL: one solution in each sub-region of the loss space."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.pareto.preferences import das_dennis_directions
from optax_mtl.solvers import Certificate, initial_certificate, min_norm


class ParetoMtlMemory(NamedTuple):
  """What `pareto_mtl` remembers.

  Attributes:
    certificate: How exactly the last update solved its problem.
    violation: Scalar, the largest `(u_j - u_k)ᵀ L / ‖L‖` at the last update:
      positive while the losses are outside of the preference's sub-region.
    optimizing: Scalar bool, whether the last update was one of the second
      phase.
    phase_step: Scalar int32, the number of updates spent in the first phase
      since the losses were last in the sub-region; with `reenter=False`, in
      all.
  """

  certificate: Certificate
  violation: jax.Array
  optimizing: jax.Array
  phase_step: jax.Array


class _Constraints(NamedTuple):
  """The sub-region of one preference, at one loss vector."""

  normals: jax.Array  # [K, T], u_j - u_k
  values: jax.Array  # [K], G_j on L / ‖L‖; -inf for the preference's own row
  lengths: jax.Array  # [K], ‖u_j - u_k‖; 1 for the preference's own row


def _unit(vectors: jax.Array) -> jax.Array:
  """Rows scaled to length 1; a zero row stays."""
  norms = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / jnp.where(norms == 0, jnp.ones_like(norms), norms)


def _constraints(step: Step, directions: jax.Array) -> _Constraints:
  dtype = solver_dtype()
  losses = jnp.maximum(step.losses, 0)
  # Absent tasks span no axis of the loss space.
  present = step.active.astype(dtype)
  own = jnp.maximum(step.preference, 0) * present
  own = jnp.where(jnp.any(own != 0), own, present)
  own = _unit(own)
  others = _unit(directions.astype(dtype) * present[None, :])
  normals = others - own[None, :]
  lengths = jnp.linalg.norm(normals, axis=-1)
  # The preference itself is among the directions: its row is no constraint. A
  # difference of two unit vectors is known to a few roundings.
  counts = lengths > 16 * jnp.finfo(dtype).eps
  values = jnp.matmul(normals, _unit(losses), precision="highest")
  return _Constraints(
    normals=normals,
    values=jnp.where(counts, values, -jnp.inf),
    lengths=jnp.where(counts, lengths, jnp.ones_like(lengths)),
  )


@method(
  paper="Lin, Zhen, Li, Zhang & Kwong, Pareto Multi-Task Learning, "
  "NeurIPS 2019",
  url="https://arxiv.org/abs/1912.12854",
  weights_sum="free",
  example=lambda tasks: {
    "directions": das_dennis_directions(max(tasks) + 1, 2)[:, list(tasks)],
    "feasibility_steps": 5,
  },
  claims=["scale_equivariant"],
)
def pareto_mtl(
  num_tasks: int,
  directions: ArrayLike,
  *,
  feasibility_steps: ArrayLike = 100,
  epsilon: ArrayLike = 0.0,
  normalize_constraints: bool = False,
  rescale: bool = False,
  solver: Literal["wolfe", "pairwise", "away", "vanilla"] = "wolfe",
  reenter: bool = True,
) -> WeightRule[ParetoMtlMemory]:
  """Finds a Pareto stationary point in the sub-region of one preference.

  K directions divide the positive orthant of losses; the sub-region of `u_k`
  holds the loss vectors that are closer in angle to `u_k` than to any other:
  `G_j = (u_j - u_k)ᵀ L <= 0` for all j. The first phase descends the violated
  constraints alone, along the min-norm point of `{∇G_j : G_j > 0}`, until none
  is violated or `feasibility_steps` are spent. The second descends the losses
  and the constraints that bind, along the min-norm point of
  `{∇L_i} ∪ {∇G_j : G_j > -ε}`. The switch is made inside jit. Since `∇G_j` is a
  combination of task gradients, all of it is one weight a task:
  `α_i = λ_i + Σ_j β_j (u_ji - u_ki)`. These weights may be negative, and have
  no fixed sum.

  The paper's first phase comes once. Here losses that leave the sub-region
  later go through it again, with the whole budget: the momentum of an
  optimizer carries nearly every point out, and the second phase, whose steps
  vanish at the front, does not bring it back. On the paper's toy problem with
  Adam nearly all of 10 points then end in their own sub-region, and with the
  paper's rule two or three. With plain steps of size 1 as many points are in
  their own either way, but lie less evenly (hypervolume .289 in place of .291).
  Waiting for a larger violation, or for one that lasts, leaves points outside.
  `reenter=False` is the paper's rule. The state's `violation` shows where the
  losses are.

  The preference is an extra arg of the update, so that `jax.vmap` over
  preferences, and over params and states with them, trains the whole front at
  once. It is a *direction*: the solution is wanted near the ray `L ∝ u`, and
  with (1, 0) the loss of the second task is to be zero.
  `optax_mtl.pareto.invert_preference` turns a weight into a direction.

  The paper takes `G_j >= 0` as violated in the first phase and states no
  numbers for the budget; the sign test here is strict in both phases and made
  on `L / ‖L‖`, as in the authors' code. No loss may be negative, and a
  preference has finite entries, none negative and not all zero: what is known
  to be otherwise is an error. Under `jit` a negative loss counts as zero, and
  so does a negative entry of a preference; one without any positive entry is
  that of equal entries, and NaN shows.

  Args:
    num_tasks: The number of tasks `T`.
    directions: Array [K, T], non-negative: all directions that divide the
      space; scaled to length 1 here. See `optax_mtl.pareto.uniform_directions`
      and `das_dennis_directions`.
    feasibility_steps: Budget of the first phase, anew each time that the losses
      leave the sub-region, at least 0. Default 100 (our choice; the authors use
      20 of 100 steps on their toy problem, two epochs on MultiMNIST). A point
      that spends it descends to the front wherever it is.
    epsilon: Constraints this close to being violated bind in the second phase;
      in units of `‖L‖`. Default 0, as in the authors' code.
    normalize_constraints: Whether to scale each `∇G_j` by `1 / ‖u_j - u_k‖`, so
      that many directions, which lie close to each other, do not shorten the
      steps. Not in the paper. Default False: it helps with many directions and
      few steps, but a larger `feasibility_steps` helps more.
    rescale: Whether to scale the weights of the second phase to `Σ|α_i| = T`,
      as the authors' MultiMNIST code does; not in the paper. Default False.
    solver: The variant of `optax_mtl.solvers.min_norm`. Default "wolfe", exact.
    reenter: Whether the first phase comes again when the losses leave the
      sub-region. Default True; False: once, as in the paper.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and `preference` [T], and takes
    `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses` or `preference`.
    ValueError: `directions` has the wrong shape, a number is out of range, or
      losses or a preference are none.

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
    >>> print(updates.round(3), state.memory.optimizing)
    [0.5 0.5] True

  References:
    Lin et al., `Pareto Multi-Task Learning <https://arxiv.org/abs/1912.12854>`_,
    NeurIPS 2019.
  """
  _checks.check_whole("feasibility_steps", feasibility_steps, 0)
  _checks.check_range("epsilon", epsilon, 0)
  rays = jnp.asarray(directions)
  if rays.ndim != 2 or rays.shape[1] != num_tasks:
    raise ValueError(
      f"directions must have shape [K, {num_tasks}], one row a preference, got "
      f"{list(rays.shape)}."
    )
  _checks.check_preference(rays, "directions")

  def init() -> ParetoMtlMemory:
    return ParetoMtlMemory(
      certificate=initial_certificate(),
      violation=jnp.zeros((), solver_dtype()),
      optimizing=jnp.zeros((), jnp.bool_),
      phase_step=jnp.zeros((), jnp.int32),
    )

  def observe(step: Step, memory: ParetoMtlMemory) -> ParetoMtlMemory:
    """Says which phase this step is in."""
    _checks.check_not_negative(
      step.losses, "losses=", "for the preferences divide the positive orthant"
    )
    wanted = step.preference
    # Of absent tasks all is 0: they may be those that were wanted.
    _checks.check_preference(
      jnp.where(step.active, wanted, jnp.ones_like(wanted)), "preference="
    )
    violation = jnp.max(_constraints(step, rays).values)
    outside = violation > 0
    limit = jnp.asarray(feasibility_steps, jnp.int32)
    optimizing = ~outside | (memory.phase_step >= limit)
    if not reenter:
      optimizing |= memory.optimizing
    spent = memory.phase_step + (~optimizing).astype(jnp.int32)
    return memory._replace(
      # With one preference there is nothing to violate.
      violation=jnp.maximum(violation, -1.0),
      optimizing=optimizing,
      phase_step=jnp.where(outside | (not reenter), spent, 0),
    )

  def weigh(
    step: Step, memory: ParetoMtlMemory
  ) -> tuple[jax.Array, ParetoMtlMemory]:
    region, optimizing = _constraints(step, rays), memory.optimizing
    normals, dtype = region.normals, solver_dtype()
    if normalize_constraints:
      normals = normals / region.lengths[:, None]
    binding = region.values > -jnp.asarray(epsilon, dtype)
    in_hull = jnp.concatenate(
      [
        step.active & optimizing,
        jnp.where(optimizing, binding, region.values > 0),
      ]
    )
    rows = jnp.concatenate([jnp.eye(num_tasks, dtype=dtype), normals])
    hull = jnp.matmul(rows, step.gram(), precision="highest")
    hull = jnp.matmul(hull, rows.T, precision="highest")
    multipliers, certificate = min_norm(
      (hull + hull.T) / 2, variant=solver, active=in_hull
    )
    weights = jnp.matmul(multipliers, rows, precision="highest")
    if rescale:
      length = jnp.sum(jnp.abs(weights))
      factor = step.num_active / jnp.where(length == 0, 1.0, length)
      weights = jnp.where(optimizing & (length > 0), weights * factor, weights)
    return weights, memory._replace(certificate=certificate)

  return WeightRule(weigh, init, observe)
