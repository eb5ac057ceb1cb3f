"""One function for all tasks, mapped over the tasks' batches."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pullbacks, units
from optax_mtl.sources.arguments import Arguments
from optax_mtl.sources.averaged import Axes
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.trunk import HeadGradients, TrunkTaskGradients


def _rows(
  args: tuple[Any, ...], in_axes: Any
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
  """The leaves with a task axis, that axis first, and the way back.

  Args:
    args: The arguments of the loss function but the params.
    in_axes: As for `jax.vmap`.

  Returns:
    The leaves [T, ...], and a function from a row of them to one task's args.
  """
  axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
  if len(axes) != len(args):
    raise ValueError(
      "in_axes must be one value or have one entry for each of the "
      f"{len(args)} args after the params, got {in_axes!r}."
    )
  is_none = lambda x: x is None  # noqa: E731
  leaf_axes: list[int | None] = jax.tree.leaves(
    jax.tree.map(
      lambda axis, arg: jax.tree.map(lambda _: axis, arg),
      axes,
      args,
      is_leaf=is_none,
    ),
    is_leaf=is_none,
  )
  leaves, structure = jax.tree.flatten(args)
  rows = [
    jnp.moveaxis(jnp.asarray(leaf), axis, 0)
    for leaf, axis in zip(leaves, leaf_axes, strict=True)
    if axis is not None
  ]
  if not rows:
    raise ValueError(
      "At least one of the args after the params must have a task axis, got "
      f"in_axes={in_axes!r} for {len(args)} args."
    )

  def args_of(row: list[jax.Array]) -> Any:
    of_task = iter(row)
    return jax.tree.unflatten(
      structure,
      [
        leaf if axis is None else next(of_task)
        for leaf, axis in zip(leaves, leaf_axes, strict=True)
      ],
    )

  return rows, args_of


def _map(
  fun: Callable[[list[jax.Array]], Any],
  rows: list[jax.Array],
  chunk_size: int | None,
) -> Any:
  """`fun` of each task's row, stacked; all at once without `chunk_size`."""
  if chunk_size is None and not miscompiled.batches_wrongly():
    return units.at_once(fun, rows)
  example = pullbacks.like([leaf[0] for leaf in rows])
  size = rows[0].shape[0] if chunk_size is None else chunk_size
  return units.map_rows(canonicalize(fun, example), rows, size)


