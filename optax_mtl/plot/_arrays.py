"""What the pictures are given, checked and made ready to draw."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike


def as_curves(name: str, values: ArrayLike, what: str, ndim: int) -> np.ndarray:
  """`values` as float64 with `ndim` axes; the first, seeds, may be left out."""
  array = np.asarray(values, np.float64)
  if array.ndim == ndim - 1:
    array = array[None]
  if array.ndim != ndim or array.shape[0] == 0:
    raise ValueError(
      f"{name} must be {what}; got an array of shape {np.shape(values)}."
    )
  return array


def as_mapping(
  name: str, values: object, what: str, ndim: int
) -> dict[str, np.ndarray]:
  """Every value as by `as_curves`; there has to be one."""
  if not isinstance(values, Mapping) or not values:
    raise ValueError(
      f"{name} must be a mapping from at least one label to an array; got"
      f" {type(values).__name__}"
      f"{' without entries' if isinstance(values, Mapping) else ''}."
    )
  return {
    label: as_curves(f"{name}[{label!r}]", value, what, ndim)
    for label, value in values.items()
  }


def as_pairs(name: str, values: ArrayLike) -> np.ndarray:
  """`values` as float64 [K, 2]."""
  array = np.asarray(values, np.float64)
  if array.ndim != 2 or array.shape[1] != 2:
    raise ValueError(f"{name} must be [K, 2]; got shape {array.shape}.")
  return array


def check_task_names(
  names: Sequence[str] | None, count: int
) -> tuple[str, ...]:
  """The names, or made-up ones; there have to be `count`."""
  if names is None:
    return tuple(f"task {task}" for task in range(count))
  if len(names) != count:
    raise ValueError(
      f"task_names must have one name for each of the {count} tasks; got"
      f" {len(names)}."
    )
  return tuple(names)


def count_tasks(name: str, arrays: Mapping[str, np.ndarray]) -> int:
  """The length of the last axis, which all arrays must share."""
  counts = {label: array.shape[-1] for label, array in arrays.items()}
  if len(set(counts.values())) > 1:
    raise ValueError(
      f"{name} must have the same number of tasks throughout; got {counts}."
    )
  return next(iter(counts.values()))


def x_values(steps: ArrayLike | None, count: int) -> np.ndarray:
  """Where the `count` points of a curve lie: at 1, 2, ... or as given."""
  if steps is None:
    return np.arange(1, count + 1)
  if np.shape(steps) != (count,):
    raise ValueError(
      f"steps must have one value for each of the {count} points of a curve;"
      f" got shape {np.shape(steps)}."
    )
  return np.asarray(steps)


def moving_mean(curves: np.ndarray, window: int) -> np.ndarray:
  """Mean of the last `window` points along axis 1, of fewer at the start."""
  if window < 1 or window != int(window):
    raise ValueError(
      f"smooth must be a whole number of at least 1; got {window}."
    )
  # A sum per point rather than a difference of running sums, in which one NaN
  # would blank all that follows.
  padded = np.concatenate(
    [np.full_like(curves[:, :1], np.nan).repeat(window - 1, 1), curves], axis=1
  )
  windows = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1)
  started = np.minimum(np.arange(1, curves.shape[1] + 1), window)
  keep = np.arange(window)[None] >= window - started[:, None]
  total = np.where(keep[None, :, None], windows, 0).sum(axis=-1)
  return total / started[None, :, None]


def ray_ends(rays: ArrayLike, right: float, top: float) -> np.ndarray:
  """Where the rays from the origin leave the box up to (right, top)."""
  rays = as_pairs("rays", rays)
  if not ((rays >= 0).all() and rays.any(axis=1).all()):
    raise ValueError(
      f"rays must be nonnegative and not zero; got {rays.tolist()}."
    )
  with np.errstate(divide="ignore"):
    length = np.min(np.array([[right, top]]) / rays, axis=1, keepdims=True)
  return rays * length
