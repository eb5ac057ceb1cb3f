"""Norms, noise and conflicts of the task gradients, over several batches."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_mtl import _tree_checks, linalg
from optax_mtl._dtypes import wide
from optax_mtl.diagnosis.forms import Source
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks
from optax_mtl.sources.stacked import as_task_gradients


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One leaf of the params, by what the tasks' gradients say of it.

  Attributes:
    name: Its path, `['encoder']['kernel']`.
    size: How many numbers it has.
    norms: [T], the root mean square over the batches of each task's gradient's
      length in it.
    tasks: The names of the tasks with a gradient in it: two or more share it;
      with one it is in fact that task's head.
    in_trunk: Whether the Gram matrix counted it.
  """

  name: str
  size: int
  norms: np.ndarray
  tasks: tuple[str, ...]
  in_trunk: bool


@dataclasses.dataclass(frozen=True)
class Measured:
  """What the gradients are, N batches and T tasks; see `Diagnosis`."""

  losses: np.ndarray
  gram: np.ndarray
  counts: np.ndarray
  leaves: tuple[Leaf, ...]
  mean_squares: np.ndarray
  trunk: list[bool]


#: What one batch leaves: losses [T], whether each task counts [T], and the
#: gradients, [T, ...] a leaf, with zeros for a task that does not.
_Batch = tuple[jax.Array, jax.Array, list[jax.Array]]


def _per_batch(source: Source, num_tasks: int) -> Callable[..., _Batch]:
  differentiated = source(None)

  @jax.jit
  def of_batch(params: Any, *args: Any) -> _Batch:
    value, updates = differentiated(params, *args)
    losses = losses_lib.stack(value)
    gradients = as_task_gradients(updates, num_tasks, params)
    counts = jnp.isfinite(losses) & gradients.finite()
    present = gradients.taking_part(None)
    if present is not None:
      counts &= present

    def clean(leaf: jax.Array) -> jax.Array:
      rows = counts.reshape(-1, *[1] * (leaf.ndim - 1))
      return jnp.where(rows, wide(leaf), 0)

    return (
      losses,
      counts,
      jax.tree.leaves(jax.tree.map(clean, gradients.stacked())),
    )

  return of_batch


@jax.jit
def _squares(leaves: list[jax.Array]) -> jax.Array:
  """Squared lengths [L, T], a row for each leaf."""
  return jnp.stack(
    [linalg.squared_norms([leaf], leaf.shape[0]) for leaf in leaves]
  )


def measure(
  source: Source,
  params: Any,
  batches: Sequence[tuple[Any, ...]],
  names: Sequence[str],
  shared: Any,
) -> Measured:
  """Differentiates every batch.

  Args:
    source: That stores gradients.
    params: The params.
    batches: The arguments after the params.
    names: The tasks'.
    shared: The trunk, a mask or a callable; None: the leaves in which two tasks
      or more have a gradient.

  Returns:
    What was found.
  """
  num_tasks = len(names)
  of_batch = _per_batch(source, num_tasks)
  paths = jax.tree_util.tree_leaves_with_path(params)
  told = masks.trunk_of(shared, params)
  # Squares first, for which leaves are shared; the gradients of all batches
  # would be N times T copies of the params, so they are computed again.
  squares = np.stack(
    [np.asarray(_squares(of_batch(params, *args)[2])) for args in batches]
  )
  touched: np.ndarray = np.any(squares > 0, axis=0)
  if told is not None:
    trunk = jax.tree.leaves(told)
  else:
    trunk = list(touched.sum(axis=1) > 1)
    if not any(trunk):
      trunk = [True] * len(trunk)

  @jax.jit
  def of_gradients(
    leaves: list[jax.Array], total: list[jax.Array]
  ) -> tuple[jax.Array, list[jax.Array]]:
    chosen = masks.pick_leaves(trunk, leaves)
    gram = linalg.gram(chosen, num_tasks)
    return gram, [a + b for a, b in zip(total, chosen, strict=True)]

  losses, counts, grams = [], [], []
  total = [
    linalg.zeros(num_tasks, leaf, wide(jnp.asarray(leaf)).dtype)
    for (_, leaf), keep in zip(paths, trunk, strict=True)
    if keep
  ]
  for args in batches:
    loss, count, leaves = of_batch(params, *args)
    gram, total = of_gradients(leaves, total)
    losses.append(np.asarray(loss, np.float64))
    counts.append(np.asarray(count))
    grams.append(np.asarray(gram, np.float64))
  counted = np.stack(counts)
  number = np.maximum(counted.sum(axis=0), 1)
  mean_squares = (
    np.asarray(linalg.squared_norms(total, num_tasks), np.float64) / number**2
  )
  found = tuple(
    Leaf(
      name=_tree_checks.leaf_name(path).removeprefix("leaf "),
      size=int(np.size(leaf)),
      norms=np.sqrt(squares[:, index].sum(axis=0) / number),
      tasks=tuple(
        name for name, flag in zip(names, touched[index], strict=True) if flag
      ),
      in_trunk=bool(trunk[index]),
    )
    for index, (path, leaf) in enumerate(paths)
  )
  return Measured(
    losses=np.stack(losses),
    gram=np.stack(grams),
    counts=counted,
    leaves=found,
    mean_squares=mean_squares,
    trunk=trunk,
  )
