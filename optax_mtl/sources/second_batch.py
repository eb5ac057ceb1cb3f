"""Whether the task gradients of two batches belong together."""

from typing import TYPE_CHECKING

import jax

from optax_mtl._tree_checks import leaf_name, structure_difference

if TYPE_CHECKING:  # Which itself asks this module.
  from optax_mtl.sources.task_gradients import TaskGradients


def check_second_batch(first: "TaskGradients", second: "TaskGradients") -> None:
  """Raises if there are no inner products between the two.

  Args:
    first: The gradients of one batch.
    second: Those of another one.

  Raises:
    ValueError: Either is not taken over the params' leaves, or the two differ
      in their tasks or params.
  """
  for gradients in (first, second):
    if not gradients.at_params:
      raise ValueError(
        "Gradients at a representation belong to one batch, so there is no "
        "inner product between batches. Use another source for methods that "
        "need a second batch."
      )
  if (first.num_tasks, first.names) != (second.num_tasks, second.names):
    raise ValueError(
      "Both batches must have the same tasks, got "
      f"{first.names or first.num_tasks} and "
      f"{second.names or second.num_tasks}."
    )
  if jax.tree.structure(first.params_like) != jax.tree.structure(
    second.params_like
  ):
    raise ValueError(
      "Both batches must have the same params, but the second batch's tree "
      f"{structure_difference(second.params_like, first.params_like)}."
    )
  for (path, mine), theirs in zip(
    jax.tree_util.tree_leaves_with_path(first.params_like),
    jax.tree.leaves(second.params_like),
    strict=True,
  ):
    if mine.shape != theirs.shape:
      raise ValueError(
        f"Both batches must have the same params, but {leaf_name(path)} has "
        f"shape {list(mine.shape)} in the first and {list(theirs.shape)} in "
        "the second."
      )
  if first.present != second.present:
    raise ValueError("Both batches must lack the same tasks, or none.")
