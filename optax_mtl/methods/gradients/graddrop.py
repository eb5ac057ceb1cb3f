"""GradDrop: in each entry, gradients of one sign survive."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl._dtypes import solver_dtype
from optax_mtl._registry import method
from optax_mtl._rule import UpdateRule
from optax_mtl._step import Step
from optax_mtl.linalg.alike import kinds
from optax_mtl.methods.gradients import _entries
from optax_mtl.methods.gradients._trunk import as_update, in_trunk, trunk_rows
from optax_mtl.sources import units
from optax_mtl.sources.at_representation import AtRepresentation


class GraddropMemory(NamedTuple):
  """What `graddrop` remembers.

  Attributes:
    sign_key: Array [2] uint32, raw data of the key that draws the signs.
  """

  sign_key: jax.Array


# Jitted so that arrays of one shape are traced and lowered once.
@functools.partial(jax.jit, static_argnums=1)
def _uniforms(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Uniform numbers in [0, 1) from each of n keys, [n, *shape] float32."""
  # 32 bits under x64 too, so that the draws are the same there.
  draw = lambda key: jax.random.uniform(key, shape, jnp.float32)  # noqa: E731
  return units.map_rows(draw, keys, None)


def draw_uniforms(
  key: jax.Array, rows: Sequence[jax.Array], numbers: Sequence[int]
) -> list[jax.Array]:
  """A uniform number for each entry.

  Those of array number i are drawn from `fold_in(key, i)`, whatever the others
  are: those of one kind by one program, for it compiles for a quarter of a
  second.

  Args:
    key: The step's key.
    rows: Arrays [T, *shape].
    numbers: The arrays' numbers.

  Returns:
    Arrays [*shape] float32.
  """
  if not rows:
    return []
  keys = jax.vmap(functools.partial(jax.random.fold_in, key))(
    jnp.array(numbers, jnp.uint32)
  )
  drawn: dict[int, jax.Array] = {}
  for group in kinds(rows):
    together = _uniforms(keys[jnp.array(group)], rows[group[0]].shape[1:])
    # Else what is done with them is compiled anew for each, with its place.
    apart = jax.lax.optimization_barrier(list(together))
    drawn.update(zip(group, apart, strict=True))
  return [drawn[at] for at in range(len(rows))]


# Jitted so that leaves of one shape are traced and lowered once.
@functools.partial(jax.jit, static_argnums=4)
def _one_sign(
  rows: jax.Array,
  signed: jax.Array,
  uniform: jax.Array,
  leaks: jax.Array,
  axis: int | None,
) -> jax.Array:
  """The sum over the tasks of what survives, [*shape].

  Args:
    rows: Array [T, *shape], real.
    signed: The same, or its signed sums over an axis: what has the signs.
    uniform: Array, as a row of `signed`.
    leaks: Array [T].
    axis: The axis of a row that `signed` is summed over; None: none.

  Returns:
    The sum, in the solver's precision.
  """
  rows, signed = rows.astype(solver_dtype()), signed.astype(solver_dtype())
  zeros = jnp.zeros_like(signed[0])

  def add_up(sums: Any, row: jax.Array) -> Any:
    return sums[0] + row, sums[1] + jnp.abs(row)

  total, size = _entries.over_tasks(add_up, (zeros, zeros), signed)
  # `P > U` with `P = (1 + total / size) / 2`, without dividing by zero.
  positive = total > (2 * uniform.astype(total.dtype) - 1) * size
  # What is not finite has to show: then nothing is dropped.
  finite = size < jnp.inf
  # Else they are computed anew for each task, in a fusion that compiles for
  # long.
  positive, finite = jax.lax.optimization_barrier((positive, finite))

  def pick(picked: jax.Array, task: Any) -> jax.Array:
    row, sign, leak = task
    dropped = jnp.where(positive, sign <= 0, sign >= 0) & finite
    if axis is not None:
      dropped = jnp.expand_dims(dropped, axis)
    return picked + jnp.where(dropped, leak * row, row)

  return _entries.over_tasks(
    pick, jnp.zeros_like(rows[0]), (rows, signed, leaks)
  )


def _signed_sums(
  values: jax.Array, rows: jax.Array, axis: int | None
) -> jax.Array:
  """Gradients [T, *shape] times the values' signs, summed over the batch."""
  rows, values = rows.astype(solver_dtype()), values.astype(solver_dtype())
  signed = rows * jnp.sign(values)[None]
  return signed if axis is None else jnp.sum(signed, axis=axis + 1)


def _numbers(leaves: Sequence[Any], mask: Sequence[bool] | None) -> list[int]:
  """Numbers of what `_entries.split` makes of the leaves that a mask selects.

  A leaf's is its place among all, so that the same is drawn for it whether the
  others are seen or not. An imaginary part's comes after all of them.
  """
  numbers: list[int] = []
  for place, leaf in enumerate(leaves):
    if mask is None or mask[place]:
      numbers.append(place)
      if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        numbers.append(place + len(leaves))
  return numbers


def _at_params(step: Step, key: jax.Array, leaks: jax.Array) -> Any:
  """Signs at the params: each entry has one."""
  leaves = trunk_rows(step)
  rows = _entries.split(leaves)
  everything = jax.tree.leaves(step.gradients.params_like)
  uniforms = draw_uniforms(key, rows, _numbers(everything, in_trunk(step)))
  parts = [
    _one_sign(row, row, uniform, leaks, None)
    for row, uniform in zip(rows, uniforms, strict=True)
  ]
  return as_update(step, _entries.joined(parts, leaves))


