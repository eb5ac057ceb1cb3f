"""MoDo: MGDA's weights learned from two independent batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods.gram._simplex_point import finite_or_nan, learned
from optax_mtl.solvers import project_simplex


class ModoMemory(NamedTuple):
  """What `modo` remembers.

  Attributes:
    modo_shares: Array [T], a point of the simplex.
  """

  modo_shares: jax.Array


@method(
  paper="Chen, Fernando, Ying & Chen, Three-Way Trade-Off in Multi-Objective "
  "Learning: Optimization, Generalization and Conflict-Avoidance, NeurIPS 2023",
  url="https://arxiv.org/abs/2305.20057",
  weights_sum="1",
  claims=["simplex", "positive_weights", "permutation_equivariant"],
)
def modo(
  num_tasks: int, gamma: ArrayLike = 1e-3, rho: ArrayLike = 0.1
) -> WeightRule[ModoMemory]:
  """Multi-objective gradient with double sampling: MGDA, without its bias.

  The weights descend `½ ‖Gᵀ λ‖² + ½ ρ ‖λ‖²` by one projected step in each step
  of training: `λ ← Π(λ - γ (G₁ G₂ᵀ + ρ I) λ)`, with `Π` the projection on the
  simplex and `G₁`, `G₂` the task gradients of two independent batches. With one
  batch for both the product would hold the square of its noise, which pulls the
  weights towards tasks with quiet gradients. The weights sum to 1.

  The second batch's gradients come as `second_grads=`, from any source that
  takes them at the params: plain trees, the stacked and the implicit source.
  The representation source has none to offer, and says so.

  The paper takes a third batch for the update itself, so that the weights and
  the gradients that they combine are independent; the authors' code takes the
  sum of the two batches' gradients. Here the first batch's are combined, with
  the weights after the step as in both: what they share of its noise is one
  step of length `γ`.

  `γ` is absolute, and so is `ρ`: for gradients of norm 0.01 the default's
  weights stay equal, and from a norm of about 30 on they jump from task to
  task. A `γ` of `0.1 / n²` at the norm `n` of your gradients moves them.

  Args:
    num_tasks: The number of tasks `T`.
    gamma: `γ > 0`, the step length of the weights. Default 1e-3, as in LibMTL;
      the paper tries 1e-3 to 1.
    rho: `ρ >= 0`, how much the weights are pulled to be equal. Default 0.1, as
      in the authors' code.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `second_grads`, what a source or a tree like the
    gradients has of another batch, and takes `active`, an optional array [T]
    of bool.

  Raises:
    TypeError: The update is called without `second_grads`.
    ValueError: `gamma` or `rho` is out of range, or the two batches' gradients
      do not belong together.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.modo(num_tasks=2, gamma=0.1, rho=0.0)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads, second = jnp.diag(jnp.array([1.0, 2.0])), jnp.eye(2)
    >>> updates, state = tx.update(grads, state, second_grads=second)
    >>> print(np.asarray(updates).round(3), np.asarray(state.weights).round(3))
    [0.525 0.95 ] [0.525 0.475]

  References:
    Chen et al., `Three-Way Trade-Off in Multi-Objective Learning
    <https://arxiv.org/abs/2305.20057>`_, NeurIPS 2023.
  """
  _checks.check_range("gamma", gamma, 0, open_low=True)
  _checks.check_range("rho", rho, 0)

  def init() -> ModoMemory:
    return ModoMemory(jnp.full((num_tasks,), 1 / num_tasks, solver_dtype()))

  def weigh(step: Step, memory: ModoMemory) -> tuple[jax.Array, ModoMemory]:
    cross = step.cross_gram()
    rate = jnp.asarray(gamma, cross.dtype)
    pull = jnp.asarray(rho, cross.dtype)

    def learn(shares: jax.Array) -> jax.Array:
      slope = jnp.matmul(cross, shares, precision="highest") + pull * shares
      return project_simplex(
        finite_or_nan(shares - rate * slope), active=step.active
      )

    shares, kept = learned(step, memory.modo_shares, learn)
    return shares, ModoMemory(kept)

  return WeightRule(weigh, init)
