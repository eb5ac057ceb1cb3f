"""SAMO: each task's gradient a little way up its own hill."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype, wide
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pullbacks
from optax_mtl.sources.backward import Backward, differentiate
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.sources.terms import Term, TermTaskGradients
from optax_mtl.sources.trunk import from_rows
from optax_mtl.training._method import (
  LossFunction,
  Source,
  TrainingMethod,
  inverse_length,
  moved,
  squared_norm,
  take_step,
)
from optax_mtl.wrappers._wrapped import init_around


class SamoState(NamedTuple):
  """The state of `samo`.

  Attributes:
    losses: Array [T], the losses of the last step, before it.
    perturbation_key: Array [2] uint32, raw data of the key that draws the
      directions of the next step.
    optimizer: State of the optimizer, in which the method's own state stands;
      `optax_mtl.method_state` finds it, with the weights.
  """

  losses: jax.Array
  perturbation_key: jax.Array
  optimizer: Any


def samo(
  num_tasks: int,
  loss_fn: Callable[..., Any],
  optimizer: optax.GradientTransformation,
  *,
  radius: ArrayLike = 0.001,
  local_share: ArrayLike = 0.5,
  difference: ArrayLike = 0.01,
  seed: int = 0,
  source: Source = "stacked",
  shared: Any = None,
  heads: Heads = "sum",
  has_aux: bool = False,
) -> TrainingMethod:
  """SAMO: sharpness-aware gradients of each task, for any method.

  Task i's gradient is taken at `θ + ε_i`, a little way up: `ε_i` has the length
  `radius`, and mixes the mean gradient `ḡ` of all tasks with an estimate of the
  task's own, leaf by leaf:

      ε_i ~ (1 - β) ḡ + β ‖ḡ‖ ĝ_i / ‖ĝ_i‖ ,

      ĝ_i = (L_i(θ + μz) - L_i(θ - μz)) / 2μ  z ,   z drawn anew from N(0, I).

  These gradients go to `optimizer`, at the head of which any method of this
  package stands; it gets the losses at `θ` as `losses=`. So this composes:
  `samo(2, loss_fn, optax.chain(optax_mtl.fairgrad(2), optax.adam(1e-3)))`.

  At each leaf the estimate has the length of the mean gradient, so all that is
  left of the two losses is which of them is larger: `ĝ_i` is `z` or `-z`, and
  half of the perturbation is noise with a sign. The paper does so for its cost:
  two forward passes a task in place of a backward pass.

  With `shared=`, the above is on the trunk alone; a head goes up its own
  gradient by the same `radius`. Lengths are measured over the leaves that the
  task's loss depends on; over all leaves where the losses come as a vector that
  is computed as one, and beyond 16 tasks, since it is not known then which head
  is whose.

  Estimates as long as `ḡ` leaf by leaf are in the authors' code for Cityscapes,
  and what the paper's abstract calls layerwise normalised; their code for NYUv2
  mixes `ḡ` with `ĝ_i` as it is. The defaults are those of their scripts.

  A zero `ḡ`, or two losses that are equal, leave out their part of the
  perturbation (NaN in the authors' code). A NaN in one task spoils the
  perturbations of all, through `ḡ`; the method sees it in the gradients.

  Args:
    num_tasks: The number of tasks `T`.
    loss_fn: Function `(params, batch) -> losses`: an array [T], or a sequence
      or dict of T scalars (the order is that of a dict's sorted keys). With
      `has_aux`, a pair of that and any pytree.
    optimizer: A method of this package, or a chain that begins with one.
    radius: The length of a perturbation, not negative; 0 takes the gradients
      at the params themselves. Default 0.001.
    local_share: `β` in [0, 1]. Default 0.5; 0 is SAM of the mean loss.
    difference: `μ > 0`. Default 0.01.
    seed: Seeds the directions `z`.
    source: "stacked" or "implicit", as for `value_and_task_batch_grads`.
    shared: Which leaves are the trunk, as for `value_and_task_grads`. None:
      all.
    heads: "sum" or "weighted": what the other leaves get.
    has_aux: Whether `loss_fn` returns a pair `(losses, aux)`.

  Returns:
    A `TrainingMethod`: `init(params)`, and `update(params, state, batch,
    **extra_args)`, which returns the new params and the new `SamoState`, and
    with `has_aux` what aux was at the params. `extra_args` (`active`, `kpis`,
    ...) are those of the method's update.

  Raises:
    TypeError: `loss_fn` is no function, `optimizer` is none or does not begin
      with a method; a param or loss is not floating point; `seed` is no
      integer.
    ValueError: A number is out of range, `source` or `heads` is unknown, or
      `loss_fn` returns another number of losses.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optax_mtl
    >>> from optax_mtl import training
    >>> def loss_fn(params, target):
    ...   return [jnp.sum((params - target) ** 2), jnp.sum((params + 1.0) ** 2)]
    >>> tx = optax.chain(optax_mtl.mgda(2), optax.sgd(0.1))
    >>> method = training.samo(2, loss_fn, tx)
    >>> params = jnp.array([1.0, 0.5])
    >>> params, state = method.update(params, method.init(params), 2.0)
    >>> print(state.losses, optax_mtl.method_state(state).weights.shape)
    [3.25 6.25] (2,)

  References:
    Ban, Subramani & Ji, `SAMO: A Lightweight Sharpness-Aware Approach for
    Multi-Task Optimization with Joint Global-Local Perturbation
    <https://arxiv.org/abs/2507.07883>`_, ICCV 2025.
  """
  num_tasks = _checks.check_num_tasks(num_tasks)
  loss = LossFunction(loss_fn, num_tasks, has_aux, "samo")
  _checks.check_transformation("optimizer", optimizer)
  tx = optax.with_extra_args_support(optimizer)
  _checks.check_range("radius", radius, 0)
  _checks.check_range("local_share", local_share, 0, 1)
  _checks.check_range("difference", difference, 0, open_low=True)
  _checks.check_seed("seed", seed)
  _checks.check_choice("source", source, ("stacked", "implicit"))
  _checks.check_choice("heads", heads, ("sum", "weighted"))

  def init(params: Any) -> SamoState:
    _checks.check_inexact(params, "the params")
    key = jax.random.key(seed, impl="threefry2x32")
    return SamoState(
      losses=jnp.zeros((num_tasks,), solver_dtype()),
      perturbation_key=jax.random.key_data(key),
      optimizer=init_around("samo", tx, params),
    )

  def update(
    params: Any, state: SamoState, batch: Any, **extra_args: Any
  ) -> Any:
    _checks.check_inexact(params, "the params")
    miscompiled.warn_on_cpu()
    recorder = losses_lib.Recorder()

    def losses_of(params: Any) -> tuple[jax.Array, Any]:
      value, aux = losses_lib.split(loss_fn(params, batch), has_aux, "loss_fn")
      stacked = recorder.stack(value)
      loss.vector(value)
      return stacked, aux

    def loss_of(task: int, params: Any) -> jax.Array:
      """One loss alone; what only the others depend on is dropped."""
      value, _ = losses_lib.split(loss_fn(params, batch), has_aux, "loss_fn")
      key = task if recorder.keys is None else recorder.keys[task]
      return losses_lib.scalar(value[key], "loss_fn")

    losses, backward, aux = differentiate(losses_of, params)
    values = loss.vector(losses)
    trunk = masks.trunk_of(shared, params)
    key = jax.random.wrap_key_data(state.perturbation_key, impl="threefry2x32")
    key, now = jax.random.split(key)
    mean = [
      wide(leaf)
      for leaf in jax.tree.leaves(
        backward.of_all(jnp.full_like(losses, 1 / num_tasks))
      )
    ]
    reads = _reads(backward, len(mean))
    flags = [True] * len(mean) if trunk is None else jax.tree.leaves(trunk)
    structure = jax.tree.structure(params)

    def term(task: int) -> Term:
      """The task's loss, differentiated a little way up its hill."""
      drawn = draw_directions(jax.random.fold_in(now, task), mean, flags)
      along = jax.tree.unflatten(structure, drawn)
      reach = jnp.asarray(difference, solver_dtype())
      above = loss_of(task, moved(params, along, reach))
      below = loss_of(task, moved(params, along, -reach))
      sign = jnp.sign(wide(above - below))
      way = _way_up(mean, drawn, sign, flags, reads[task], local_share)
      there = moved(
        params,
        jax.tree.unflatten(structure, way),
        jnp.asarray(radius, solver_dtype()),
      )
      return Term(lambda params: (loss_of(task, params), None), there)

    grads = _gradients(
      [term(task) for task in range(num_tasks)],
      pullbacks.like(params),
      source,
      {"names": recorder.names, "shared": trunk, "heads": heads},
    )
    params, optimizer_state = take_step(
      tx,
      grads,
      state.optimizer,
      params,
      {"losses": recorder.back(values)} | extra_args,
    )
    new = SamoState(values, jax.random.key_data(key), optimizer_state)
    return loss.result(params, new, aux)

  return TrainingMethod(init, update)


def draw_directions(
  key: jax.Array, like: Sequence[jax.Array], flags: Sequence[bool]
) -> list[jax.Array]:
  """A direction for a finite difference: normal where flagged, 0 elsewhere.

  Args:
    key: A key.
    like: Leaves of whose shapes and dtypes it is to be.
    flags: One bool a leaf.

  Returns:
    The leaves.
  """

  def draw(number: int, leaf: jax.Array) -> jax.Array:
    # 32 bits under x64 too, so that the draws are the same there.
    dtype = jnp.complex64 if jnp.iscomplexobj(leaf) else jnp.float32
    key_of_leaf = jax.random.fold_in(key, number)
    return jax.random.normal(key_of_leaf, leaf.shape, dtype).astype(leaf.dtype)

  return [
    draw(number, leaf) if flag else jnp.zeros_like(leaf)
    for number, (leaf, flag) in enumerate(zip(like, flags, strict=True))
  ]


def _way_up(
  mean: Sequence[jax.Array],
  drawn: Sequence[jax.Array],
  sign: jax.Array,
  flags: Sequence[bool],
  reads: Sequence[bool],
  local_share: ArrayLike,
) -> list[jax.Array]:
  """A task's perturbation at radius 1, of length 1 on the trunk and the heads.

  Args:
    mean: The mean gradient, a list of leaves.
    drawn: The direction of the finite difference.
    sign: Scalar, the sign of the difference.
    flags: Which leaves are of the trunk.
    reads: Which leaves the task's loss depends on.
    local_share: `β`.

  Returns:
    A list of leaves, 0 where the task's loss depends on nothing.
  """
  share = jnp.asarray(local_share, solver_dtype())

  def mixed(leaf: jax.Array, along: jax.Array) -> jax.Array:
    length = jnp.sqrt(squared_norm(leaf)) * inverse_length(squared_norm(along))
    return (1 - share) * leaf + share * sign * length * along

  ways = [
    mixed(leaf, along) if in_trunk else leaf
    for leaf, along, in_trunk in zip(mean, drawn, flags, strict=True)
  ]

  def scale(of_trunk: bool) -> jax.Array:
    chosen = [
      way
      for way, in_trunk, read in zip(ways, flags, reads, strict=True)
      if read and in_trunk == of_trunk
    ]
    return (
      inverse_length(squared_norm(chosen)) if chosen else jnp.zeros_like(share)
    )

  scales = {True: scale(True), False: scale(False)}
  return [
    way * scales[in_trunk] if read else jnp.zeros_like(way)
    for way, in_trunk, read in zip(ways, flags, reads, strict=True)
  ]


def _reads(backward: Backward, num_leaves: int) -> list[list[bool]]:
  """Which leaves each loss depends on; all, where that is not known."""
  num_tasks = backward.losses_like.shape[0]
  found: list[list[bool]] = [[True] * num_leaves for _ in range(num_tasks)]

  def look() -> None:
    for reads, row in zip(found, backward.of_each(None) or [], strict=False):
      reads[:] = [leaf is not None for leaf in row]

  jax.eval_shape(look)  # It is only traced: nothing of it is computed.
  return found


def _gradients(
  terms: Sequence[Term],
  params_like: Any,
  source: Source,
  facts: dict[str, Any],
) -> TaskGradients:
  """The terms' gradients, stacked or not; an object in any case.

  An optimizer that is no method would take a plain tree of stacked gradients
  for one gradient, and broadcast the params to it in silence.
  """
  if source == "implicit":
    return TermTaskGradients(terms, params_like, 1, **facts)
  return from_rows([term.row() for term in terms], params_like, **facts)
