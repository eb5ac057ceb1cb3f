"""Uncertainty weighting: a learnt observation noise for every task."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._task_optimizer import task_optimizer

Kind = Literal["regression", "classification", "laplace"]
Kinds = Kind | Sequence[Kind] | Mapping[str, Kind]
Variant = Literal["kendall", "liebel"]

#: Kind -> the factor `a` and the power `p` of the loss's term `a exp(-p s) L`:
#: `L / (2 σ²)` of a Gaussian likelihood, `L / σ²` of a softmax, `L / σ` of a
#: Laplace distribution with scale σ.
_KINDS: Mapping[str, tuple[float, float]] = {
  "regression": (0.5, 1.0),
  "classification": (1.0, 1.0),
  "laplace": (1.0, 0.5),
}


class _Terms(NamedTuple):
  """How each loss enters the objective, `a exp(-p s) L`.

  Attributes:
    factors: `a` [T], with the tasks' names if they were given.
    powers: `p` [T].
  """

  factors: _checks.TaskArgument
  powers: jax.Array


class UncertaintyWeightingMemory(NamedTuple):
  """What `uncertainty_weighting` remembers.

  Attributes:
    log_vars: Array [T], `s_i = log σ_i²`, or `log c_i²` in Liebel's variant.
    log_var_optimizer: State of the optimizer of `log_vars`, one for each task.
  """

  log_vars: jax.Array
  log_var_optimizer: optax.OptState


def _terms(kind: Kinds | None, variant: Variant, num_tasks: int) -> _Terms:
  """Factor and power of each task, from `kind` as the user gave it."""
  _checks.check_choice("variant", variant, ("kendall", "liebel"))
  if variant == "liebel":
    if kind is not None:
      raise ValueError(
        "kind= belongs to variant='kendall'; Liebel's variant treats all tasks "
        f"alike. Leave kind out, got {kind!r}."
      )
    kind = "regression"  # has the same factor
  kind = "regression" if kind is None else kind
  if isinstance(kind, str):
    kinds = [kind] * num_tasks
  elif isinstance(kind, Mapping):
    kinds = [kind[name] for name in sorted(kind)]
  else:
    kinds = list(kind)
  if len(kinds) != num_tasks:
    raise ValueError(
      f"kind must be one string or one for each of the {num_tasks} tasks, got "
      f"{len(kinds)}."
    )
  for name in kinds:
    _checks.check_choice("kind", name, tuple(_KINDS))
  factors, powers = np.array([_KINDS[name] for name in kinds]).T
  return _Terms(
    _checks.TaskArgument(
      _checks.task_vector(factors, num_tasks, "kind"),
      _checks.task_names(kind),
      "kind",
    ),
    _checks.task_vector(powers, num_tasks, "kind"),
  )


def uncertainty_loss(
  losses: _checks.TaskValues,
  log_vars: _checks.TaskValues,
  kind: Kinds | None = None,
  *,
  variant: Variant = "kendall",
) -> jax.Array:
  """The objective itself, to train `log_vars` among the params.

  `Σ a_i exp(-s_i) L_i + s_i / 2` with `a_i` 1/2 for regression and 1 for
  classification, `exp(-s_i / 2) L_i + s_i / 2` for "laplace"; Liebel's variant
  is `Σ exp(-s_i) L_i / 2 + log(1 + exp(s_i))`. Keep `log_vars` out of weight
  decay.

  Args:
    losses: Array [T], or a sequence or dict of scalars.
    log_vars: `s_i = log σ_i²` [T], in the same forms.
    kind: "regression" (default), "classification" or "laplace", or one for each
      task.
    variant: "kendall" or "liebel".

  Returns:
    A scalar; it may be negative.

  Raises:
    ValueError: A length or a name is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> print(optax_mtl.uncertainty_loss(jnp.array([2.0, 4.0]), jnp.zeros(2)))
    3.0
  """
  stacked = _checks.stack_scalars(losses, "losses")
  num_tasks = stacked.shape[0]
  terms = _terms(kind, variant, num_tasks)
  _checks.common_names(
    {
      "losses": _checks.task_names(losses),
      "log_vars": _checks.task_names(log_vars),
      "kind": terms.factors.names,
    }
  )
  stacked = stacked.astype(solver_dtype())
  s = _checks.task_vector(log_vars, num_tasks, "log_vars")
  data = terms.factors.values * jnp.exp(-terms.powers * s) * stacked
  if variant == "liebel":
    return jnp.sum(data + jax.nn.softplus(s))
  return jnp.sum(data + s / 2)


@method(
  paper="Kendall, Gal & Cipolla, Multi-Task Learning Using Uncertainty to "
  "Weigh Losses for Scene Geometry and Semantics, CVPR 2018",
  url="https://arxiv.org/abs/1705.07115",
  weights_sum="free",
  example=lambda tasks: {
    "kind": [
      ("regression", "classification", "laplace")[task % 3] for task in tasks
    ]
  },
  claims=["positive_weights", "scale_equivariant"],
)
def uncertainty_weighting(
  num_tasks: int,
  kind: Kinds | None = None,
  *,
  variant: Variant = "kendall",
  optimizer: optax.GradientTransformation | None = None,
  initial_log_vars: _checks.TaskValues = 0.0,
  bounds: tuple[float, float] = (-10.0, 10.0),
) -> WeightRule[UncertaintyWeightingMemory]:
  """Weighs a task by the inverse of a noise variance that it learns.

  With `s_i = log σ_i²` the objective is `Σ a_i exp(-s_i) L_i + s_i / 2`, where
  `a_i` is 1/2 for regression (Gaussian likelihood, squared error) and 1 for
  classification (softmax). The weight of task i is `a_i exp(-s_i)`, and `s` is
  trained on its own closed-form gradient by an optimizer in the state, so that
  no weight decay reaches it. An absolute error has a Laplace likelihood, whose
  term is `L_i / σ_i + log σ_i`: `kind="laplace"`, not in the paper, weighs it
  by `1 / σ_i = exp(-s_i / 2)`. The step uses the `s` from before its update, as
  training it among the params would. The weights' sum is free: about
  `Σ 1 / (2 L_i)` once `s` has settled, and `1 / L_i` for "laplace".

  In Liebel & Körner's variant the objective is
  `Σ L_i / (2 c_i²) + log(1 + c_i²)`. Here `log c_i²` is what is stored and
  trained, so that `c` is never zero; their code trains `c` itself, whose
  optimum is the same.

  Once `s` has settled the network descends `Σ log L_i`, up to factors. That is
  unbounded below where one loss can reach zero by itself: its weight then
  grows to the bound while the others stand still. The conditions of a partial
  differential equation are such losses, all zero at a trivial solution. Where
  losses are exact at their minimum, give them a floor (`L_i + c`, which bounds
  the weight by `1 / (2c)`), tighter `bounds=`, or use a method that reads the
  gradients.

  A loss of zero drives `s` to the lower bound. A negative loss makes the
  objective unbounded below: that task's `s` stands still. An absent task drops
  both of its terms.

  Args:
    num_tasks: The number of tasks `T`.
    kind: "regression" (default), "classification" or "laplace", or one for each
      task: a sequence in the order of the rows, or a dict by the tasks' names.
      Liebel's variant takes none.
    variant: "kendall" (default) or "liebel".
    optimizer: Optimizer of `s`, run for each task by itself. Default:
      `optax.adam(0.025)`, the rate that the GradNorm paper uses for such
      parameters.
    initial_log_vars: The first `s`, a number (default 0) or one for each task,
      in the forms of `kind`; LibMTL starts `log σ²` at -0.5.
    bounds: `s` is clipped to this interval after each step.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update needs `losses` [T] and takes `active` [T] of bool.

  Raises:
    TypeError: The update is called without `losses`.
    ValueError: A length or a name is wrong, or the bounds are empty.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> kind = ["regression", "classification"]
    >>> tx = optax_mtl.uncertainty_weighting(2, kind)
    >>> state = tx.init(jnp.zeros(2))
    >>> grads = jnp.array([[1.0, 0.0], [2.0, 5.0]])
    >>> updates, state = tx.update(grads, state, losses=jnp.array([2.0, 0.5]))
    >>> print(updates, state.weights)
    [2.5 5. ] [0.5 1. ]

  References:
    Kendall, Gal & Cipolla, `Multi-Task Learning Using Uncertainty to Weigh
    Losses <https://arxiv.org/abs/1705.07115>`_, CVPR 2018; Liebel & Körner,
    `Auxiliary Tasks in Multi-task Learning
    <https://arxiv.org/abs/1805.06334>`_, 2018.
  """
  terms = _terms(kind, variant, num_tasks)
  low, high = _checks.check_bounds("bounds", bounds)
  inner = task_optimizer(optimizer, num_tasks)
  given = _checks.number_or_task_argument(
    initial_log_vars, num_tasks, "initial_log_vars"
  )

  def init() -> UncertaintyWeightingMemory:
    dtype = solver_dtype()
    return UncertaintyWeightingMemory(
      log_vars=given.values.astype(dtype),
      log_var_optimizer=inner.init(),
    )

  def weigh(
    step: Step, memory: UncertaintyWeightingMemory
  ) -> tuple[jax.Array, UncertaintyWeightingMemory]:
    step.given(given)  # the names must fit
    s = memory.log_vars
    factors, powers = step.given(terms.factors), terms.powers
    weights = factors.astype(s.dtype) * jnp.exp(-powers.astype(s.dtype) * s)
    prior = jnp.full_like(s, 0.5)
    if variant == "liebel":
      prior = jax.nn.sigmoid(s)
    gradient = prior - powers.astype(s.dtype) * weights * step.losses
    change, optimizer_state = inner.step(gradient, memory.log_var_optimizer)
    moved = jnp.clip(s + change, low, high).astype(s.dtype)
    learns = step.active & ~(step.losses < 0)
    return weights, UncertaintyWeightingMemory(
      log_vars=step.hold(moved, s, learns),
      log_var_optimizer=step.hold(
        optimizer_state, memory.log_var_optimizer, learns
      ),
    )

  return WeightRule(weigh, init)
