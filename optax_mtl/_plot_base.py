"""What the pictures of `optax_mtl.plot` share: figure, styles, shape checks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Without the palette's yellow, which is hard to see on white.
COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
)
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
# Twelve markers and seven colours: the pair repeats after 84 methods only.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
GREY = "#888888"
# Inches that one entry of a legend takes.
_ENTRY_WIDTH, _ENTRY_HEIGHT = 2.2, 0.185


def new_figure(
  rows: int, columns: int, width: float, height: float, entries: int
) -> Any:
  """A figure, axes [rows, columns] and a function that draws the legend.

  Args:
    rows: Of axes.
    columns: Of axes.
    width: Of each axes, in inches.
    height: Of each axes, in inches.
    entries: How many the legend has; the figure grows with them.

  Returns:
    The three.
  """
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ImportError(
      "optax_mtl.plot draws with matplotlib: pip install optax-mtl[plot]"
    ) from error

  fit = max(1, int(height * rows / _ENTRY_HEIGHT - 1))
  legend_columns = -(-entries // fit)
  figure = Figure(
    figsize=(width * columns + _ENTRY_WIDTH * legend_columns, height * rows),
    dpi=120,
    layout="constrained",
  )
  axes = figure.subplots(rows, columns, squeeze=False)
  for ax in axes.flat:
    bare_axes(ax)

  def legend(handles):
    figure.legend(
      handles=handles,
      loc="outside right upper",
      ncols=legend_columns,
      frameon=False,
      fontsize="small",
      alignment="left",
      # Long enough for a dash pattern to show.
      handlelength=2.8,
    )

  return figure, axes, legend


def bare_axes(ax: Any) -> None:
  """No frame but two axes, and a pale grid behind the lines."""
  ax.spines[["top", "right"]].set_visible(False)
  ax.grid(color="#e6e6e6", linewidth=0.6)
  ax.set_axisbelow(True)


def log_scale(ax: Any) -> None:
  """A logarithmic vertical axis; within few decades 1, 2, 5 are labelled."""
  from matplotlib import ticker

  ax.set_yscale("log")
  low, high = ax.get_ylim()
  if high < 1000 * low:
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def line_style(index: int) -> dict[str, Any]:
  return {
    "color": COLOURS[index % len(COLOURS)],
    "linestyle": _DASHES[index // len(COLOURS) % len(_DASHES)],
    "linewidth": 1.6,
  }


def legend_beside(figure: Any, ax: Any) -> None:
  """What the lines of one panel mean, right of all; dashes show as such."""
  handles, labels = ax.get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc="outside right center",
    frameon=False,
    handlelength=3.5,
  )


def marker_style(index: int) -> dict[str, Any]:
  marker = _MARKERS[index % len(_MARKERS)]
  return {
    "color": COLOURS[index % len(COLOURS)],
    "marker": marker,
    # A star of the same extent looks far smaller.
    "markersize": 11.0 if marker == "*" else 7.0,
    "markeredgecolor": "white",
    "markeredgewidth": 0.7,
    "linestyle": "none",
    "zorder": 4,
  }


def as_curves(name: str, values: Any, what: str, ndim: int) -> np.ndarray:
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
  name: str, values: Mapping[str, Any], what: str, ndim: int
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


def check_task_names(
  names: Sequence[str] | None, count: int
) -> tuple[str, ...]:
  if names is None:
    return tuple(f"task {task}" for task in range(count))
  if len(names) != count:
    raise ValueError(
      f"task_names must have one name for each of the {count} tasks; got"
      f" {len(names)}."
    )
  return tuple(names)


def count_tasks(name: str, arrays: Mapping[str, np.ndarray]) -> int:
  counts = {label: array.shape[-1] for label, array in arrays.items()}
  if len(set(counts.values())) > 1:
    raise ValueError(
      f"{name} must have the same number of tasks throughout; got {counts}."
    )
  return next(iter(counts.values()))


def x_values(steps: Any, count: int) -> np.ndarray:
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
  if window < 1:
    raise ValueError(f"smooth must be at least 1; got {window}.")
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


def band(ax: Any, x: np.ndarray, curves: np.ndarray, style: dict) -> Any:
  """Draws the mean over axis 0, and one standard deviation around it."""
  mean = curves.mean(axis=0)
  (line,) = ax.plot(x, mean, **style)
  if len(curves) > 1:
    spread = curves.std(axis=0, ddof=1)
    ax.fill_between(
      x, mean - spread, mean + spread, color=style["color"], alpha=0.12, lw=0
    )
  return line


def as_pairs(name: str, values: Any) -> np.ndarray:
  array = np.asarray(values, np.float64)
  if array.ndim != 2 or array.shape[1] != 2:
    raise ValueError(f"{name} must be [K, 2]; got shape {array.shape}.")
  return array


def ray_ends(rays: Any, right: float, top: float) -> np.ndarray:
  """Where the rays from the origin leave the box up to (right, top)."""
  rays = as_pairs("rays", rays)
  if not ((rays >= 0).all() and rays.any(axis=1).all()):
    raise ValueError(
      f"rays must be nonnegative and not zero; got {rays.tolist()}."
    )
  with np.errstate(divide="ignore"):
    length = np.min(np.array([[right, top]]) / rays, axis=1, keepdims=True)
  return rays * length
