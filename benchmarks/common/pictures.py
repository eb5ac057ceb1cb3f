"""Panels with logarithmic axes, in the style of `optax_mtl.plot`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optax_mtl.plot._drawing import bare_axes, line_style

if TYPE_CHECKING:
  import numpy as np
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure
  from numpy.typing import ArrayLike

__all__ = ["draw", "legend_beside", "panels"]


def panels(
  rows: int, titles: Sequence[str], width: float, height: float
) -> tuple["Figure", "np.ndarray"]:
  """A figure and its axes [rows, columns], logarithmic upwards.

  Args:
    rows: Of panels, which share the upward axis.
    titles: Of the columns.
    width: Of the whole figure, in inches.
    height: Likewise.

  Returns:
    The two.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.subplots(rows, len(titles), squeeze=False, sharey="row")
  for line in axes:
    for ax, title in zip(line, titles, strict=True):
      ax.set_title(title, fontsize="medium")
      ax.set(xscale="log", yscale="log")
      bare_axes(ax)
  return figure, axes


def draw(
  ax: "Axes",
  index: int,
  x: "ArrayLike",
  y: "ArrayLike",
  label: str,
  marker: str = "o",
) -> None:
  """A line through dots, in the style of that index."""
  ax.plot(x, y, label=label, marker=marker, markersize=3, **line_style(index))


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
