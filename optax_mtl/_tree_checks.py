"""Checks of trees, leaf by leaf, made while tracing."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_UPDATE_HINT = (
  "A method takes a tree whose leaves are [num_tasks, *param.shape], as "
  "`optax_mtl.value_and_task_grads` returns it, and has to come first in the "
  "chain. To accumulate such trees over several batches use "
  "`optax_mtl.accumulate` instead of `optax.MultiSteps`; to skip steps that "
  "are not finite use `optax_mtl.skip_nonfinite` instead of "
  "`optax.apply_if_finite`; to precondition each task use "
  "`optax_mtl.per_task`."
)


def leaf_name(path: Any) -> str:
  """How an error names a leaf."""
  return f"leaf {jax.tree_util.keystr(path)}" if path else "the only leaf"


def names_difference(
  found: Sequence[str], wanted: Sequence[str], most: int = 3
) -> str:
  """What one lacks and what it has too much, in words; "" for nothing.

  Args:
    found: The names that came.
    wanted: Those that there should be.
    most: How many names are said: a network has hundreds of leaves.
  """
  words: list[str] = []
  for verb, one, other in (("lacks", wanted, found), ("has", found, wanted)):
    alone = [name for name in one if name not in set(other)]
    if alone:
      more = f" and {len(alone) - most} more" if len(alone) > most else ""
      words.append(f"{verb} {', '.join(alone[:most])}{more}")
  return ", and ".join(words)


def structure_difference(found: Any, wanted: Any) -> str:
  """How one tree differs from another in structure, in words for an error.

  Args:
    found: The tree that came.
    wanted: The tree whose structure it should have.
  """

  def names(tree: Any) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [leaf_name(path) for path, _ in leaves]

  if words := names_difference(names(found), names(wanted)):
    return words
  structures = [str(jax.tree.structure(tree)) for tree in (found, wanted)]
  short = [s if len(s) <= 200 else f"{s[:200]}…" for s in structures]
  return f"has the same leaves in other containers, {short[0]} for {short[1]}"


def check_stacked(updates: Any, num_tasks: int, params: Any = None) -> None:
  """Raises unless every leaf is `[num_tasks, *param.shape]`.

  Without this check a wrong tree trains on in silence: optimizers and
  `apply_updates` broadcast a `[num_tasks, ...]` tree onto the params.

  Args:
    updates: The tree to check.
    num_tasks: The number of tasks that the method was built for.
    params: The params, if known: the rest of each shape is checked then.

  Raises:
    TypeError: A leaf is not an array.
    ValueError: A leaf has the wrong shape, or the trees differ in structure.
  """
  # What the whole tree is says more than its first leaf's shape.
  expected = None if params is None else jax.tree.structure(params)
  parts = 0 if expected is None else _trees_by_task(updates, expected)
  if parts and expected != jax.tree.structure(updates):
    raise ValueError(
      f"The task gradients are {parts} trees like the params, one a task, as "
      "jax.jacrev returns them for a dict or a list of losses. They must be "
      "one tree of arrays [num_tasks, *param.shape], as "
      "optax_mtl.value_and_task_grads(loss_fn) returns it; or stack yours: "
      "jax.tree.map(lambda *rows: jnp.stack(rows), *(grads[name] for name in "
      "sorted(grads)))."
    )
  leaves = jax.tree_util.tree_leaves_with_path(updates)
  for path, leaf in leaves:
    if not hasattr(leaf, "shape"):
      raise TypeError(
        f"{leaf_name(path)} of the task gradients is a "
        f"{type(leaf).__name__}, not an array. {_UPDATE_HINT}"
      )
    if leaf.ndim == 0 or leaf.shape[0] != num_tasks:
      raise ValueError(
        f"{leaf_name(path)} of the task gradients has shape "
        f"{list(leaf.shape)}; with num_tasks={num_tasks} it must start with "
        f"{num_tasks}. {_UPDATE_HINT}"
      )
  if params is None:
    return
  if expected != jax.tree.structure(updates):
    raise ValueError(
      "The task gradients and the params differ in structure: the tree of "
      f"gradients {structure_difference(updates, params)}. {_UPDATE_HINT}"
    )
  for (path, leaf), param in zip(leaves, jax.tree.leaves(params), strict=True):
    if leaf.shape[1:] != jnp.shape(param):
      raise ValueError(
        f"{leaf_name(path)} of the task gradients has shape "
        f"{list(leaf.shape)}, but the param has shape "
        f"{list(jnp.shape(param))}: expected "
        f"{[num_tasks, *jnp.shape(param)]}. {_UPDATE_HINT}"
      )


def _trees_by_task(updates: Any, params: Any) -> int:
  """How many trees of the params' structure it is a dict or list of; 0: not."""
  members: list[Any] = []
  if isinstance(updates, Mapping):
    members = list(updates.values())
  elif isinstance(updates, (list, tuple)):
    members = list(updates)
  if any(jax.tree.structure(member) != params for member in members):
    return 0
  return len(members)


def check_inexact(params: Any, what: str) -> None:
  """Raises unless every leaf is real or complex floating point."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    try:
      dtype = jnp.result_type(leaf)
    except (TypeError, ValueError) as error:
      raise TypeError(
        f"{leaf_name(path)} of {what} is a {type(leaf).__name__}, and no "
        "array. Split off what is not trained, and close over it: with Equinox "
        "params, rest = eqx.partition(model, eqx.is_inexact_array), and "
        "eqx.combine(params, rest) in the loss function."
      ) from error
    if not jnp.issubdtype(dtype, jnp.inexact):
      raise TypeError(
        f"{leaf_name(path)} of {what} has dtype {dtype}; gradients need "
        "floating point. Split off what is not trained, and close over it."
      )


def _is_tree_of_bools(mask: Any) -> bool:
  """Whether it is a mask, though it can be called, as a module can."""
  leaves = jax.tree.leaves(mask)
  return bool(leaves) and all(isinstance(x, (bool, np.bool_)) for x in leaves)


def resolve_mask(mask: Any, params: Any, name: str) -> Any:
  """A pytree prefix of bools, or a callable on params, as a tree of bools.

  Args:
    mask: The prefix or the callable.
    params: A tree with the structure of the params.
    name: What to call the mask in an error.

  Returns:
    A tree with the structure of `params` whose leaves are Python bools.

  Raises:
    TypeError: A leaf of the mask is not a bool.
    ValueError: The mask is no prefix of the params, or matches none of their
      leaves.
  """
  if callable(mask) and not _is_tree_of_bools(mask):
    mask = mask(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
    if not isinstance(leaf, (bool, np.bool_)):
      raise TypeError(
        f"{leaf_name(path)} of {name}= is a {type(leaf).__name__}; it must be "
        "a Python bool: which leaves take part has to be known when tracing."
      )
  try:
    resolved = jax.tree.map(
      lambda keep, subtree: jax.tree.map(lambda _: bool(keep), subtree),
      mask,
      params,
    )
  except ValueError as error:
    raise ValueError(
      f"{name}= must be a pytree prefix of the params, or a callable that "
      f"makes one from them: {error}"
    ) from error
  chosen = jax.tree.leaves(resolved)
  if chosen and not any(chosen):
    names = [
      jax.tree_util.keystr(path) or "a single array"
      for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    raise ValueError(
      f"{name}= matches no leaf of the params, so nothing would be weighed. "
      f"The leaves are {', '.join(names[:8])}{', ...' if names[8:] else ''}."
    )
  return resolved
