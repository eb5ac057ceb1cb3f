"""GradOPS: conflicting gradients keep only what is orthogonal to all others."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule, solved
from optax_mtl._step import Step
from optax_mtl.solvers import Certificate, orthogonal_parts
from optax_mtl.solvers.combined import combined_products

# A cosine is negative beyond so many roundings: of orthogonal gradients the
# sign of what rounding leaves must not decide, since what a conflict takes away
# is no small part.
_CONFLICT = 4.0


@method(
  paper="Zhu et al., Gradient Deconfliction via Orthogonal Projections onto "
  "Subspaces For Multi-task Learning, WSDM 2025",
  url="https://arxiv.org/abs/2503.03438",
  weights_sum="free",
  claims=["descends", "scale_equivariant", "permutation_equivariant"],
)
def grad_ops(num_tasks: int, alpha: ArrayLike = 0.0) -> WeightRule[Certificate]:
  """GradOPS: each gradient in conflict leaves the span of all the others.

  A gradient with a negative product with some other is replaced by its part
  that is orthogonal to every other one, `g_i'`; the rest stay as they are. So
  no `g_i'` hurts any task, nor does any combination of them with non-negative
  weights: `d = Σ w_i g_i'`, with `w_i = 1` by default. With two tasks it is
  PCGrad. Unlike there no order of the tasks matters, and nothing is left of a
  gradient in conflict that lies in the span of the others, as with more tasks
  than params. The weights on the gradients themselves may be negative, and
  their sum is free.

  `α` trades the tasks off: `w_i = T r_i^α / Σ_j r_j^α` with
  `r_i ∝ G' · g_i / ‖g_i‖²`, what the update `G' = Σ g_i'` does for task i
  beside its own gradient alone. `α < 0` favours the tasks that get least, and
  `α > 0` those that get most; the paper's own best is -3 on some of its data.
  The paper defines `r_i` from the projection of `G'` on `g_i`, divided by the
  mean over the tasks; that the projection is relative to the length of `g_i` is
  our reading, of which nothing depends on with `α = 0`. A task of which nothing
  is left takes no part in it, and `T` counts the others.

  Args:
    num_tasks: The number of tasks `T`.
    alpha: `α`. Default 0: all `w_i` are 1.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `alpha` is no number.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> tx = optax_mtl.grad_ops(num_tasks=2)
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> print(np.asarray(updates).round(3))
    [0.5 1.5]

  References:
    Zhu et al., `Gradient Deconfliction via Orthogonal Projections onto
    Subspaces For Multi-task Learning <https://arxiv.org/abs/2503.03438>`_,
    WSDM 2025.
  """
  del num_tasks
  _checks.check_range("alpha", alpha)

  def solve(step: Step) -> tuple[jax.Array, Certificate]:
    gram = step.gram()
    parts, certificate = orthogonal_parts(gram, active=step.active)
    lengths = jnp.sqrt(jnp.diagonal(gram))
    safe = jnp.where(lengths > 0, lengths, 1.0)
    cosines = gram / safe[:, None] / safe[None, :]
    eps = float(jnp.finfo(gram.dtype).eps)
    conflicts = jnp.any(cosines < -_CONFLICT * eps, axis=1)
    own = jnp.diag((lengths > 0).astype(gram.dtype))
    parts = jnp.where(conflicts[:, None], parts, own)
    left = jnp.any(parts != 0, axis=1)
    weights = jnp.sum(parts, axis=0)
    gains = combined_products(gram, weights) / safe / safe
    # Of what is left a part is its own gain at least; less is rounding.
    logs = jnp.log(jnp.maximum(gains, jnp.finfo(gram.dtype).tiny))
    # Where nothing is left of any, the shares are those of nothing.
    counts = left | ~jnp.any(left)
    shares = jax.nn.softmax(jnp.asarray(alpha, gram.dtype) * logs, where=counts)
    number = jnp.sum(counts.astype(gram.dtype))
    return jnp.matmul(number * shares, parts, precision="highest"), certificate

  return solved(solve)
