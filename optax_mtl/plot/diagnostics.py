"""What was logged of `optax_mtl.diagnostics`, over the steps."""

import csv
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optax_mtl.plot import _arrays, _drawing

if TYPE_CHECKING:
  from matplotlib.figure import Figure

#: Kind of figure -> title of its panel, in the order in which they are drawn.
_TITLES = {
  "weight": "weights",
  "norm": "lengths of the gradients",
  "effective_rate": "effective learning rates",
  "present": "share of the steps",
  "cosine": "cosines",
  "conflict_rate": "conflicting pairs",
  "alignment": "alignment",
}
#: Kinds between which bounds each can lie: all of the range is drawn.
_BOUNDS = {
  "present": (0, 1),
  "cosine": (-1, 1),
  "conflict_rate": (0, 1),
  "alignment": (-1, 1),
}


def diagnostics(
  log: "str | os.PathLike[str] | Sequence[Mapping[str, Any]]",
  *,
  kinds: Sequence[str] | None = None,
  step: str = "step",
  smooth: int = 1,
) -> "Figure":
  """One panel per kind of figure, one line per task or pair of tasks.

  Args:
    log: A row for each time something was logged: dicts of what
      `optax_mtl.diagnostics` returned, or of the strings that `csv.DictReader`
      makes of them; or the path of a CSV file. What else is in a row is not
      drawn; a figure that a row lacks is a gap.
    kinds: Which are drawn, as "weight" or "cosine". None: all that are there,
      but "present" only where a task was not always there.
    step: What the rows call the number of the step. Where they have none, rows
      are counted.
    smooth: Draws means over that many successive rows.

  Returns:
    The figure.

  Raises:
    ValueError: There are no rows, or none of the figures is in them.
    ImportError: matplotlib is not installed.

  Example:
    >>> log = [
    ...   {"step": 10, "weight/a": 0.5, "weight/b": 0.5, "alignment": 0.1},
    ...   {"step": 20, "weight/a": 0.4, "weight/b": 0.6, "alignment": 0.2},
    ... ]
    >>> [ax.get_title() for ax in diagnostics(log).axes]
    ['weights', 'alignment']
  """
  columns = _columns(log)
  panels = _panels(columns, kinds)
  number = len(next(iter(columns.values())))
  x = _arrays.x_values(columns.get(step), number)
  # A task has one colour throughout; a pair has its own.
  lines = list(
    dict.fromkeys(name for kind in panels for name in panels[kind] if name)
  )
  wide = min(len(panels), 4)
  high = -(-len(panels) // wide)
  figure, axes, legend = _drawing.new_figure(high, wide, 3.2, 2.8, len(lines))
  handles: dict[str, Any] = {}
  for index, (ax, (kind, curves)) in enumerate(
    zip(axes.flat, panels.items(), strict=False)
  ):
    for name, values in curves.items():
      style = _drawing.line_style(lines.index(name) if name else 6)
      means = _arrays.moving_mean(values[None, :, None], smooth)[0, :, 0]
      (handle,) = ax.plot(x, means, **style)
      if name:
        handles.setdefault(name, handle)
    ax.set_title(_TITLES[kind], fontsize="medium")
    if kind in _BOUNDS:
      low, top = _BOUNDS[kind]
      # A little room, so that a line on the bound is seen.
      room = 0.04 * (top - low)
      ax.set_ylim(low - room, top + room)
    drawn = np.array(list(curves.values()))
    if kind == "norm" and (drawn[np.isfinite(drawn)] > 0).all():
      _drawing.log_scale(ax)
    if index + wide >= len(panels):
      ax.set_xlabel(step)
  for ax in axes.flat[len(panels) :]:
    ax.remove()
  for name, handle in handles.items():
    handle.set_label(name)
  if handles:
    legend(list(handles.values()))
  return figure


def _columns(
  log: "str | os.PathLike[str] | Sequence[Mapping[str, Any]]",
) -> dict[str, np.ndarray]:
  """Key -> its numbers, NaN in a row without; what is no number is left out."""
  if isinstance(log, (str, os.PathLike)):
    with open(log, newline="", encoding="utf-8") as file:
      rows: list[Mapping[str, Any]] = list(csv.DictReader(file))
  else:
    rows = list(log)
  if not rows:
    raise ValueError("log must hold at least one row; it is empty.")
  columns: dict[str, np.ndarray] = {}
  for key in dict.fromkeys(key for row in rows for key in row):
    try:
      columns[key] = np.array([_number(row.get(key)) for row in rows])
    except (TypeError, ValueError):
      continue  # A logger's own text, as a time or the name of a run.
  return columns


def _number(value: Any) -> float:
  """The number in a cell; NaN for an empty one."""
  return np.nan if value is None or value == "" else float(value)


def _panels(
  columns: Mapping[str, np.ndarray], kinds: Sequence[str] | None
) -> dict[str, dict[str, np.ndarray]]:
  """Kind -> task or pair -> values; "" for what is one for all tasks."""
  wanted = _TITLES if kinds is None else kinds
  unknown = [kind for kind in wanted if kind not in _TITLES]
  if unknown:
    raise ValueError(
      f"kinds must be among {', '.join(_TITLES)}; got {', '.join(unknown)}."
    )
  panels: dict[str, dict[str, np.ndarray]] = {}
  for key, values in columns.items():
    kind, _, name = key.partition("/")
    if kind in wanted:
      panels.setdefault(kind, {})[name] = values
  if kinds is None and all(
    (values == 1).all() for values in panels.get("present", {}).values()
  ):
    panels.pop("present", None)
  if not panels:
    raise ValueError(
      "log must hold figures of optax_mtl.diagnostics, as 'weight/depth'; got "
      f"{', '.join(map(repr, columns)) or 'no numbers'}."
    )
  return {kind: panels[kind] for kind in wanted if kind in panels}
