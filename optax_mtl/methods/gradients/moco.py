"""MoCo: MGDA's weights step by step, on averaged gradients."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._normalization import not_negative
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.methods.gradients._tracking import decayed, tracked
from optax_mtl.methods.gradients._trunk import (
  as_update,
  replaced,
  trunk_of,
  trunk_rows,
  zero_rows,
)
from optax_mtl.solvers import project_simplex


class MocoMemory(NamedTuple):
  """What `moco` remembers.

  Attributes:
    tracked_gradients: Tree with leaves [T, *param.shape], `y`, the moving
      average of each task's gradient, from zero.
    tracked_steps: Array [T] int32, how many gradients an average is over.
    moco_shares: Array [T], `λ`, a point of the simplex.
    moco_step: Scalar int32, how many steps `λ` has made.
  """

  tracked_gradients: Any
  tracked_steps: jax.Array
  moco_shares: jax.Array
  moco_step: jax.Array


def _scales(step: Step, rows: list[jax.Array]) -> jax.Array:
  """What brings each gradient to the length of its loss, [T]."""
  norms = linalg.lengths(rows, step.num_tasks)
  known = norms != 0
  losses = not_negative(step, "moco(normalize='loss')")
  return jnp.where(known, losses / jnp.where(known, norms, 1.0), 0.0)


def _shares(step: Step, shares: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The active tasks' shares, as a point of the simplex, and what they had."""
  mass = jnp.sum(step.only_active(shares))
  known = mass > 0
  equal = jnp.ones_like(shares) / step.num_active
  divided = jnp.where(known, shares / jnp.where(known, mass, 1.0), equal)
  return step.only_active(divided), mass


@method(
  paper="Fernando et al., Mitigating Gradient Bias in Multi-objective "
  "Learning: A Provably Convergent Approach, ICLR 2023",
  url="https://openreview.net/forum?id=dLAYGdKTi2",
  weights_sum="1",
)
def moco(
  num_tasks: int,
  beta: ArrayLike = 0.5,
  gamma: ArrayLike = 0.1,
  *,
  beta_power: ArrayLike = 0.5,
  gamma_power: ArrayLike = 0.5,
  rho: ArrayLike = 0.0,
  normalize: Literal["loss"] | None = None,
) -> UpdateRule[MocoMemory]:
  """MoCo: descends every task on average, by gradients that are averaged first.

  MGDA's weights are those of one batch's gradients, and their product with
  these is biased. Here each gradient is tracked by an average, `y_i ← y_i - β_k
  (y_i - g_i)`, and the weights make one projected step a batch towards MGDA's,
  `λ ← Π(λ - γ_k (y yᵀ + ρ I) λ)` with `Π` the projection on the simplex. The
  update is `Σ λ_i y_i`. The weights sum to 1. The rates fade as `β_k = β /
  k^0.5` and `γ_k = γ / k^0.5`. With the same gradients in every step, the
  weights converge to MGDA's.

  The step of the weights has a scale: `γ ‖y‖²` should be near 1. Where it is
  far above, `λ` jumps from corner to corner, and the task with the shortest
  gradient gets everything; far below, all weights stay equal. With gradients
  of other sizes choose `gamma` by that, or `normalize="loss"`, as the authors'
  code does: each gradient is brought to the length of its loss first, `g_i L_i
  / ‖g_i‖`. The paper's algorithm takes them as they are.

  In the authors' code the projection is a softmax of `λ - γ_k (...) λ`. That of
  a point of the simplex is never far from uniform, for two tasks between 0.27
  and 0.73: here it is the paper's projection. On NYUv2 they take β = 0.99.

  The averages start at zero, as in the authors' code, and are not corrected for
  it; as there, `y` moves first, then `λ`, then the params. An absent task's
  average and its `k` stand still, and the others share their part of `λ`.

  Args:
    num_tasks: The number of tasks `T`.
    beta: `β` in (0, 1], how far an average moves. Default 0.5, as in the
      authors' code.
    gamma: `γ`, at least 0, the step length of the weights. Default 0.1, as in
      the authors' code.
    beta_power: The power of `k` by which `β` fades. Default 0.5, as there.
    gamma_power: The power of `k` by which `γ` fades. Default 0.5, as there.
    rho: `ρ`, at least 0, which draws the weights together. Default 0.
    normalize: "loss": each gradient is brought to the length of its loss.
      Default None: not.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool, and
    with `normalize` needs `losses` [T].

  Raises:
    TypeError: The update is called without `losses` that it needs.
    ValueError: A loss that is known is negative, with `normalize` (under `jit`
      the update is NaN); or An argument is out of range, or unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.moco(num_tasks=2, beta=1.0, gamma=0.5)
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> print(state.moco_shares, updates)
    [0.875 0.125] [0.875 0.25 ]

  References:
    Fernando et al., `Mitigating Gradient Bias in Multi-objective Learning: A
    Provably Convergent Approach <https://openreview.net/forum?id=dLAYGdKTi2>`_,
    ICLR 2023.
  """
  _checks.check_range("beta", beta, 0, 1, open_low=True)
  for name, value in {
    "gamma": gamma,
    "beta_power": beta_power,
    "gamma_power": gamma_power,
    "rho": rho,
  }.items():
    _checks.check_range(name, value, 0)
  _checks.check_choice("normalize", normalize, (None, "loss"))

  def init(params: Any) -> MocoMemory:
    return MocoMemory(
      tracked_gradients=zero_rows(num_tasks, params),
      tracked_steps=jnp.zeros((num_tasks,), jnp.int32),
      moco_shares=jnp.full((num_tasks,), 1 / num_tasks, solver_dtype()),
      moco_step=jnp.zeros((), jnp.int32),
    )

  def update(step: Step, memory: MocoMemory) -> tuple[Any, MocoMemory]:
    rows, dtype = trunk_rows(step), solver_dtype()
    scales = jnp.ones((num_tasks,), dtype)
    if normalize == "loss":
      scales = _scales(step, rows)
    steps = memory.tracked_steps + step.active.astype(jnp.int32)
    rates = step.only_active(decayed(beta, beta_power, steps))
    averages = tracked(
      trunk_of(step, memory.tracked_gradients), rows, rates, scales
    )

    number = memory.moco_step + jnp.any(step.active).astype(jnp.int32)
    shares, mass = _shares(step, memory.moco_shares)
    both = step.active[:, None] & step.active[None, :]
    gram = jnp.where(both, linalg.gram(averages, num_tasks), 0.0)
    slope = jnp.matmul(gram, shares, precision="highest")
    slope = slope + jnp.asarray(rho, dtype) * shares
    shares = project_simplex(
      shares - decayed(gamma, gamma_power, number) * slope, active=step.active
    )
    return as_update(step, linalg.combine(averages, shares, step.keep)), (
      MocoMemory(
        replaced(step, averages, memory.tracked_gradients),
        steps,
        step.hold(mass * shares, memory.moco_shares),
        number,
      )
    )

  return UpdateRule(update, init)
