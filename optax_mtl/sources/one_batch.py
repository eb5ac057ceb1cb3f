"""Losses of all tasks on one batch, and their gradients."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from optax_mtl import _checks
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pullbacks, units
from optax_mtl.sources.arguments import Arguments
from optax_mtl.sources.averaged import Axes, AxisName
from optax_mtl.sources.backward import Backward, differentiate
from optax_mtl.sources.implicit import ImplicitTaskGradients
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.stacked import StackedTaskGradients
from optax_mtl.sources.trunk import (
  HeadGradients,
  TrunkTaskGradients,
  from_rows,
)


class _SharedHeads(HeadGradients):
  """Heads that are pulled back with all tasks' weights at once."""

  def __init__(
    self, backward: Backward, in_heads: list[bool], chunk_size: int | None
  ):
    self.backward = backward
    self.in_heads = in_heads
    self.chunk_size = chunk_size

  def _leaves(self, gradient: Any) -> list[jax.Array]:
    return masks.pick(self.in_heads, gradient)

  def combine(
    self, weights: jax.Array, keep: jax.Array | None
  ) -> list[jax.Array]:
    del keep  # The tasks share one backward pass: see value_and_task_grads.
    return pullbacks.pull_back(
      lambda cotangent: self._leaves(self.backward.of_all(cotangent)),
      weights,
      self.backward.losses_like.dtype,
    )

  def map_rows(self, fun: Callable[[list[jax.Array]], Any]) -> Any:
    return self.backward.map_tasks(
      lambda gradient: fun(self._leaves(gradient)), self.chunk_size
    )

  def gradient_of(self, task: jax.Array | int) -> list[jax.Array]:
    units = pullbacks.unit_cotangents(self.backward.losses_like)
    return self._leaves(self.backward.of_all(masks.row(units, task)))


def _stacked(backward: Backward, chunk_size: int | None, **facts: Any) -> Any:
  """The gradients of all tasks, stacked; of the trunk alone if there is one."""
  like = pullbacks.like(backward.params)
  each = backward.of_each(chunk_size)
  if each is not None:
    grads = from_rows(each, like, **facts)
    plain = isinstance(grads, StackedTaskGradients)
    return grads.tree if plain else grads
  if facts["shared"] is None:
    return backward.map_tasks(lambda gradient: gradient, chunk_size)
  in_trunk = jax.tree.leaves(facts["shared"])
  trunk = backward.map_tasks(
    lambda gradient: masks.pick(in_trunk, gradient), chunk_size
  )
  heads = _SharedHeads(backward, [not flag for flag in in_trunk], chunk_size)
  num_tasks = backward.losses_like.shape[0]
  return TrunkTaskGradients(trunk, heads, like, num_tasks, **facts)


