"""Traces of the neural tangent kernels of residual functions."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl.linalg import squared_norms
from optax_mtl.sources import units


def _samples(batch: Any, name: str) -> int:
  """How many samples a batch has: the length of its leaves' first axis."""
  leaves = jax.tree_util.tree_leaves_with_path(batch)
  if not leaves:
    raise ValueError(f"The batch of {name!r} is a tree without leaves.")
  lengths = {}
  for path, leaf in leaves:
    if not jnp.ndim(leaf):
      raise ValueError(
        f"{_checks.leaf_name(path)} of the batch of {name!r} is a scalar; its "
        "first axis must be that of the samples. Close over what all samples "
        "share. A tuple is one sample with several parts here, and not the "
        "arguments of a term."
      )
    lengths[_checks.leaf_name(path)] = jnp.shape(leaf)[0]
  if len(set(lengths.values())) > 1:
    found = ", ".join(f"{leaf}: {n}" for leaf, n in lengths.items())
    raise ValueError(
      f"The leaves of the batch of {name!r} differ in their number of samples "
      f"({found})."
    )
  count = next(iter(lengths.values()))
  if not count:
    raise ValueError(f"The batch of {name!r} holds no samples.")
  return count


def _square_of_jacobian(
  residual: Callable[[Any, Any], Any], params: Any, sample: Any, name: str
) -> jax.Array:
  """The squared norm of one sample's Jacobian, all its outputs together."""

  def outputs(params: Any) -> jax.Array:
    value = residual(params, sample)
    if not hasattr(value, "shape") and not _checks.is_python_number(value):
      raise TypeError(
        f"The residual of {name!r} must return an array, got "
        f"{type(value).__name__}. There is no has_aux= here: a function that "
        "returns (residual, aux) is given as lambda *args: f(*args)[0]."
      )
    value = jnp.ravel(jnp.asarray(value))
    if not jnp.issubdtype(value.dtype, jnp.floating):
      raise TypeError(
        f"The residual of {name!r} must return real floating point numbers, "
        f"got {value.dtype}."
      )
    return value

  value, pullback = jax.vjp(outputs, params)
  basis = jnp.eye(value.shape[0], dtype=value.dtype)
  rows = units.at_once(lambda unit: pullback(unit)[0], basis)
  return jnp.sum(squared_norms(rows, value.shape[0]))


def ntk_traces(
  residuals: Mapping[str, Callable[[Any, Any], Any]],
  params: Any,
  batches: Mapping[str, Any],
  *,
  chunk_size: int | None = 64,
  reduction: Literal["sum", "mean"] = "sum",
) -> dict[str, jax.Array]:
  """Traces of the residuals' neural tangent kernels, for `ntk_weighting`.

  For each residual the squared norms of the gradients of its samples, summed
  over the samples: the trace of `J Jᵀ`, where `J` has one row a sample and
  output. Nothing is stored but one chunk of gradients.

  Args:
    residuals: Task's name -> function `(params, sample) -> residual`, of one
      sample, before it is squared: a scalar, or an array, whose outputs are
      summed over too. It always has two arguments: where the batch is a tuple
      `(x, y)`, so is the sample. The terms of `value_and_task_batch_grads` in
      contrast take a tuple as arguments, `(params, x, y) -> loss`.
    params: The params; the trace is over all of them.
    batches: Task's name -> its batch, a tree with leaves [N, ...], one sample
      in each row; N may differ between tasks.
    chunk_size: How many samples to differentiate at once. None: all, but on CPU
      one.
    reduction: "sum" (default), the trace; "mean", the trace divided by the
      number of samples, which is that of the mean of the squared residuals. It
      makes a difference where the tasks have different numbers of samples.

  Returns:
    Task's name -> the trace, a scalar: the `traces=` of an update.

  Raises:
    TypeError: The two are not dicts, a param or a residual is not floating
      point, or a residual is no array.
    ValueError: The names differ, a batch has no samples or leaves of different
      numbers of samples, or `chunk_size` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> residuals = {
    ...   "data": lambda params, sample: params @ sample[0] - sample[1],
    ...   "size": lambda params, weight: weight * params.sum(),
    ... }
    >>> batches = {
    ...   "data": (jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.zeros(2)),
    ...   "size": jnp.array([3.0]),
    ... }
    >>> traces = optax_mtl.ntk_traces(residuals, jnp.ones(2), batches)
    >>> print(traces["data"], traces["size"])
    2.0 18.0

  References:
    Wang et al., `When and Why PINNs Fail to Train
    <https://arxiv.org/abs/2007.14527>`_, JCP 2022.
  """
  units.check_chunk_size(chunk_size, "samples")
  _checks.check_choice("reduction", reduction, ("sum", "mean"))
  given: Any  # What the annotations promise is what a user may get wrong.
  for what, given in (("residuals", residuals), ("batches", batches)):
    if not isinstance(given, Mapping):
      raise TypeError(
        f"{what} must be a dict by the tasks' names, got "
        f"{type(given).__name__}."
      )
  if set(residuals) != set(batches):
    raise ValueError(
      f"The residuals are of {', '.join(sorted(residuals)) or 'no task'}, but "
      f"the batches of {', '.join(sorted(batches)) or 'no task'}."
    )
  _checks.check_inexact(params, "params")

  def trace(name: str) -> jax.Array:
    batch, residual = batches[name], residuals[name]
    count = _samples(batch, name)
    squares = units.map_rows(
      lambda sample: _square_of_jacobian(residual, params, sample, name),
      jax.tree.map(jnp.asarray, batch),
      chunk_size,
    )
    total = jnp.sum(squares.astype(solver_dtype()))
    return total / count if reduction == "mean" else total

  return {name: trace(name) for name in residuals}
