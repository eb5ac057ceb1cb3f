"""SDMGrad: MGDA's weights from two batches, pulled towards a preference."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods.gram._shares import check_preference, task_shares
from optax_mtl.methods.gram._simplex_point import finite_or_nan, learned
from optax_mtl.solvers import project_simplex


class SdmgradMemory(NamedTuple):
  """What `sdmgrad` remembers.

  Attributes:
    sdmgrad_shares: Array [T], a point of the simplex: `w`, without the
      preference's part.
  """

  sdmgrad_shares: jax.Array


@method(
  paper="Xiao, Ban & Ji, Direction-oriented Multi-objective Learning: Simple "
  "and Provable Stochastic Algorithms, NeurIPS 2023",
  url="https://arxiv.org/abs/2305.18409",
  weights_sum="1",
  claims=[
    "simplex",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def sdmgrad(
  num_tasks: int,
  pull: ArrayLike = 0.3,
  *,
  preference: _checks.TaskValues | None = None,
  num_steps: ArrayLike = 20,
  learning_rate: ArrayLike = 10.0,
  momentum: ArrayLike = 0.5,
) -> WeightRule[SdmgradMemory]:
  """Stochastic direction-oriented descent: MGDA pulled towards a direction.

  `d = (g_w + λ g_p) / (1 + λ)`, where `g_p = Σ p_i g_i` is a direction of the
  user's, by default the mean, and `w` on the simplex descends
  `½ ‖g_w + λ g_p‖²`: with `λ = 0` that is MGDA's problem, and for large `λ` the
  update is `g_p`. The slope `G₁ G₂ᵀ (w + λ p)` is that of two independent
  batches, since with one it would hold the square of its noise. In each step of
  training `w` goes on from where it was, by `num_steps` steps with momentum,
  each projected on the simplex. The weights `(w + λ p) / (1 + λ)` sum to 1.

  The second batch's gradients come as `second_grads=`, from any source that
  takes them at the params: plain trees, the stacked and the implicit source.
  The representation source has none to offer, and says so.

  As in the authors' code, and not in the paper, the products are divided by the
  squared mean of the roots of `G₁ G₂ᵀ`'s diagonal, so that the learning rate
  has no unit; where an entry is negative, as for noisy gradients, it counts as
  0 (LibMTL's change; there the code's root is NaN), and where all are, `w`
  stays. Nothing is added. Paper and code take a third batch for the update
  itself; here the first one's gradients are combined, whose noise the weights
  share.

  The authors' rate of 10 is far above what such steps converge with, about 3
  over the largest eigenvalue of the normalized products, which is 1 at least:
  as a rule `w` jumps between tasks, and with which ones it ends is settled by
  `num_steps`. `learning_rate=1 / T` converges for gradients of like lengths.

  Args:
    num_tasks: The number of tasks `T`.
    pull: `λ >= 0`. Default 0.3, as in LibMTL; the authors' code has 0.3 and
      0.6.
    preference: What each task counts, `p` [T], non-negative: a sequence in the
      order of the rows, or a dict by the tasks' names; it is brought to a sum
      of 1 over the tasks that are there. None (default): 1/T.
    num_steps: How many steps on `w`. Default 20.
    learning_rate: Their length. Default 10, as in the authors' code; LibMTL
      has 5.
    momentum: Their momentum, in [0, 1), which starts anew in each step of
      training. Default 0.5.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `second_grads`, what a source or a tree like the
    gradients has of another batch, and takes `active`, an optional array [T]
    of bool.

  Raises:
    TypeError: The update is called without `second_grads`.
    ValueError: An argument is out of range, or the two batches' gradients do
      not belong together.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.sdmgrad(num_tasks=2, learning_rate=0.5)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> updates, state = tx.update(grads, state, second_grads=grads)
    >>> print(np.asarray(state.weights).round(3))
    [0.8 0.2]

  References:
    Xiao, Ban & Ji, `Direction-oriented Multi-objective Learning
    <https://arxiv.org/abs/2305.18409>`_, NeurIPS 2023.
  """
  _checks.check_range("pull", pull, 0)
  _checks.check_whole("num_steps", num_steps, 1)
  _checks.check_range("learning_rate", learning_rate, 0, open_low=True)
  _checks.check_range("momentum", momentum, 0, 1, open_high=True)
  given = check_preference(preference, num_tasks)

  def init() -> SdmgradMemory:
    return SdmgradMemory(jnp.full((num_tasks,), 1 / num_tasks, solver_dtype()))

  def weigh(
    step: Step, memory: SdmgradMemory
  ) -> tuple[jax.Array, SdmgradMemory]:
    cross = step.cross_gram()
    dtype = cross.dtype
    rate, keep = jnp.asarray(learning_rate, dtype), jnp.asarray(momentum, dtype)
    strength, steps = (
      jnp.asarray(pull, dtype),
      jnp.asarray(num_steps, jnp.int32),
    )
    # Not the maximum with 0 of what may be NaN.
    diagonal = jnp.diagonal(cross)
    roots = jnp.sqrt(jnp.where(diagonal < 0, 0.0, diagonal))
    scale = step.mean(roots)
    safe = jnp.where(scale == 0, 1.0, scale)
    # One after the other: the square may leave the range of numbers.
    # Zeros of what is finite, NaN of what is not, which has to show.
    cross = jnp.where(scale == 0, 0.0 * cross, cross / safe / safe)
    direction = task_shares(given, step)
    total = jnp.sum(direction)
    equal = step.active.astype(dtype) / step.num_active
    direction = jnp.where(
      total > 0, direction / jnp.where(total > 0, total, 1.0), equal
    )

    def learn(shares: jax.Array) -> jax.Array:
      def move(
        _: int, at: tuple[jax.Array, jax.Array]
      ) -> tuple[jax.Array, jax.Array]:
        shares, velocity = at
        slope = jnp.matmul(
          cross, shares + strength * direction, precision="highest"
        )
        velocity = keep * velocity + slope
        shares = project_simplex(
          finite_or_nan(shares - rate * velocity), active=step.active
        )
        return shares, velocity

      start = (shares, jnp.zeros_like(shares))
      return jax.lax.fori_loop(0, steps, move, start)[0]

    shares, kept = learned(step, memory.sdmgrad_shares, learn)
    weights = (shares + strength * direction) / (1 + strength)
    return weights, SdmgradMemory(kept)

  return WeightRule(weigh, init)
