"""IMTL-G, ConFIG and Aligned-MTL from the gradients themselves."""

import numpy as np


def equal_projections(grads: np.ndarray) -> np.ndarray:
  """IMTL-G's weights by the paper's closed form.

  With `D` the differences of the first gradient and the others, `U` those of
  the unit gradients: `w[1:] = g_1 U' (D U')^-1`, `w[0]` the rest.

  Args:
    grads: `[T, P]` float64, linearly independent rows.

  Returns:
    `[T]` float64, sum 1.
  """
  unit = grads / np.linalg.norm(grads, axis=1, keepdims=True)
  differences = grads[0] - grads[1:]
  units = unit[0] - unit[1:]
  rest = np.linalg.solve((differences @ units.T).T, units @ grads[0])
  return np.concatenate([[1 - rest.sum()], rest])


def conflict_free_direction(grads: np.ndarray) -> np.ndarray:
  """ConFIG's unit vector `pinv(U) 1`, normalised: `[P]` float64."""
  unit = grads / np.linalg.norm(grads, axis=1, keepdims=True)
  direction = np.linalg.pinv(unit) @ np.ones(len(grads))
  return direction / np.linalg.norm(direction)


def aligned_direction(
  grads: np.ndarray, preference: np.ndarray, scale: str, tiny: float
) -> np.ndarray:
  """Aligned-MTL's update by the singular value decomposition of `grads`.

  Args:
    grads: `[T, P]` float64.
    preference: `[T]` float64.
    scale: `"min"`, `"median"` or `"rmse"`.
    tiny: Squared singular values below this times the largest are dropped.

  Returns:
    `[P]` float64.
  """
  left, values, right = np.linalg.svd(grads, full_matrices=False)
  kept = values**2 > tiny * values[0] ** 2
  left, values, right = left[:, kept], values[kept], right[kept]
  length = {
    "min": values[-1],
    "median": values[len(values) // 2],
    "rmse": np.sqrt(np.mean(values**2)),
  }[scale]
  return length * (preference @ left) @ right
