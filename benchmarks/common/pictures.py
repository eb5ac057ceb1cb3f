"""Panels with logarithmic axes, in the style of `optax_mtl.plot`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from optax_mtl.plot._drawing import (
  COLOURS,
  GREY,
  bare_axes,
  legend_beside,
  line_style,
)

if TYPE_CHECKING:
  import numpy as np
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure
  from numpy.typing import ArrayLike

__all__ = ["draw", "label_lines", "legend_beside", "panels", "spread_apart"]


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


def spread_apart(places: Sequence[float], least: float) -> list[float]:
  """Moves numbers so that neighbours are at least so far from each other.

  Those that have to move stay around where they were; the order is kept.

  Args:
    places: In any order.
    least: The distance.

  Returns:
    The new places, in the order of the old ones.

  Example:
    >>> spread_apart([0.0, 5.0, 5.0], 1.0)
    [0.0, 4.5, 5.5]
  """
  order = sorted(range(len(places)), key=lambda index: places[index])
  # Groups that stand shoulder to shoulder: the sum of where they want their
  # first member, and how many there are.
  groups: list[list[float]] = []
  for index in order:
    groups.append([places[index], 1])
    while len(groups) > 1:
      (before, many), (last, some) = groups[-2:]
      if before / many + least * many <= last / some:
        break
      groups[-2:] = [[before + last - least * many * some, many + some]]
  moved = [
    total / count + least * place
    for total, count in groups
    for place in range(int(count))
  ]
  result = [0.0] * len(places)
  for index, place in zip(order, moved, strict=True):
    result[index] = place
  return result


def label_lines(
  ax: "Axes",
  curves: "Mapping[str, tuple[ArrayLike, ArrayLike]]",
  focus: Sequence[str],
) -> None:
  """Draws lines and writes their names at their ends, right of the panel.

  Args:
    ax: The panel, logarithmic upwards.
    curves: Name to x and y. The axes must have their limits when this is
      called, or take them from the lines.
    focus: Those in colour, in this order; the others are grey.
  """
  import numpy as np

  ends: dict[str, tuple[float, float, str]] = {}
  for name in sorted(curves, key=lambda name: name in focus):
    x, y = (np.asarray(values, np.float64) for values in curves[name])
    if name in focus:
      colour = COLOURS[focus.index(name) % len(COLOURS)]
      style = {"color": colour, "linewidth": 1.8, "zorder": 3}
    else:
      colour = GREY
      style = {"color": "#c4c4c4", "linewidth": 0.9, "zorder": 2}
    ax.plot(x, y, label=name, **style)
    finite = np.flatnonzero(np.isfinite(y))
    if finite.size:
      ends[name] = (float(x[finite[-1]]), float(y[finite[-1]]), colour)
  low, high = np.log(ax.get_ylim())
  figure_height = ax.figure.get_size_inches()[1]
  # A line of small print, as a share of the panel, which is about four fifths
  # of the figure.
  least = 0.125 / (0.8 * figure_height)
  wanted = [(np.log(y) - low) / (high - low) for _, y, _ in ends.values()]
  places = spread_apart(wanted, least)
  for (name, (x, y, colour)), place in zip(ends.items(), places, strict=True):
    ax.annotate(
      name,
      xy=(x, y),
      xytext=(1.03, place),
      textcoords="axes fraction",
      color=colour,
      fontsize=7.5,
      fontweight="bold" if name in focus else "normal",
      va="center",
      annotation_clip=False,
      arrowprops={
        "arrowstyle": "-",
        "color": colour,
        "linewidth": 0.4,
        "shrinkA": 0,
        "shrinkB": 0,
      },
    )
