"""Multi-Krum: the mean of the gradients that have the nearest neighbours."""

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, from_step
from optax_mtl._step import Step


@method(
  paper="Blanchard, El Mhamdi, Guerraoui & Stainer, Machine Learning with "
  "Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS 2017",
  url="https://arxiv.org/abs/1703.02757",
  weights_sum="1",
  example=lambda tasks: {
    "num_byzantine": 0,
    "num_selected": min(2, len(tasks)),
  },
  claims=["simplex", "positive_weights", "scale_equivariant"],
)
def krum(
  num_tasks: int, num_byzantine: int, num_selected: int = 1
) -> WeightRule[tuple[()]]:
  """Multi-Krum: the mean of the gradients that lie closest to their neighbours.

  Each gradient's score is the sum of the squared distances to the `n - f - 2`
  others that are nearest to it, with `n` the number of active tasks and `f` of
  those that may send anything. The `m` gradients of least score weigh `1/m`
  each, the others 0: the weights sum to 1. It is a defence, and no rule for
  tasks that pull in different directions: a task that is unlike the others
  never counts. The paper's proof is for `n >= 2f + 3`.

  Among equal scores the first rows win, as in the paper. With one neighbour the
  two nearest gradients always have equal scores: then `num_selected=1` is the
  first of the two. Where absent tasks leave fewer than `f + 3`, one neighbour
  still counts, and where they leave fewer than `m`, all are selected.

  Distances come from the Gram matrix, `M_ii + M_jj - 2 M_ij`, so that those far
  shorter than the gradients are rounding. A popular library sums the distances
  and not their squares, which now and then selects another gradient. A gradient
  that is not finite shows in the update, as with every method:
  `optax_mtl.drop_nonfinite` leaves its task out.

  Args:
    num_tasks: The number of tasks `T`.
    num_byzantine: `f`, from 0; more than 0 needs `T >= f + 3`.
    num_selected: `m`, from 1 to T. Default 1, Krum itself.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: A number is no Python int.
    ValueError: A number is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.krum(num_tasks=4, num_byzantine=1, num_selected=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [9.0, 9.0], [1.0, 1.0], [1.0, 3.0]])
    >>> updates, state = tx.update(grads, state)
    >>> print(updates, state.weights)
    [1.  0.5] [0.5 0.  0.5 0. ]

  References:
    Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent <https://arxiv.org/abs/1703.02757>`_, NeurIPS 2017.
  """
  # One neighbour at least; without liars there is nothing to outvote.
  _checks.check_int("num_byzantine", num_byzantine, 0, max(num_tasks - 3, 0))
  _checks.check_int("num_selected", num_selected, 1, num_tasks)

  @from_step
  def rule(step: Step) -> jax.Array:
    gram, active = step.gram(), step.active
    both = active[:, None] & active[None, :]
    finite = jnp.all(jnp.isfinite(gram))
    squares = jnp.diagonal(gram)
    # Both halves of a pair are to be equal, and equal scores are ties.
    gram = 0.5 * gram + 0.5 * gram.T
    distances = (squares[:, None] - gram) + (squares[None, :] - gram)
    apart = both & ~jnp.eye(num_tasks, dtype=jnp.bool_)
    distances = jnp.where(apart, jnp.maximum(distances, 0.0), jnp.inf)
    nearest = jnp.sort(distances, axis=1)
    neighbours = jnp.maximum(step.num_active - (num_byzantine + 2), 1)
    counted = jnp.arange(num_tasks).astype(gram.dtype) < neighbours
    # A task that is alone has no neighbour, and a score of 0.
    counted = counted[None, :] & (nearest < jnp.inf)
    scores = jnp.sum(jnp.where(counted, nearest, 0.0), axis=1)
    order = jnp.argsort(jnp.where(active, scores, jnp.inf), stable=True)
    places = jnp.argsort(order)
    selected = jnp.minimum(step.num_active, num_selected)
    chosen = (places.astype(gram.dtype) < selected).astype(gram.dtype)
    return jnp.where(finite, chosen / selected, jnp.nan)

  return rule
