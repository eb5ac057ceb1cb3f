"""Weights that are inverse to the gradients' norms, and relatives of them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule, WeightRule
from optax_mtl._step import Step
from optax_mtl.methods._moving_mean import moving_mean
from optax_mtl.methods._reference_task import (
  check_reference_task,
  reference_task,
)

Reference = Literal["mean", "max", "geometric_mean", "root_sum_square", "one"]

_REFERENCES = ("mean", "max", "geometric_mean", "root_sum_square", "one")


class NormBalanceMemory(NamedTuple):
  """What `norm_balance` remembers.

  Attributes:
    balance_average: Array [T], the moving average of the norms or of the
      weights; leaf by leaf [leaves, T].
    balance_mass: Array of the same shape, how much of the average is known: it
      grows from 0 to 1, and corrects the average for its start. With initial
      weights it is 1.
  """

  balance_average: jax.Array
  balance_mass: jax.Array


#: Project -> the arguments with which `norm_balance` computes its weights:
#: `norm_balance(num_tasks, **NORM_BALANCE_SETTINGS["jaxpi"])`.
NORM_BALANCE_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
  {
    "jaxpi": MappingProxyType({"decay": 0.9, "initial_weights": 1.0}),
    "ntkmtl": MappingProxyType(
      {
        "reference": "root_sum_square",
        "scale": "num_tasks",
        "max_norm": 1.0,
      }
    ),
    "encodec": MappingProxyType(
      {
        "reference": "one",
        "fractions": True,
        "decay": 0.999,
        "average": "norms",
      }
    ),
    "vqgan": MappingProxyType({"reference": 0, "ratio_bounds": (0.0, 1e4)}),
    "metabalance": MappingProxyType(
      {
        "reference": 0,
        "relax": 0.7,
        "decay": 0.9,
        "average": "norms",
        "by_leaf": True,
      }
    ),
    "db_mtl": MappingProxyType({"reference": "max"}),
  }
)


class _Balance(NamedTuple):
  """The arguments that make weights of norms, as `norm_balance` has them."""

  reference: int | str
  power: ArrayLike
  coefficients: _checks.TaskArgument
  fractions: bool
  scale: ArrayLike | Literal["num_tasks"]
  relax: ArrayLike
  ratio_bounds: tuple[ArrayLike, ArrayLike]
  decay: ArrayLike
  average: Literal["weights", "norms"]
  initial_weights: _checks.TaskArgument | None


def _moved(
  step: Step,
  memory: NormBalanceMemory,
  value: jax.Array,
  learns: jax.Array,
  decay: ArrayLike,
) -> NormBalanceMemory:
  """The memory with one more value [T] in the average of those that learn."""
  new = moving_mean(*memory, value, decay)
  return step.hold(
    NormBalanceMemory(*new), memory, learns & jnp.isfinite(value)
  )


def _reference_norm(
  settings: _Balance, step: Step, norms: jax.Array, present: jax.Array
) -> jax.Array:
  """What the norms are compared with, a scalar; 0: there is nothing.

  Args:
    settings: The arguments.
    step: The step.
    norms: Array [T], 1 where a task is not present.
    present: Array [T] of bool, the tasks with a norm that is not 0.

  Returns:
    Scalar in the solver's dtype.
  """
  if settings.reference == "one":
    return jnp.ones((), norms.dtype)
  count = jnp.sum(present.astype(norms.dtype))
  some = jnp.maximum(count, 1)
  norms = jnp.where(present, norms, jnp.zeros_like(norms))
  if settings.reference == "mean":
    return jnp.sum(norms) / some
  # Not by `jnp.max` alone: on some platforms it loses a NaN.
  largest = jnp.max(norms) + 0 * jnp.sum(norms)
  if settings.reference == "max":
    return largest
  unit = norms / jnp.where(largest == 0, jnp.ones_like(largest), largest)
  if settings.reference == "root_sum_square":
    return largest * jnp.sqrt(jnp.sum(jnp.square(unit)))
  logs = jnp.log(jnp.where(present, unit, jnp.ones_like(unit)))
  return largest * jnp.exp(jnp.sum(logs) / some)


def _weights(
  settings: _Balance, step: Step, norms: jax.Array, memory: NormBalanceMemory
) -> tuple[jax.Array, NormBalanceMemory]:
  """The weights [T] for these norms [T], and the next memory."""
  dtype = norms.dtype
  if settings.average == "norms":
    memory = _moved(step, memory, norms, step.active, settings.decay)
    # A norm that is not finite did not enter the average, and has to show.
    norms = jnp.where(jnp.isfinite(norms), memory.balance_average, norms)
  present = step.active & (norms != 0)
  divisors = jnp.where(norms == 0, jnp.ones_like(norms), norms)
  if settings.reference in _REFERENCES:
    reference = _reference_norm(settings, step, norms, present)
  else:
    # With averaged norms also one that is absent now.
    reference = norms[
      reference_task(settings.reference, step, "reference", _REFERENCES)
    ]
  # With nothing to compare with, all tasks are as they should be.
  ratio = jnp.where(reference == 0, jnp.ones_like(norms), reference / divisors)
  ratio = jnp.power(ratio, jnp.asarray(settings.power, dtype))
  low, high = (jnp.asarray(bound, dtype) for bound in settings.ratio_bounds)
  ratio = jnp.clip(ratio, low, high)
  relax = jnp.asarray(settings.relax, dtype)
  coefficients = step.given(settings.coefficients).astype(dtype)
  if settings.fractions:
    coefficients = coefficients / jnp.sum(step.only_active(coefficients))
  scale = step.num_active
  if not isinstance(settings.scale, str):
    scale = jnp.asarray(settings.scale, dtype)
  weights = scale * coefficients * (relax * ratio + (1 - relax))
  if settings.average == "weights":
    if settings.initial_weights is not None:
      step.given(settings.initial_weights)  # the names must fit
    memory = _moved(step, memory, weights, present, settings.decay)
    weights = jnp.where(jnp.isfinite(weights), memory.balance_average, weights)
  return jnp.where(present, weights, jnp.zeros_like(weights)), memory


@method(
  paper="Wang, Sankaran, Wang & Perdikaris, An Expert's Guide to Training "
  "Physics-Informed Neural Networks, 2023; NTKMTL, EnCodec, VQ-GAN, "
  "MetaBalance, DB-MTL",
  url="https://arxiv.org/abs/2308.08468",
  weights_sum="free",
  claims=["positive_weights", "scale_equivariant", "permutation_equivariant"],
)
def norm_balance(
  num_tasks: int,
  *,
  reference: Reference | int | str = "mean",
  power: ArrayLike = 1.0,
  coefficients: _checks.TaskValues = 1.0,
  fractions: bool = False,
  scale: ArrayLike | Literal["num_tasks"] = 1.0,
  relax: ArrayLike = 1.0,
  ratio_bounds: tuple[ArrayLike, ArrayLike] = (0.0, float("inf")),
  decay: ArrayLike = 0.0,
  average: Literal["weights", "norms"] = "weights",
  initial_weights: _checks.TaskValues | None = None,
  norm_params: Any | Callable[[Any], Any] = None,
  by_leaf: bool = False,
  max_norm: ArrayLike | None = None,
) -> WeightRule[NormBalanceMemory] | UpdateRule[NormBalanceMemory]:
  """Divides each gradient by its norm: all weighted gradients are as long.

  `w_i = c_i (ref(n) / n_i)^p`, where `n_i` is the norm of task i's gradient and
  `ref(n)` what the norms are brought to, by default their mean. The weights'
  sum is free. Many projects have this rule, each in its own way, and
  `optax_mtl.NORM_BALANCE_SETTINGS` has the arguments of six by name:

  - "jaxpi": its `grad_norm`, inside `refresh_every(method, 1000, first=1)`;
  - "ntkmtl": NTKMTL with one batch a task (n = 1);
  - "encodec": EnCodec's balancer, with `coefficients=`, and the representation
    source where the representation is the model's output;
  - "vqgan": VQ-GAN's adaptive weight, with `norm_params=` the last layer of the
    decoder, and `reference=` the reconstruction's row or name;
  - "metabalance": MetaBalance, leaf by leaf;
  - "db_mtl": DB-MTL's gradient half, after
    `per_task(optax.ema(0.9, debias=False), num_tasks)`, on the gradients of the
    log-losses.

  A task with a zero gradient has weight 0 and leaves the reference; nothing is
  added to a norm, so all is relative. Where the reference itself is zero or
  absent, all ratios are 1. An absent task keeps its average.

  Where the projects' code does something else: jaxpi's `main` divides by a zero
  norm, some of its branches add 1e-5 of the mean to each; and it averages the
  weights of several devices instead of their gradients. EnCodec averages the
  norms of the items of a batch (`per_batch_item`), where here the norm is that
  of the whole batch, so its setting is `per_batch_item=False`; its fractions
  are of all losses that it has ever seen, here of those that are there. VQ-GAN
  adds 1e-4 to the discriminator's norm. MetaBalance's loop ends at the first
  tensor without a gradient. DB-MTL averages the gradients and not the norms,
  which is why it is a chain here, and adds 1e-8 to a norm.

  Args:
    num_tasks: The number of tasks `T`.
    reference: What the norms are brought to: their "mean" (default), "max",
      "geometric_mean" or "root_sum_square" `√Σn²`, "one", or a task's norm, by
      its row or its name. A row goes by the order of the sorted names.
    power: `p`. Default 1; 1/2 goes halfway, 0 not at all.
    coefficients: `c`, a number or one for each task: a sequence in the order
      of the rows, or a dict by the tasks' names. Default 1.
    fractions: Whether the coefficients are divided by their sum over the tasks
      that are there, so that each says what part of the gradient a loss gets.
    scale: Factor of all weights: a number, EnCodec's total norm, or
      "num_tasks", by which NTKMTL multiplies. Default 1.
    relax: `r`, how much of the ratio counts: `r ratio + 1 - r`, as in
      MetaBalance. Default 1, all of it.
    ratio_bounds: The ratios are clipped to this interval. MetaBalance's
      strategy A, which only makes gradients shorter, is `(0, 1)`, and B, which
      only makes them longer, `(1, inf)`.
    decay: Share of the old value in the moving average. Default 0: none.
    average: What is averaged, the "weights" (default) or the "norms", which
      needs a `decay`.
    initial_weights: Where the average of the weights starts, a number or one
      for each task, as for `coefficients`; jaxpi's `init_weights`. None: it is
      the mean of what was seen (its bias is corrected).
    norm_params: Which of the shared leaves the norms are taken over: a pytree
      prefix of bools, or a callable from the params to one. None: all of them.
    by_leaf: Whether each leaf has norms and weights of its own, from its
      stacked gradients. The state then has no `weights`.
    max_norm: The update's norm is scaled down to this. None: not at all.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `reference` is neither a string nor an index.
    ValueError: An argument is out of range or unknown, or has other tasks'
      names; arguments do not go together; `norm_params` matches no leaf, takes
      in a leaf of a head, or is used with the representation source.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> grads = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    >>> tx = optax_mtl.norm_balance(num_tasks=2)
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> print(updates)
    [2. 2.]

    The fraction of the gradient that each loss gets, as EnCodec's users know
    it:

    >>> settings = optax_mtl.NORM_BALANCE_SETTINGS["encodec"]
    >>> tx = optax_mtl.norm_balance(2, **settings, coefficients=[1.0, 3.0])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(2)))
    >>> print(updates)
    [0.25 0.75]

  References:
    Wang et al., `An Expert's Guide to Training Physics-Informed Neural Networks
    <https://arxiv.org/abs/2308.08468>`_, 2023 (jaxpi); Qin et al., `NTKMTL
    <https://arxiv.org/abs/2510.18258>`_, NeurIPS 2025; Défossez et al., `High
    Fidelity Neural Audio Compression <https://arxiv.org/abs/2210.13438>`_, 2022
    (EnCodec); Esser et al., `Taming Transformers for High-Resolution Image
    Synthesis <https://arxiv.org/abs/2012.09841>`_, CVPR 2021 (VQ-GAN); He et
    al., `MetaBalance <https://arxiv.org/abs/2203.06801>`_, WWW 2022; Lin et
    al., `Dual-Balancing for Multi-Task Learning
    <https://arxiv.org/abs/2308.12029>`_, 2023 (DB-MTL).
  """
  if reference not in _REFERENCES:
    check_reference_task(reference, num_tasks, "reference")
  _checks.check_range("power", power, 0)
  _checks.check_range("relax", relax, 0, 1)
  _checks.check_range("decay", decay, 0, 1, open_high=True)
  _checks.check_choice("average", average, ("weights", "norms"))
  if isinstance(scale, str):
    _checks.check_choice("scale", scale, ("num_tasks",))
  else:
    _checks.check_range("scale", scale, 0)
  # A type says so, but a single number is what one is tempted to write.
  given: Any = ratio_bounds
  pair = isinstance(given, (tuple, list)) and len(ratio_bounds) == 2
  known: list[Any] = [0]
  if pair:
    known += [x for x in ratio_bounds if _checks.is_python_number(x)]
  if not pair or sorted(known) != known:
    raise ValueError(
      "ratio_bounds must be (low, high) with 0 <= low <= high, got "
      f"{ratio_bounds!r}."
    )
  if initial_weights is not None and average == "norms":
    raise ValueError(
      "initial_weights= is where an average of the weights starts, but "
      "average='norms' averages the norms. Leave one of them out."
    )
  if average == "norms" and _checks.is_known(decay, 0):
    raise ValueError(
      "average='norms' says what is averaged over the steps, and decay=0 "
      "averages nothing: give decay=, for instance 0.9, or leave average= out."
    )
  if initial_weights is not None and _checks.is_python_number(decay):
    # Without a past there is nothing that could start.
    _checks.check_range(
      "decay with initial_weights=", decay, 0, 1, open_low=True
    )
  if by_leaf and not (norm_params is None and max_norm is None):
    raise ValueError(
      "by_leaf=True weighs each leaf by its own norms, and has no weights of "
      "which norm_params= or max_norm= could speak. Leave them out; "
      "optax.clip_by_global_norm after the method limits its update's norm."
    )
  first = None
  if initial_weights is not None:
    first = _checks.number_or_task_argument(
      initial_weights, num_tasks, "initial_weights"
    )
  settings = _Balance(
    reference,
    power,
    _checks.number_or_task_argument(coefficients, num_tasks, "coefficients"),
    fractions,
    scale,
    relax,
    ratio_bounds,
    decay,
    average,
    first,
  )

  def first_memory(shape: tuple[int, ...]) -> NormBalanceMemory:
    if first is None:
      zeros = jnp.zeros(shape, solver_dtype())
      return NormBalanceMemory(zeros, jnp.zeros(shape, solver_dtype()))
    start = jnp.broadcast_to(first.values.astype(solver_dtype()), shape)
    return NormBalanceMemory(start, jnp.ones(shape, solver_dtype()))

  def weigh(
    step: Step, memory: NormBalanceMemory
  ) -> tuple[jax.Array, NormBalanceMemory]:
    norms = step.norms(norm_params, "norm_params")
    return _weights(settings, step, norms, memory)

  def update(
    step: Step, memory: NormBalanceMemory
  ) -> tuple[Any, NormBalanceMemory]:
    leaves, structure = jax.tree.flatten(step.stacked())
    if not leaves:
      return jax.tree.unflatten(structure, leaves), memory
    squares = [linalg.squared_norms([leaf], num_tasks) for leaf in leaves]
    weights, memory = jax.vmap(
      lambda norms, memory: _weights(settings, step, norms, memory)
    )(jnp.sqrt(jnp.stack(squares)), memory)
    combined = [
      linalg.combine(leaf, weights[i], step.keep)
      for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, combined), memory

  if by_leaf:
    return UpdateRule(
      update,
      lambda params: first_memory((len(jax.tree.leaves(params)), num_tasks)),
    )
  return WeightRule(
    weigh, lambda: first_memory((num_tasks,)), max_norm=max_norm
  )
