"""Losses and gradients where every task has a batch of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from optax_mtl import _checks
from optax_mtl.sources import miscompiled, terms, units, vmapped
from optax_mtl.sources.averaged import Axes, AxisName
from optax_mtl.sources.masks import Heads

#: A function for all tasks, or one for each by the tasks' names.
Functions = Callable[..., Any] | Mapping[Any, Callable[..., Any]]


def value_and_task_batch_grads(
  fun: Functions,
  has_aux: bool = False,
  *,
  argnums: int | Sequence[int] = 0,
  source: Literal["stacked", "implicit"] = "stacked",
  in_axes: Any = 0,
  chunk_size: int | None = None,
  shared: Any = None,
  heads: Heads = "sum",
  axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, Any]]:
  """Losses and gradients where every task has a batch of its own.

  *One function for all tasks*, called with `(params, *args)`: one `vmap` of
  `jax.value_and_grad` over the tasks, whose batches have one shape.

  *A dict of functions*, by the tasks' names, called with `(params, {name:
  batch, ...})`: terms that are functions of their own on batches of their own,
  of any shapes, as the residual, the boundary and the initial condition of a
  physics-informed network. Term by term, `functions[name](params, *batch)` if
  the batch is a tuple (`()` for a term without data), else
  `functions[name](params, batch)`; a named tuple is one batch. (`ntk_traces`
  in contrast hands a residual the sample of a tuple in one piece, as a tuple.)

  Either way each task runs forward and backward on its own batch, which costs
  what the summed loss costs, and none of the T x T that differentiating a
  stacked vector of such losses may. A task whose loss or gradient is NaN spoils
  no other.

  A term whose name is missing from the batches, or whose batch is None, is
  absent from the step: nothing of it is computed. Its loss is NaN, its aux
  None, and a method takes its task for inactive, as with `active=`. Which terms
  are absent is known while tracing, so `jit` compiles a program for each
  choice. `active=` in contrast is data: it compiles nothing again, and saves
  nothing.

  With `source="implicit"` (terms only) no gradients are stored. The update is
  one backward pass of the weighted terms; the Gram matrix takes T(T + 1)/2
  backward passes of single terms, or fewer with a `chunk_size`;
  `gradient_of(task)` runs one term forward and backward, also where the number
  is traced.

  Args:
    fun: Function `(params, *args) -> loss`, a scalar, for one task; or a dict
      of such functions. With `has_aux`, each returns a pair with any pytree.
    has_aux: Whether the functions return pairs.
    argnums: Which positional arguments to differentiate, as for `jax.grad`. For
      terms they are among those that come before the batches: a call `(a, b,
      {name: batch})` runs `functions[name](a, b, *batch)`.
    source: "stacked", or for terms "implicit".
    in_axes: For one function: the task axis of each of the args that are not
      differentiated, as in `jax.vmap`: 0 for an arg with leaves [T, ...], None
      for one that all tasks share; one value for all or a tuple with one entry
      an arg.
    chunk_size: How many tasks to take at once. None: all, one with "implicit".
      For stacked terms, a group of so many waits for the one before it, which
      bounds the memory of activations; for implicit terms, so many gradients
      are held while the Gram matrix is computed.
    shared: Which leaves of the params are the shared trunk, as for
      `value_and_task_grads`: the gradients of the others are never stacked, but
      summed over the tasks when they are combined. With one function, that
      takes a second forward and backward pass through the heads alone where
      there is a `chunk_size` or tasks are absent. None: all leaves are shared,
      and the result is a tree.
    heads: "sum" or "weighted", what the other leaves get.
    axis_name: As for `value_and_task_grads`: the axis over whose devices the
      batches are spread.

  Returns:
    A function that returns `(losses, grads)`, with `has_aux` `((losses, aux),
    grads)`. Of one function: losses [T], aux with leaves [T, ...]. Of a dict:
    dicts of losses and of aux, and rows in the order of the sorted names. Grads
    are a tree with leaves [T, *param.shape]; a `TaskGradients` with `shared`,
    with "implicit", or where a term is absent.

  Raises:
    TypeError: `fun` is neither a function nor a dict of functions, a param or a
      loss is not floating point, `has_aux` is set and a function returns no
      pair, or the batches of terms are no dict.
    ValueError: `chunk_size` is not positive; `in_axes` does not fit the args,
      or is given for terms; the args differ in their number of tasks (from
      `jax.vmap`); `shared` selects no leaf; `source` or `heads` is unknown;
      `source` is "implicit" for one function; a batch is for no term, or all
      are absent; a loss is not a scalar.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> loss_fn = lambda params, x: jnp.sum(params * x)
    >>> losses, grads = optax_mtl.value_and_task_batch_grads(loss_fn)(
    ...   jnp.array([1.0, 2.0]), jnp.array([[3.0, 4.0], [0.0, 1.0]])
    ... )
    >>> print(losses, grads.tolist())
    [11.  2.] [[3.0, 4.0], [0.0, 1.0]]

    Terms, each with points of its own:

    >>> terms = {
    ...   "pde": lambda p, x, y: jnp.mean((p[0] * x - y) ** 2),
    ...   "boundary": lambda p, x: jnp.mean((p[1] * x) ** 2),
    ... }
    >>> pde, boundary = (jnp.array([1.0, 3.0]), jnp.zeros(2)), jnp.ones(1)
    >>> losses, grads = optax_mtl.value_and_task_batch_grads(terms)(
    ...   jnp.array([1.0, 2.0]), {"pde": pde, "boundary": boundary}
    ... )
    >>> print({name: float(loss) for name, loss in losses.items()})
    {'boundary': 4.0, 'pde': 5.0}
    >>> print(grads.tolist())
    [[0.0, 4.0], [10.0, 0.0]]
  """
  _checks.check_choice("source", source, ("stacked", "implicit"))
  _checks.check_choice("heads", heads, ("sum", "weighted"))
  units.check_chunk_size(chunk_size)
  facts: dict[str, Any] = {
    "argnums": argnums,
    "chunk_size": chunk_size,
    "shared": shared,
    "heads": heads,
    "axes": Axes(axis_name),
  }
  if isinstance(fun, Mapping):
    if in_axes != 0:
      raise ValueError(
        "in_axes= is for one function that is mapped over the tasks; terms "
        "take their batches as they are."
      )
    return terms.value_and_grads_of(fun, has_aux, source=source, **facts)
  if not callable(fun):
    raise TypeError(
      "fun must be a function, or a dict of functions by the tasks' names, got "
      f"{type(fun).__name__}."
    )
  if source != "stacked":
    raise ValueError(
      "source='implicit' is for a dict of terms; one function for all tasks is "
      "mapped over them, and its gradients are stacked."
    )

  def value_and_grads(*args: Any) -> tuple[Any, Any]:
    miscompiled.warn_on_cpu()
    return vmapped.value_and_grads(fun, has_aux, args, in_axes=in_axes, **facts)

  return value_and_grads
