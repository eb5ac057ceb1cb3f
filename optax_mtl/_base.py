"""How a method is declared, and the optax face that is built from it.

A method is a pair of small functions on T numbers: `init() -> state` and
`weigh(step, state) -> state`, where `state.weights` are the weights to apply.
`weighted_combination` turns the pair into a gradient transformation: it reads
the task gradients from whatever source they come, checks every argument while
tracing, masks absent tasks and tasks that are not finite, and combines.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.layout import Layout, with_layout_constraint

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.sources.task_gradients import (
  TaskGradients,
  as_task_gradients,
)

#: Name -> the function that builds the method; filled by `method`.
METHODS: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {}

#: What a method may claim about itself. A contract test checks each claim.
CLAIMS = {
  "descends": "no task's loss rises to first order: G d >= 0",
  "simplex": "the weights are non-negative and sum to 1",
  "positive_weights": "the weights are non-negative",
  "scale_equivariant": "scaling all gradients by c scales the update by c",
  "permutation_equivariant": "renaming the tasks renames the weights",
}

#: Why a method cannot do without an extra arg, for the error.
_REASONS = {
  "losses": "the weights are computed from the task losses",
  "kpis": "the weights are computed from the tasks' key performance indicators",
  "preference": "it says which solution on the Pareto front is wanted",
}


@dataclasses.dataclass(frozen=True)
class MethodInfo:
  """What is known about a method besides how it computes.

  Attributes:
    name: The name of the function that builds it.
    paper: Authors, title and venue.
    url: Where to read the paper.
    family: "fixed", "loss", "gram" or "pareto".
    needs: Extra args that `update` cannot do without.
    uses_gram: Whether it asks for the Gram matrix: else it costs one backward
      pass with the implicit source.
    weights_sum: What the weights sum to, in words.
    example: Function from a tuple of task numbers to keyword arguments with
      which the method can be built for those tasks.
    claims: Members of `CLAIMS` that hold.
  """

  name: str
  paper: str
  url: str
  family: str
  needs: tuple[str, ...]
  uses_gram: bool
  weights_sum: str
  example: Callable[[Sequence[int]], Mapping[str, Any]]
  claims: frozenset[str]


def method(
  *,
  paper: str,
  url: str,
  family: str,
  weights_sum: str,
  needs: Sequence[str] = (),
  uses_gram: bool = False,
  example: Callable[[Sequence[int]], Mapping[str, Any]] = lambda tasks: {},
  claims: Sequence[str] = (),
) -> Callable[[Callable], Callable]:
  """Registers the decorated function as a method; returns it as it was.

  The metadata is attached as `function.info`; see `MethodInfo`.
  """
  unknown = set(claims) - set(CLAIMS)
  if unknown:
    raise ValueError(f"claims must be among {sorted(CLAIMS)}, got {unknown}.")

  def register(function):
    function.info = MethodInfo(
      name=function.__name__,
      paper=paper,
      url=url,
      family=family,
      needs=tuple(needs),
      uses_gram=uses_gram,
      weights_sum=weights_sum,
      example=example,
      claims=frozenset(claims),
    )
    METHODS[function.__name__] = function
    return function

  return register


class Step:
  """What one call of `update` tells a method.

  Attributes:
    num_tasks: The number of tasks `T`.
    active: Array [T] of bool: tasks that take part. All True unless tasks are
      absent or dropped.
    losses, kpis, ...: The extra args that the method declared, each an array
      [T] in the solver's dtype, with 0 for tasks that take no part.
  """

  def __init__(
    self,
    gradients: TaskGradients,
    keep: jax.Array | None,
    shared: Any,
    extra: Mapping[str, jax.Array],
    resolve: Callable[[Any, str], Any],
  ):
    self.num_tasks = gradients.num_tasks
    self.active = (
      jnp.ones((self.num_tasks,), jnp.bool_) if keep is None else keep
    )
    self._keep = keep
    self._gradients = gradients
    self._shared = shared
    self._resolve = resolve
    for name, value in extra.items():
      setattr(self, name, self.only_active(value))

  def only_active(self, values: jax.Array) -> jax.Array:
    """`values` [T] with 0 for tasks that take no part."""
    if self._keep is None:
      return values
    return jnp.where(self._keep, values, jnp.zeros_like(values))

  def combine(
    self, weights: jax.Array, head_weights: jax.Array, params: Any
  ) -> Any:
    """The update: the weighted gradients, in the params' dtypes if known."""
    combined = self._gradients.combine(
      weights, shared=self._shared, head_weights=head_weights, keep=self._keep
    )
    if params is None:
      return combined
    return jax.tree.map(
      lambda u, p: u.astype(jnp.result_type(p)), combined, params
    )

  @property
  def num_active(self) -> jax.Array:
    """How many tasks take part, a scalar in the solver's dtype; at least 1."""
    return jnp.maximum(jnp.sum(self.active.astype(solver_dtype())), 1)

  def gram(self, leaves: Any = None, name: str = "leaves") -> jax.Array:
    """The Gram matrix [T, T], with 0 for tasks that take no part.

    Args:
      leaves: Which leaves to take it over, in the forms of `shared=`. None: the
        shared ones.
      name: What to call `leaves` in an error.
    """
    mask = self._shared
    if leaves is not None:
      if not self._gradients.at_params:
        raise ValueError(
          f"{name}= chooses among the params' leaves, but with the "
          "representation source the Gram matrix is taken at the "
          f"representation. Leave {name}= out, or use another source."
        )
      mask = self._resolve(leaves, name)
    # A solver that calls LAPACK wants its matrix by columns, and XLA's CPU
    # backend would pass that wish on to the products that the Gram matrix is
    # made of, which then take three times as long.
    gram = with_layout_constraint(
      self._gradients.gram(mask if self._gradients.at_params else None),
      Layout(major_to_minor=(0, 1)),
    )
    if self._keep is None:
      return gram
    both = self._keep[:, None] & self._keep[None, :]
    return jnp.where(both, gram, jnp.zeros_like(gram))

  def mean(self, values: jax.Array) -> jax.Array:
    """The mean over the tasks that take part, a scalar."""
    total = jnp.sum(jnp.where(self.active, values, jnp.zeros_like(values)))
    return total / self.num_active

  def hold(self, new: Any, old: Any, learns: jax.Array | None = None) -> Any:
    """`new` for tasks that take part, `old` for the others, leaf by leaf.

    Leaves are [T, ...]; a task that takes no part keeps its state.

    Args:
      new: Tree of arrays [T, ...].
      old: Tree of arrays [T, ...].
      learns: Array [T] of bool, which tasks get the new value. None: the active
        ones.
    """
    learns = self.active if learns is None else learns

    def choose(new, old):
      mask = learns.reshape((-1,) + (1,) * (new.ndim - 1))
      return jnp.where(mask, new, old)

    return jax.tree.map(choose, new, old)


