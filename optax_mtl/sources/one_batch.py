"""Losses of all tasks on one batch, and their gradients."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from optax_mtl import _checks
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pullbacks, units
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.implicit import ImplicitTaskGradients
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.trunk import TrunkTaskGradients

#: From this many params on, CPUs differentiate one task after another: side by
#: side, the tasks' gradients do not fit the cache.
_LARGE = 1 << 18


def _bind(
  fun: Callable[..., Any],
  argnums: int | Sequence[int],
  args: tuple[Any, ...],
  kwargs: dict[str, Any],
) -> tuple[Any, Callable[[Any], Any]]:
  """The arguments to differentiate, and `fun` as a function of those alone."""
  single = isinstance(argnums, int)
  positions = (argnums,) if single else tuple(argnums)
  if any(not -len(args) <= i < len(args) for i in positions):
    raise ValueError(
      f"argnums={argnums} names a positional argument that is not there: the "
      f"call has {len(args)}."
    )
  positions = tuple(i % len(args) for i in positions)
  params = tuple(args[i] for i in positions)
  for i, param in zip(positions, params, strict=True):
    _checks.check_inexact(param, f"argument {i}")

  def of_params(params: Any) -> Any:
    full = list(args)
    for i, param in zip(
      positions, (params,) if single else params, strict=True
    ):
      full[i] = param
    return fun(*full, **kwargs)

  return params[0] if single else params, of_params


def _stack(
  row: Callable[[jax.Array], Any],
  losses: jax.Array,
  params: Any,
  chunk_size: int | None,
) -> Any:
  """`row` of each task's unit cotangent, stacked: leaves [T, ...]."""
  cotangents = pullbacks.unit_cotangents(pullbacks.like(losses))
  small = sum(leaf.size for leaf in jax.tree.leaves(params)) < _LARGE
  if chunk_size is None and small and not miscompiled.batches_wrongly():
    return units.at_once(row, cotangents)
  return units.map_rows(canonicalize(row, losses), cotangents, chunk_size)


def _trunk_gradients(
  pullback: Callable[[jax.Array], Any],
  losses: jax.Array,
  params: Any,
  chunk_size: int | None,
  **facts: Any,
) -> TrunkTaskGradients:
  """The trunk's gradients, stacked, and a pullback for the heads."""
  in_trunk = jax.tree.leaves(facts["shared"])
  in_heads = [not flag for flag in in_trunk]

  def trunk_row(unit: jax.Array) -> list[jax.Array]:
    return masks.pick(in_trunk, pullback(unit))

  def pull_heads(weights: jax.Array, keep: jax.Array | None) -> list[jax.Array]:
    del keep  # The tasks share one forward pass: see value_and_task_grads.
    return pullbacks.pull_back(
      lambda cotangent: masks.pick(in_heads, pullback(cotangent)),
      weights,
      losses.dtype,
    )

  def map_heads(fun: Callable[[list[jax.Array]], Any]) -> Any:
    return _stack(
      lambda unit: fun(masks.pick(in_heads, pullback(unit))),
      losses,
      params,
      chunk_size,
    )

  return TrunkTaskGradients(
    _stack(trunk_row, losses, params, chunk_size),
    pull_heads,
    map_heads,
    pullbacks.like(params),
    losses.shape[0],
    **facts,
  )


def value_and_task_grads(
  fun: Callable[..., Any],
  argnums: int | Sequence[int] = 0,
  has_aux: bool = False,
  *,
  source: Literal["stacked", "implicit"] = "stacked",
  chunk_size: int | None = None,
  shared: Any = None,
  heads: Heads = "sum",
) -> Callable[..., tuple[Any, Any]]:
  """The losses of all tasks and their gradients, like `jax.value_and_grad`.

  The function runs forward once. With `source="stacked"` the gradients are a
  plain tree; it costs T backward passes and T copies of the params. With
  `source="implicit"` nothing is stored: a method that needs the Gram matrix
  computes it column by column, `M[:, t] = J (Jᵀ e_t)`, with T backward and
  T - 1 forward-mode passes, and the update itself is one backward pass; a
  method that needs only the losses costs exactly one.

  With `shared=`, which says which leaves are the trunk that all tasks share,
  methods weigh the trunk's gradients alone. The stacked source then stores T
  copies of the trunk only, and computes the heads' gradients once, when they
  are combined. The implicit source does that in the backward pass of the trunk,
  unless a head's leaf serves several tasks.

  A loss whose derivative is NaN or inf spoils the gradients of all tasks, with
  either source: they share one forward pass, and 0 times NaN is NaN. Neither
  `active` nor dropping tasks that are not finite can undo that, since they act
  on the gradients as they come. So an absent label that is coded as NaN has to
  be replaced before it meets the prediction; or each task has a forward pass of
  its own, as in `value_and_task_batch_grads`.

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
    chunk_size: How many tasks to differentiate at once. Smaller needs less
      memory, larger may be faster. None: one for "implicit"; for "stacked" all,
      but on CPU one if there are 2**18 params or more.
    shared: Which leaves of the params are the shared trunk: a pytree prefix of
      bools, or a callable from the params to one. With several `argnums`, the
      params are their tuple. None: all leaves.
    heads: "sum" or "weighted": whether the other leaves get the sum of the
      tasks' gradients or the weighted sum.

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

  def value_and_grads(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    miscompiled.warn_on_cpu()
    params, of_params = _bind(fun, argnums, args, kwargs)
    trunk = masks.trunk_of(shared, params)
    names = losses_lib.Recorder()

    def losses_of(params: Any) -> tuple[jax.Array, Any]:
      value, aux = losses_lib.split(of_params(params), has_aux, "fun")
      return names.stack(value), aux

    losses, vjp, aux = jax.vjp(losses_of, params, has_aux=True)
    pullback = lambda cotangent: vjp(cotangent)[0]  # noqa: E731
    facts: dict[str, Any] = {
      "names": names.names,
      "shared": trunk,
      "heads": heads,
    }
    if source == "implicit":
      grads = ImplicitTaskGradients(
        canonicalize(pullback, losses),
        pullbacks.like(losses),
        pullbacks.like(params),
        1 if chunk_size is None else chunk_size,
        **facts,
      )
    elif trunk is not None:
      grads = _trunk_gradients(pullback, losses, params, chunk_size, **facts)
    else:
      grads = _stack(pullback, losses, params, chunk_size)
    value = names.back(losses)
    return ((value, aux) if has_aux else value), grads

  return value_and_grads