class _BatchHeads(HeadGradients):
  """Heads that are summed over the tasks' batches, never stacked.

  Attributes:
    losses_of: Function from the heads' leaves and a task's row to its loss.
    heads: The heads' leaves.
    rows: Leaves [T, ...], what differs between tasks.
    dtype: The losses' dtype.
    chunk_size: How many tasks to take at once.
  """

  def __init__(
    self,
    losses_of: Callable[[list[jax.Array], list[jax.Array]], jax.Array],
    heads: list[jax.Array],
    rows: list[jax.Array],
    dtype: Any,
    chunk_size: int | None,
  ):
    """See the attributes."""
    self.losses_of = losses_of
    self.heads = heads
    self.rows = rows
    self.dtype = dtype
    self.chunk_size = chunk_size

  def _row(self, row: list[jax.Array]) -> list[jax.Array]:
    return jax.grad(self.losses_of)(self.heads, row)

  def map_rows(self, fun: Callable[[list[jax.Array]], Any]) -> Any:
    """As in `HeadGradients`."""
    return _map(lambda row: fun(self._row(row)), self.rows, self.chunk_size)

  def gradient_of(self, task: jax.Array | int) -> list[jax.Array]:
    """As in `HeadGradients`."""
    return self._row(masks.row(self.rows, task))

  def combine(
    self, weights: jax.Array, keep: jax.Array | None
  ) -> list[jax.Array]:
    """As in `HeadGradients`; a task that is not kept may derive as it likes."""
    rows = self.rows
    num_tasks = rows[0].shape[0]
    if keep is not None:
      # 0 times NaN is NaN, so a task that is left out has to be another one.
      stand_in = jnp.where(keep, jnp.arange(num_tasks), jnp.argmax(keep))
      rows = [jnp.take(leaf, stand_in, axis=0) for leaf in rows]
      weights = jnp.where(keep, weights, jnp.zeros_like(weights))

    def pull(rows: list[jax.Array], weights: jax.Array) -> list[jax.Array]:
      _, vjp = jax.vjp(
        lambda heads: units.at_once(
          functools.partial(self.losses_of, heads), rows
        ),
        self.heads,
      )
      return pullbacks.pull_back(lambda c: vjp(c)[0], weights, self.dtype)

    chunk_size = self.chunk_size
    size = num_tasks if chunk_size is None else min(chunk_size, num_tasks)
    total = pull([leaf[:size] for leaf in rows], weights[:size])

    def add(total: list[jax.Array], chunk: Any) -> tuple[list[jax.Array], None]:
      return jax.tree.map(jnp.add, total, pull(*chunk)), None

    whole = num_tasks // size
    if whole > 1:
      chunks = jax.tree.map(
        lambda leaf: leaf[size : whole * size].reshape(
          whole - 1, size, *leaf.shape[1:]
        ),
        (rows, weights),
      )
      total, _ = jax.lax.scan(add, total, chunks)
    if whole * size < num_tasks:
      rest = jax.tree.map(lambda leaf: leaf[whole * size :], (rows, weights))
      total, _ = add(total, rest)
    if keep is None:
      return total
    return [
      jnp.where(jnp.any(keep), leaf, jnp.zeros_like(leaf)) for leaf in total
    ]


def value_and_grads(
  fun: Callable[..., Any],
  has_aux: bool,
  args: Sequence[Any],
  *,
  argnums: int | Sequence[int],
  in_axes: Any,
  chunk_size: int | None,
  shared: Any,
  heads: Heads,
  axes: Axes,
) -> tuple[Any, Any]:
  """The call of what `value_and_task_batch_grads` makes of one function."""
  arguments = Arguments(argnums, args)
  params = axes.spread(arguments.params)
  trunk = masks.trunk_of(shared, params)
  in_trunk = None if trunk is None else jax.tree.leaves(trunk)
  rows, rest_of = _rows(arguments.rest, in_axes)
  structure = jax.tree.structure(params)

  def task_of(row: list[jax.Array]) -> Callable[[Any], Any]:
    def loss_of(params: Any) -> Any:
      out = fun(*arguments.join(params, rest_of(row)))
      value, aux = losses_lib.split(out, has_aux, "fun")
      loss = losses_lib.scalar(value, "The loss function of all tasks")
      return (loss, aux) if has_aux else loss

    return loss_of

  def task(row: list[jax.Array]) -> tuple[Any, list[jax.Array]]:
    value, grads = jax.value_and_grad(task_of(row), has_aux=has_aux)(params)
    return value, masks.pick(in_trunk, grads)

  value, stack = _map(task, rows, chunk_size)
  losses = value[0] if has_aux else value
  mean = axes.losses(losses, params)
  value = (mean, value[1]) if has_aux else mean
  if trunk is None:
    return value, axes.of(jax.tree.unflatten(structure, stack))
  in_heads = [not flag for flag in jax.tree.leaves(trunk)]

  def head_losses(head_leaves: list[jax.Array], row: list[jax.Array]) -> Any:
    value = task_of(row)(masks.merge(in_heads, head_leaves, params))
    return value[0] if has_aux else value

  head_gradients = _BatchHeads(
    head_losses, masks.pick(in_heads, params), rows, losses.dtype, chunk_size
  )
  grads = TrunkTaskGradients(
    stack,
    head_gradients,
    pullbacks.like(params),
    losses.shape[0],
    shared=trunk,
    heads=heads,
  )
  return value, axes.of(grads)