class WeightedCombination(optax.GradientTransformationExtraArgs):
  """A gradient transformation that keeps its two halves apart.

  Wrappers that change how weights come about, but not how they are applied,
  use `prepare`, `weigh` and `combine`; everybody else uses `init` and `update`.
  """

  def __new__(cls, init, prepare, weigh, combine):
    def update(updates, state, params=None, *, active=None, **extra_args):
      step = prepare(updates, params, active, extra_args)
      state = weigh(step, state)
      return combine(step, state.weights, params), state

    self = super().__new__(cls, init, update)
    self.prepare = prepare
    self.weigh = weigh
    self.combine = combine
    return self


def weighted_combination(
  name: str,
  num_tasks: int,
  init: Callable[[], Any],
  weigh: Callable[[Step, Any], Any],
  *,
  needs: Sequence[str] | None = None,
  shared: Any = None,
  heads: str = "sum",
  on_nonfinite: str = "propagate",
) -> WeightedCombination:
  """The gradient transformation of a method that chooses one weight a task.

  Args:
    name: The method's registered name, for its declared needs and for errors.
    num_tasks: The number of tasks `T`.
    init: Function of nothing that returns the first state, a `NamedTuple` of
      arrays with a field `weights` [T].
    weigh: Function `(step, state) -> state`; the new `weights` are applied.
    needs: The extra args that this instance cannot do without. None: those that
      the method declared.
    shared: Which leaves are the shared trunk: a pytree prefix of bools, or a
      callable from the params to one. None: all.
    heads: "sum" or "weighted": what the other leaves get.
    on_nonfinite: "propagate" or "drop".

  Returns:
    The transformation.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  _checks.check_choice("heads", heads, ("sum", "weighted"))
  _checks.check_choice("on_nonfinite", on_nonfinite, ("propagate", "drop"))
  needs = METHODS[name].info.needs if needs is None else tuple(needs)

  def init_fn(params):
    if shared is not None:
      _checks.resolve_mask(shared, params, "shared")
    return init()

  def prepare(updates, params, active, extra_args):
    extra = {}
    for need in needs:
      if extra_args.get(need) is None:
        raise TypeError(
          f"{name} needs {need}= with every update: {_REASONS[need]}. Call "
          f"tx.update(grads, state, params, {need}={need})."
        )
      extra[need] = _checks.task_vector(extra_args[need], num_tasks, need)
    gradients = as_task_gradients(updates, num_tasks, params)
    resolve = functools.partial(_resolve, gradients=gradients, params=params)
    mask = None if shared is None else resolve(shared, "shared")

    keep = None
    if active is not None:
      keep = _checks.task_mask(active, num_tasks, "active")
    if on_nonfinite == "drop":
      finite = gradients.finite()
      # A KPI of NaN is a missing one by contract, and no reason to drop a task.
      if "losses" in extra:
        finite &= jnp.isfinite(extra["losses"])
      keep = finite if keep is None else keep & finite
    return Step(gradients, keep, mask, extra, resolve)

  def weigh_active(step, state):
    state = weigh(step, state)
    weights = state.weights.astype(solver_dtype())
    return state._replace(weights=step.only_active(weights))

  def combine(step, weights, params):
    weights = step.only_active(weights)
    head_weights = weights
    if heads == "sum":
      head_weights = step.active.astype(weights.dtype)
    return step.combine(weights, head_weights, params)

  return WeightedCombination(init_fn, prepare, weigh_active, combine)


def _resolve(mask, name, *, gradients, params):
  if callable(mask) and params is None:
    raise ValueError(
      f"{name}= is a callable on the params, so update needs them: call "
      "tx.update(grads, state, params, ...)."
    )
  like = gradients.params_like if params is None else params
  return _checks.resolve_mask(mask, like, name)
