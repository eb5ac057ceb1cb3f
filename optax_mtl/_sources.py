"""Where task gradients come from: functions to losses and gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._canonical_conv import canonicalize
from optax_mtl._task_gradients import (
  ImplicitTaskGradients,
  RepresentationTaskGradients,
  map_units,
)


def _losses(value: Any) -> jax.Array:
  """What a loss function returned, as an array [T] of floating point."""
  losses = _checks.stack_scalars(value, "losses")
  if not jnp.issubdtype(losses.dtype, jnp.floating):
    raise TypeError(
      f"losses must be real floating point, got {losses.dtype}: only then can "
      "they be differentiated."
    )
  return losses


def _pair(value: Any, has_aux: bool, what: str) -> tuple[Any, Any]:
  """Splits `(value, aux)`; aux is None without `has_aux`."""
  if not has_aux:
    return value, None
  if not (isinstance(value, tuple) and len(value) == 2):
    raise TypeError(
      f"With has_aux=True, {what} must return a pair (value, aux), got "
      f"{type(value).__name__}."
    )
  return value


def _like(tree: Any) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree
  )


def _bind(fun: Callable, argnums: Any, args: tuple, kwargs: dict) -> Any:
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

  def of_params(params):
    full = list(args)
    for i, param in zip(
      positions, (params,) if single else params, strict=True
    ):
      full[i] = param
    return fun(*full, **kwargs)

  return params[0] if single else params, of_params


def check_chunk_size(chunk_size: Any) -> None:
  """Raises unless `chunk_size` is None or a positive int."""
  if chunk_size is not None and (
    not isinstance(chunk_size, int) or chunk_size < 1
  ):
    raise ValueError(
      "chunk_size must be None or a positive int, the number of tasks to "
      f"differentiate at once; got {chunk_size!r}."
    )


#: From this many params on, CPUs differentiate one task after another.
_LARGE = 1 << 18


def _stack(
  pullback: Callable, losses: jax.Array, params: Any, chunk_size: int | None
) -> Any:
  """The stacked gradients, a tree with leaves [T, *param.shape]."""
  units = jnp.eye(losses.shape[0], dtype=losses.dtype)

  small = sum(leaf.size for leaf in jax.tree.leaves(params)) < _LARGE
  if chunk_size is None and small:
    return jax.vmap(pullback)(units)
  return map_units(canonicalize(pullback, losses), units, chunk_size)


def _result(losses, aux, has_aux, gradients):
  return ((losses, aux) if has_aux else losses), gradients


def value_and_task_grads(
  fun: Callable,
  argnums: int | tuple[int, ...] = 0,
  has_aux: bool = False,
  *,
  source: str = "stacked",
  chunk_size: int | None = None,
) -> Callable:
  """The losses of all tasks and their gradients, like `jax.value_and_grad`.

  The function runs forward once. With `source="stacked"` the gradients are a
  plain tree; it costs T backward passes and T copies of the params. With
  `source="implicit"` nothing is stored: a method that needs the Gram matrix
  computes it column by column, `M[:, t] = J (Jᵀ e_t)`, with T backward and
  T - 1 forward-mode passes, and the update itself is one backward pass; a
  method that needs only the losses costs exactly one.

  A loss whose derivative is NaN or inf spoils the gradients of all tasks, with
  either source: they share one forward pass, and 0 times NaN is NaN. Neither
  `active` nor `on_nonfinite="drop"` can undo that, since they act on the
  gradients as they come. So an absent label that is coded as NaN has to be
  replaced before it meets the prediction; or each task has a forward pass of
  its own, as in `value_and_task_batch_grads`.

  Args:
    fun: Function that returns the losses: an array [T], or a sequence or dict
      of scalars (a dict counts in the order of its sorted keys). With
      `has_aux`, a pair of that and any pytree.
    argnums: Which positional arguments to differentiate.
    has_aux: Whether `fun` returns a pair `(losses, aux)`.
    source: "stacked" or "implicit".
    chunk_size: How many tasks to differentiate at once. Smaller needs less
      memory, larger may be faster. None: one for "implicit"; for "stacked" all,
      but on CPU one if there are 2**18 params or more.

  Returns:
    A function with the arguments of `fun` that returns `(losses, grads)`, or
    `((losses, aux), grads)`: losses an array [T]; grads a tree with leaves
    [T, *param.shape] in the params' dtypes, or a `TaskGradients`.

  Raises:
    TypeError: A param or a loss is not floating point, or `has_aux` is set and
      `fun` returns no pair.
    ValueError: A loss is not a scalar; `source` is unknown; `chunk_size` is not
      positive.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> def loss_fn(params, x):
    ...   return {"a": jnp.sum(params * x), "b": jnp.sum(params**2)}
    >>> losses, grads = optax_mtl.value_and_task_grads(loss_fn)(
    ...   jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    ... )
    >>> print(losses, grads.tolist())
    [11.  5.] [[3.0, 4.0], [2.0, 4.0]]
  """
  _checks.check_choice("source", source, ("stacked", "implicit"))
  check_chunk_size(chunk_size)

  def value_and_grads(*args, **kwargs):
    params, of_params = _bind(fun, argnums, args, kwargs)

    def losses_of(params):
      value, aux = _pair(of_params(params), has_aux, "fun")
      return _losses(value), aux

    losses, vjp, aux = jax.vjp(losses_of, params, has_aux=True)
    pullback = lambda cotangent: vjp(cotangent)[0]  # noqa: E731
    if source == "implicit":
      # Transposing the pullback, instead of linearizing once more, shares the
      # forward pass and works where a rule for reverse mode is all there is.
      pullback = canonicalize(pullback, losses)
      transposed = jax.linear_transpose(pullback, losses)
      pushforward = canonicalize(lambda tangent: transposed(tangent)[0], params)
      grads = ImplicitTaskGradients(
        pullback,
        pushforward,
        _like(losses),
        _like(params),
        1 if chunk_size is None else chunk_size,
      )
    else:
      grads = _stack(pullback, losses, params, chunk_size)
    return _result(losses, aux, has_aux, grads)

  return value_and_grads


def value_and_representation_grads(
  trunk: Callable,
  heads: Callable,
  has_aux: bool = False,
  *,
  chunk_size: int | None = None,
) -> Callable:
  """Losses, and task gradients measured at a shared representation.

  A method sees the Gram matrix of the gradients with respect to the trunk's
  output, which costs T backward passes through the heads alone; the update then
  takes one backward pass through the trunk. This is the upper bound of Sener &
  Koltun (MGDA-UB), here for every method that uses a Gram matrix. Zero
  combinations are the same at the representation and at the params if the
  trunk's Jacobian has full rank; that a combination descends every task at the
  representation does not make it do so at the params.

  Args:
    trunk: Function `(params, *args) -> representation`, an array or a pytree of
      arrays that all tasks read. With `has_aux`, a pair with any pytree.
    heads: Function `(params, representation, *args) -> losses`, in the forms
      that `value_and_task_grads` takes. With `has_aux`, a pair with any pytree.
    has_aux: Whether both return pairs.
    chunk_size: How many tasks to differentiate at once. None: all, but on CPU
      one.

  Returns:
    A function `(params, *args) -> (losses, grads)`, with `has_aux`
    `((losses, (trunk_aux, heads_aux)), grads)`: losses [T] and grads a
    `TaskGradients`.

  Raises:
    TypeError: A param or a loss is not floating point, or `has_aux` is set and
      a function returns no pair.
    ValueError: A loss is not a scalar, or `chunk_size` is not positive.

  References:
    Sener & Koltun, `Multi-Task Learning as Multi-Objective Optimization
    <https://arxiv.org/abs/1810.04650>`_, NeurIPS 2018.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> trunk = lambda params, x: x * params["trunk"]
    >>> def heads(params, z, x):
    ...   return jnp.stack([z.sum(), (params["head"] * z).sum()])
    >>> params = {"trunk": jnp.array([1.0, 1.0]), "head": jnp.array([0.0, 2.0])}
    >>> losses, grads = optax_mtl.value_and_representation_grads(trunk, heads)(
    ...   params, jnp.array([3.0, 4.0])
    ... )
    >>> print(losses, grads.gram().tolist())
    [7. 8.] [[2.0, 2.0], [2.0, 4.0]]
  """
  check_chunk_size(chunk_size)

  def value_and_grads(params, *args):
    _checks.check_inexact(params, "params")

    def trunk_of(params):
      return _pair(trunk(params, *args), has_aux, "trunk")

    def heads_of(params, representation):
      value, aux = _pair(heads(params, representation, *args), has_aux, "heads")
      return _losses(value), aux

    z, trunk_vjp, trunk_aux = jax.vjp(trunk_of, params, has_aux=True)
    _checks.check_inexact(z, "the representation")
    losses, heads_vjp, heads_aux = jax.vjp(heads_of, params, z, has_aux=True)

    def pullback(cotangent):
      direct, at_z = heads_vjp(cotangent)
      (through,) = trunk_vjp(at_z)
      return jax.tree.map(jnp.add, direct, through)

    grads = RepresentationTaskGradients(
      canonicalize(pullback, losses),
      canonicalize(lambda cotangent: heads_vjp(cotangent)[1], losses),
      _like(losses),
      _like(params),
      chunk_size,
    )
    return _result(losses, (trunk_aux, heads_aux), has_aux, grads)

  return value_and_grads


def value_and_task_batch_grads(
  fun: Callable,
  has_aux: bool = False,
  *,
  in_axes: Any = 0,
  chunk_size: int | None = None,
) -> Callable:
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
    chunk_size: How many tasks to take at once; None: all. Then only 0 and None
      are allowed in `in_axes`.

  Returns:
    A function `(params, *args) -> (losses, grads)`, with `has_aux`
    `((losses, aux), grads)`: losses [T], grads with leaves [T, *param.shape],
    aux with leaves [T, ...].

  Raises:
    TypeError: A param is not floating point.
    ValueError: `chunk_size` is not positive or does not fit `in_axes`; the
      args differ in their number of tasks (from `jax.vmap`).

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
  check_chunk_size(chunk_size)

  def value_and_grads(params, *args):
    _checks.check_inexact(params, "params")
    grad_fn = jax.value_and_grad(fun, has_aux=has_aux)
    axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    if chunk_size is None:
      value, grads = jax.vmap(grad_fn, in_axes=(None, *axes))(params, *args)
    else:
      if len(axes) != len(args) or any(axis not in (0, None) for axis in axes):
        raise ValueError(
          f"With chunk_size, in_axes must be 0 or None for each of the "
          f"{len(args)} args, got {in_axes!r}."
        )
      split = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]

      def one_task(rows):
        rows = iter(rows)
        full = [
          next(rows) if axis == 0 else arg
          for arg, axis in zip(args, axes, strict=True)
        ]
        return grad_fn(params, *full)

      value, grads = jax.lax.map(
        canonicalize(one_task, jax.tree.map(lambda x: x[0], split)),
        split,
        batch_size=chunk_size,
      )
    losses, aux = value if has_aux else (value, None)
    return _result(losses, aux, has_aux, grads)

  return value_and_grads