def value_and_task_grads(
  fun: Callable[..., Any],
  argnums: int | Sequence[int] = 0,
  has_aux: bool = False,
  *,
  source: Literal["stacked", "implicit"] = "stacked",
  chunk_size: int | None = None,
  shared: Any = None,
  heads: Heads = "sum",
  axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, Any]]:
  """The losses of all tasks and their gradients, like `jax.value_and_grad`.

  The function runs forward once. With `source="stacked"` the gradients are a
  plain tree; it costs T backward passes and T copies of the params. With
  `source="implicit"` nothing is stored: a method that needs the Gram matrix
  computes it column by column, `M[:, t] = J (Jᵀ e_t)`, with T backward and
  T - 1 forward-mode passes, and the update itself is one backward pass; a
  method that needs only the losses costs exactly one.

  The stacked source pulls each loss back by itself, in a backward pass that
  leaves out what this loss does not depend on. Losses that share nothing, each
  on points of its own, cost no more than their sum then. That goes for up to 16
  losses that are put together from single ones, as in a list, a dict or a
  `jnp.stack`; a vector that is computed as one (a mean over one axis, the
  result of a `vmap`), more losses, and those with a `chunk_size` are all pulled
  back by one program, which runs through every loss for each task. Terms that
  are functions of their own are better given to `value_and_task_batch_grads`.

  With `shared=`, which says which leaves are the trunk that all tasks share,
  methods weigh the trunk's gradients alone. The stacked source then stores T
  copies of the trunk only, and each head's gradient once. The implicit source
  computes the heads' gradients in the backward pass of the trunk, unless a
  head's leaf serves several tasks.

  A loss whose derivative is NaN or inf spoils no other where each is pulled
  back by itself, unless they meet before their backward passes do: in the
  forward pass, or in one call that computes several. It spoils the gradients of
  all tasks where one program pulls them all back, and with the implicit source:
  0 times NaN is NaN. Neither `active` nor dropping tasks that are not finite
  can undo that, since they act on the gradients as they come. So an absent
  label that is coded as NaN is best replaced before it meets the prediction.

  The implicit source takes the backward pass for a linear function of the
  losses' cotangents, which it is unless a `jax.custom_vjp` makes it another (by
  clipping a cotangent, say). Then the sources differ: the weighted combination
  is the backward pass of the weighted loss, not the sum of the tasks' own. The
  Gram matrix needs the backward pass transposed; where JAX cannot do that (a
  backward pass with a `while_loop`, a callback, or one that is not linear), it
  comes from the gradients, two chunks of tasks at a time: up to T(T + 1)/2
  backward passes instead of T and T - 1 forward ones. Its entries are as exact
  as the network's own products: on a GPU three digits, unless
  `jax.default_matmul_precision("float32")` says otherwise.

  Losses in half precision: cast them to float32 inside `fun`, before they are
  reduced, for a mean in bfloat16 has two or three digits. Gram matrices and
  weights keep theirs all the same: with the implicit source the Gram matrix is
  computed from pairs of gradients, and weights that half precision cannot hold
  are pulled back in up to three pieces, each a backward pass.

  Args:
    fun: Function that returns the losses: an array [T], or a sequence or dict
      of scalars (the rows of a dict are in the order of its sorted keys). With
      `has_aux`, a pair of that and any pytree.
    argnums: Which positional arguments to differentiate.
    has_aux: Whether `fun` returns a pair `(losses, aux)`.
    source: "stacked" or "implicit".
    chunk_size: How many tasks to differentiate at once, by one program that is
      compiled once. Smaller needs less memory, larger may be faster. None: one
      for "implicit"; for "stacked" each by a program of its own, and where that
      is not to be had all at once, but on CPU one if there are 2**18 params or
      more.
    shared: Which leaves of the params are the shared trunk: a pytree prefix of
      bools, or a callable from the params to one. With several `argnums`, the
      params are their tuple. None: all leaves.
    heads: "sum" or "weighted": whether the other leaves get the sum of the
      tasks' gradients or the weighted sum.
    axis_name: The named axis, or a tuple of several, of a surrounding
      `shard_map` or `pmap` over whose devices the batch is spread, each with a
      part of one size. `fun` returns the losses of its part, and losses and
      gradients are the means over the devices: reduce neither before nor
      after. What `fun` returns beside the losses stays each device's own. None:
      the losses are of the whole batch.

  Returns:
    A function with the arguments of `fun` that returns `(losses, grads)`, or
    `((losses, aux), grads)`: losses an array [T], or a dict of scalars if `fun`
    returned a dict; grads a tree with leaves [T, *param.shape] in the params'
    dtypes, or with `shared` or "implicit" a `TaskGradients`.

  Raises:
    TypeError: A param or a loss is not floating point, or `has_aux` is set and
      `fun` returns no pair.
    ValueError: A loss is not a scalar; `source` or `heads` is unknown;
      `chunk_size` is not positive; `shared` selects no leaf.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> def loss_fn(params, x):
    ...   return [jnp.sum(params * x), jnp.sum(params**2)]
    >>> losses, grads = optax_mtl.value_and_task_grads(loss_fn)(
    ...   jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    ... )
    >>> print(losses, grads.tolist())
    [11.  5.] [[3.0, 4.0], [2.0, 4.0]]
  """
  _checks.check_choice("source", source, ("stacked", "implicit"))
  _checks.check_choice("heads", heads, ("sum", "weighted"))
  units.check_chunk_size(chunk_size)
  axes = Axes(axis_name)

  def value_and_grads(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    miscompiled.warn_on_cpu()
    arguments = Arguments(argnums, args)
    of_params = arguments.apply_to(fun, **kwargs)
    params = axes.spread(arguments.params)
    trunk = masks.trunk_of(shared, params)
    names = losses_lib.Recorder()

    def losses_of(params: Any) -> tuple[jax.Array, Any]:
      value, aux = losses_lib.split(of_params(params), has_aux, "fun")
      return names.stack(value), aux

    facts: dict[str, Any] = {"shared": trunk, "heads": heads}
    if source == "implicit":
      losses, vjp, aux = jax.vjp(losses_of, params, has_aux=True)
      grads = ImplicitTaskGradients(
        lambda cotangent: vjp(cotangent)[0],
        pullbacks.like(losses),
        pullbacks.like(params),
        1 if chunk_size is None else chunk_size,
        names=names.names,
        **facts,
      )
    else:
      losses, backward, aux = differentiate(losses_of, params)
      grads = _stacked(backward, chunk_size, names=names.names, **facts)
    value = names.back(axes.losses(losses, params))
    return ((value, aux) if has_aux else value), axes.of(grads)

  return value_and_grads
