"""What the pictures share: figure, legend, styles."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from matplotlib.artist import Artist
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure
  from matplotlib.lines import Line2D

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
) -> "tuple[Figure, np.ndarray, Callable[[Sequence[Artist]], None]]":
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

  def legend(handles: "Sequence[Artist]") -> None:
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


def bare_axes(ax: "Axes") -> None:
  """No frame but two axes, and a pale grid behind the lines."""
  ax.spines[["top", "right"]].set_visible(False)
  ax.grid(color="#e6e6e6", linewidth=0.6)
  ax.set_axisbelow(True)


def log_scale(ax: "Axes") -> None:
  """A logarithmic vertical axis; within few decades 1, 2, 5 are labelled."""
  from matplotlib import ticker

  ax.set_yscale("log")
  low, high = ax.get_ylim()
  if high < 1000 * low:
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def line_style(index: int) -> dict[str, Any]:
  """What tells line `index` from the others: 28 are different."""
  return {
    "color": COLOURS[index % len(COLOURS)],
    "linestyle": _DASHES[index // len(COLOURS) % len(_DASHES)],
    "linewidth": 1.6,
  }


def legend_beside(figure: "Figure", ax: "Axes") -> None:
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
  """What tells marker `index` from the others: 84 are different."""
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


def band(
  ax: "Axes", x: np.ndarray, curves: np.ndarray, style: Mapping[str, Any]
) -> "Line2D":
  """Draws the mean over axis 0, and one standard deviation around it."""
  mean = curves.mean(axis=0)
  (line,) = ax.plot(x, mean, **style)
  if len(curves) > 1:
    spread = curves.std(axis=0, ddof=1)
    ax.fill_between(
      x, mean - spread, mean + spread, color=style["color"], alpha=0.12, lw=0
    )
  return line