def _at_representation(
  step: Step,
  there: AtRepresentation,
  key: jax.Array,
  leaks: jax.Array,
  axis: int | None,
) -> Any:
  """Signs at the representation; what survives goes back through the trunk."""
  leaves, structure = jax.tree.flatten(there.gradients)
  paths = jax.tree_util.tree_leaves_with_path(there.values)
  for path, leaf in paths:
    if axis is not None and not 0 <= axis < leaf.ndim:
      raise ValueError(
        f"graddrop sums over axis batch_axis={axis} of the representation, and "
        f"{_checks.leaf_name(path)} of it has shape {list(leaf.shape)}. Say "
        "which axis is the batch's with batch_axis=, or None to draw a sign "
        "for each example."
      )
  rows = _entries.split(leaves)
  values = _entries.split([leaf for _, leaf in paths])
  signed = [
    _signed_sums(*pair, axis) for pair in zip(values, rows, strict=True)
  ]
  uniforms = draw_uniforms(key, signed, _numbers(leaves, None))
  parts = [
    _one_sign(*each, leaks, axis)
    for each in zip(rows, signed, uniforms, strict=True)
  ]
  picked = _entries.joined(parts, leaves)
  at_z = [x.astype(leaf.dtype) for x, leaf in zip(picked, leaves, strict=True)]
  ones = step.active.astype(solver_dtype())
  return there.pull_back(jax.tree.unflatten(structure, at_z), ones, step.keep)


@method(
  paper="Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with "
  "Gradient Sign Dropout, NeurIPS 2020",
  url="https://arxiv.org/abs/2010.06808",
  weights_sum="none",
  claims=["scale_equivariant"],
)
def graddrop(
  num_tasks: int,
  leak: _checks.TaskValues = 0.0,
  *,
  batch_axis: int | None = 0,
  seed: int = 0,
) -> UpdateRule[GraddropMemory]:
  """GradDrop: in each entry gradients of one sign, drawn by its share, survive.

  An entry's sign purity is `P = (1 + Σ g_i / Σ |g_i|) / 2`, from 0 where all
  gradients are negative to 1 where all are positive. With one number `U` an
  entry, uniform in [0, 1), the positive gradients are kept where `P > U`, the
  negative ones elsewhere, and what is kept is summed: nothing is scaled, so
  that the update is as long as a plain sum. Where all agree it is that sum. Of
  a task with leak `ℓ_i`, `ℓ_i g_i` passes in any case.

  With the gradients of `optax_mtl.value_and_representation_grads` this is done
  at the representation, as in the paper: the signs are those of the gradients
  times the signs of the representation's entries, summed over the batch, so
  that one is drawn for each feature; the gradients of that sign, of all
  examples, are pulled back through the trunk. With any other source it is done
  at the params, entry by entry, which is what TorchJD's aggregator does.

  The paper sums over the batch where each task has examples of its own; the
  authors' code (lingvo) by default, as here, and LibMTL always:
  `batch_axis=None` draws a sign for each example. The authors' code then
  multiplies the result by its own norm divided by that of the plain sum. The
  paper's function of `P` is the identity.

  At the representation, an entry that is zero has no sign, and its gradient
  reaches the trunk by the leaks alone if no batch is summed over. An absent
  task is not counted. A complex entry is two real ones.

  Args:
    num_tasks: The number of tasks `T`.
    leak: `ℓ` in [0, 1], a number or one for each task: a sequence in the order
      of the rows, or a dict by the tasks' names. Default 0, the paper's; 1 for
      all is the plain sum.
    batch_axis: At the representation, the axis of its arrays that is the
      batch's. Default 0. None: none is summed over.
    seed: Seeds the draws.

  Returns:
    A transformation from leaves [T, *shape], or a `TaskGradients`, to leaves
    [*shape]. Its update takes `active`, an optional array [T] of bool.

  Raises:
    TypeError: `seed` is no integer, `batch_axis` neither an int nor None, or
      the representation lies in parts on several devices.
    ValueError: A leak is out of range, or given by other tasks' names; the
      representation has no such axis.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> tx = optax_mtl.graddrop(num_tasks=2)
    >>> grads = jnp.array([[1.0, -1.0, 2.0], [3.0, -1.0, -1.0]])
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros(3)))
    >>> print(updates)  # the last is 2 or -1
    [ 4. -2.  2.]

  References:
    Chen et al., `Just Pick a Sign: Optimizing Deep Multitask Models with
    Gradient Sign Dropout <https://arxiv.org/abs/2010.06808>`_, NeurIPS 2020.
  """
  given = _checks.number_or_task_argument(leak, num_tasks, "leak")
  _checks.check_values(
    given.values,
    lambda x: ~((x < 0) | (x > 1)),
    "leak must lie in [0, 1], the share that passes: got {values}.",
  )
  if batch_axis is not None and type(batch_axis) is not int:
    raise TypeError(
      f"batch_axis must be an int or None, got {batch_axis!r}. With "
      "optax.inject_hyperparams add 'batch_axis' to static_args."
    )
  _checks.check_seed("seed", seed)

  def init(params: Any) -> GraddropMemory:
    del params
    key = jax.random.key(seed, impl="threefry2x32")
    return GraddropMemory(sign_key=jax.random.key_data(key))

  def update(step: Step, memory: GraddropMemory) -> tuple[Any, GraddropMemory]:
    key = jax.random.wrap_key_data(memory.sign_key, impl="threefry2x32")
    key, now = jax.random.split(key)
    leaks = step.given(given).astype(solver_dtype())
    there = step.at_representation()
    if there is None:
      new = _at_params(step, now, leaks)
    else:
      new = _at_representation(step, there, now, leaks, batch_axis)
    return new, GraddropMemory(jax.random.key_data(key))

  return UpdateRule(update, init)
