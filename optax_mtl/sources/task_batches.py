"""Losses and gradients where every task has a batch of its own."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl.sources import masks, miscompiled, pullbacks, units
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.trunk import TrunkTaskGradients


def _rows(
  args: tuple[Any, ...], in_axes: Any
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
  """The leaves with a task axis, that axis first, and the way back.

  Args:
    args: The arguments of the loss function after the params.
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


def _pull_heads(
  losses_of: Callable[[list[jax.Array], list[jax.Array]], jax.Array],
  heads: list[jax.Array],
  rows: list[jax.Array],
  weights: jax.Array,
  keep: jax.Array | None,
  dtype: Any,
  chunk_size: int | None,
) -> list[jax.Array]:
  """The weighted sum of the tasks' gradients of the heads, never stacked.

  Args:
    losses_of: Function from the heads' leaves and a task's row to its loss.
    heads: The heads' leaves.
    rows: Leaves [T, ...], what differs between tasks.
    weights: Array [T].
    keep: Array [T] of bool, or None: tasks that are not kept, however they
      derive, take no part.
    dtype: The losses' dtype.
    chunk_size: How many tasks to take at once.

  Returns:
    Leaves like `heads`.
  """
  num_tasks = rows[0].shape[0]
  if keep is not None:
    # 0 times NaN is NaN, so a task that is left out has to be another one.
    stand_in = jnp.where(keep, jnp.arange(num_tasks), jnp.argmax(keep))
    rows = [jnp.take(leaf, stand_in, axis=0) for leaf in rows]
    weights = jnp.where(keep, weights, jnp.zeros_like(weights))

  def pull(rows: list[jax.Array], weights: jax.Array) -> list[jax.Array]:
    _, vjp = jax.vjp(
      lambda heads: units.at_once(functools.partial(losses_of, heads), rows),
      heads,
    )
    return pullbacks.pull_back(lambda c: vjp(c)[0], weights, dtype)

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


def value_and_task_batch_grads(
  fun: Callable[..., Any],
  has_aux: bool = False,
  *,
  in_axes: Any = 0,
  chunk_size: int | None = None,
  shared: Any = None,
  heads: Heads = "sum",
) -> Callable[..., tuple[Any, Any]]:
  """Losses and stacked gradients where every task has a batch of its own.

  One `vmap` of `jax.value_and_grad` over the tasks: T forward and T backward
  passes, one on each task's batch, and none of the T x T that differentiating a
  stacked vector of such losses costs.

  Args:
    fun: Function `(params, *args) -> loss`, a scalar, for one task. With
      `has_aux`, a pair with any pytree. Where tasks differ in more than their
      data, pass the task's number among the args and `jax.lax.switch` on it.
    has_aux: Whether `fun` returns a pair.
    in_axes: The task axis of each of the args, as in `jax.vmap`: 0 for an arg
      with leaves [T, ...], None for one that all tasks share; one value for
      all or a tuple with one entry an arg.
    chunk_size: How many tasks to take at once; None: all.
    shared: Which leaves of the params are the shared trunk, as for
      `value_and_task_grads`: the gradients of the others are never stacked, but
      summed over the tasks when they are combined. With `chunk_size`, or where
      tasks are absent, that takes a second forward and backward pass, through
      the heads alone. None: all leaves are shared, and the result is a tree.
    heads: "sum" or "weighted", what the other leaves get.

  Returns:
    A function `(params, *args) -> (losses, grads)`, with `has_aux`
    `((losses, aux), grads)`: losses [T], aux with leaves [T, ...], grads a tree
    with leaves [T, *param.shape], or with `shared` a `TaskGradients`.

  Raises:
    TypeError: A param is not floating point.
    ValueError: `chunk_size` is not positive, `in_axes` does not fit the args,
      the args differ in their number of tasks (from `jax.vmap`), `shared`
      selects no leaf, or `heads` is unknown.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> loss_fn = lambda params, x: jnp.sum(params * x)
    >>> losses, grads = optax_mtl.value_and_task_batch_grads(loss_fn)(
    ...   jnp.array([1.0, 2.0]), jnp.array([[3.0, 4.0], [0.0, 1.0]])
    ... )
    >>> print(losses, grads.tolist())
    [11.  2.] [[3.0, 4.0], [0.0, 1.0]]
  """
  _checks.check_choice("heads", heads, ("sum", "weighted"))
  units.check_chunk_size(chunk_size)

  def value_and_grads(params: Any, *args: Any) -> tuple[Any, Any]:
    miscompiled.warn_on_cpu()
    _checks.check_inexact(params, "params")
    trunk = masks.trunk_of(shared, params)
    in_trunk = None if trunk is None else jax.tree.leaves(trunk)
    rows, args_of = _rows(args, in_axes)
    structure = jax.tree.structure(params)

    def task(row: list[jax.Array]) -> tuple[Any, list[jax.Array]]:
      value, grads = jax.value_and_grad(fun, has_aux=has_aux)(
        params, *args_of(row)
      )
      return value, masks.pick(in_trunk, grads)

    value, stack = _map(task, rows, chunk_size)
    losses = value[0] if has_aux else value
    if trunk is None:
      return value, jax.tree.unflatten(structure, stack)

    def head_losses(head_leaves: list[jax.Array], row: list[jax.Array]) -> Any:
      full = masks.merge(in_heads, head_leaves, params)
      value = fun(full, *args_of(row))
      return value[0] if has_aux else value

    in_heads = [not flag for flag in jax.tree.leaves(trunk)]
    head_leaves = masks.pick(in_heads, params)
    grads = TrunkTaskGradients(
      stack,
      lambda weights, keep: _pull_heads(
        head_losses, head_leaves, rows, weights, keep, losses.dtype, chunk_size
      ),
      lambda fun: _map(
        lambda row: fun(jax.grad(head_losses)(head_leaves, row)),
        rows,
        chunk_size,
      ),
      pullbacks.like(params),
      losses.shape[0],
      shared=trunk,
      heads=heads,
    )
    return value, grads

  return value_and_grads
