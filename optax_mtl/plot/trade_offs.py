"""Two tasks against each other: methods, and Pareto fronts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from optax_mtl.plot import _arrays, _drawing

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def trade_off(
  points: Mapping[str, ArrayLike],
  *,
  metric_names: Sequence[str] = ("task 0", "task 1"),
  higher_is_better: Sequence[bool] = (True, True),
  sweep: ArrayLike | None = None,
  sweep_label: str = "fixed weights, swept",
  baseline: ArrayLike | None = None,
  baseline_label: str = "single task",
  focus: bool = False,
) -> "Figure":
  """Two tasks' metrics against each other, one marker per method.

  Args:
    points: Label to [2] or [seeds, 2]. With several seeds the marker is their
      mean and the bars one standard deviation.
    metric_names: The two axes' labels.
    higher_is_better: Per metric; an axis' label says which way is better.
    sweep: [grid, 2] or [seeds, grid, 2], results of fixed weights in the order
      of the weights; drawn as a connected line.
    sweep_label: Its label.
    baseline: [2], drawn as two dashed lines.
    baseline_label: Its label.
    focus: Whether the axes cover the methods and the baseline only; the ends of
      a sweep, where a task is as good as ignored, may lie far off.

  Returns:
    The figure.

  Raises:
    ValueError: The shapes do not fit.
    ImportError: matplotlib is not installed.

  Example:
    >>> figure = trade_off({"mgda": [0.9, 0.8], "pcgrad": [0.85, 0.86]})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['mgda', 'pcgrad']
  """
  arrays = _arrays.as_mapping("points", points, "[2] or [seeds, 2]", 2)
  if _arrays.count_tasks("points", arrays) != 2:
    raise ValueError(
      "points must have two metrics; choose two columns of"
      f" {next(iter(arrays.values())).shape[-1]}."
    )
  figure, axes, legend = _drawing.new_figure(1, 1, 5.2, 4.6, len(arrays) + 2)
  ax = axes[0, 0]
  handles = []
  for index, (label, array) in enumerate(arrays.items()):
    mean = array.mean(axis=0)
    spread = array.std(axis=0, ddof=1) if len(array) > 1 else None
    colour = _drawing.COLOURS[index % len(_drawing.COLOURS)]
    # Bars lie under every marker, so that none of those is struck through.
    if spread is not None:
      ax.errorbar(
        *mean,
        xerr=spread[0],
        yerr=spread[1],
        fmt="none",
        ecolor=colour,
        elinewidth=0.9,
        alpha=0.55,
        zorder=3,
      )
    handles += ax.plot(*mean, label=label, **_drawing.marker_style(index))
  ax.margins(0.08)
  if baseline is not None:
    # In sight even where the axes keep to the methods.
    ax.update_datalim([np.asarray(baseline, np.float64)])
    ax.autoscale_view()
  limits = ax.get_xlim(), ax.get_ylim()
  if sweep is not None:
    line = _arrays.as_curves(
      "sweep", sweep, "[grid, 2] or [seeds, grid, 2]", 3
    ).mean(0)
    handles += ax.plot(
      *line.T,
      color=_drawing.GREY,
      linewidth=1.2,
      marker=".",
      markersize=5,
      zorder=2,
      label=sweep_label,
    )
  if baseline is not None:
    x, y = np.asarray(baseline, np.float64)
    style = {"color": _drawing.GREY, "linestyle": (0, (5, 3)), "linewidth": 1.0}
    handles.append(ax.axvline(x, zorder=1, label=baseline_label, **style))
    ax.axhline(y, zorder=1, **style)
  for axis, name, upward in zip(
    (ax.xaxis, ax.yaxis), metric_names, higher_is_better, strict=True
  ):
    better = "better →" if upward else "← better"
    axis.set_label_text(f"{name}  ({better})")
  if focus:
    ax.set(xlim=limits[0], ylim=limits[1])
  legend(handles)
  return figure


def front(
  points: Mapping[str, ArrayLike],
  *,
  true_front: ArrayLike | None = None,
  rays: ArrayLike | None = None,
  loss_names: Sequence[str] = ("loss of task 0", "loss of task 1"),
) -> "Figure":
  """Pareto fronts in the space of two losses, with preference rays.

  Args:
    points: Label to [K, 2], the losses of K solutions. Solution k of every
      label belongs to ray k.
    true_front: [N, 2], points along the known front, drawn as a line.
    rays: [K, 2], preferred directions in loss space: solution k is wanted where
      the losses are proportional to `rays[k]`.
    loss_names: The two axes' labels.

  Returns:
    The figure.

  Raises:
    ValueError: The shapes do not fit.
    ImportError: matplotlib is not installed.

  Example:
    >>> figure = front({"mgda": [[0.1, 0.9]]}, rays=[[1, 9]])
    >>> figure.axes[0].get_xlabel()
    'loss of task 0'
  """
  arrays = _arrays.as_mapping("points", points, "[2] or [K, 2]", 2)
  if _arrays.count_tasks("points", arrays) != 2:
    raise ValueError("points must be [K, 2]: a front is drawn for two losses.")
  figure, axes, legend = _drawing.new_figure(1, 1, 4.6, 4.4, len(arrays) + 2)
  ax = axes[0, 0]
  handles = []
  for index, (label, array) in enumerate(arrays.items()):
    handles += ax.plot(*array.T, label=label, **_drawing.marker_style(index))
  if true_front is not None:
    handles += ax.plot(
      *_arrays.as_pairs("true_front", true_front).T,
      color=_drawing.GREY,
      linewidth=1.4,
      zorder=2,
      label="Pareto front",
    )
  if rays is not None:
    # To the edge of what is drawn, and not beyond: rays set no limits.
    ax.margins(0.05)
    ax.update_datalim([[0.0, 0.0]])
    ax.autoscale_view()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    lines = [
      ax.plot(
        *np.outer(end, [0.0, 1.0]),
        color=_drawing.GREY,
        linewidth=0.7,
        linestyle=(0, (2, 2)),
        zorder=1,
        label="preferences",
      )[0]
      for end in _arrays.ray_ends(rays, right, top)
    ]
    handles += lines[:1]
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
  ax.set_xlabel(loss_names[0])
  ax.set_ylabel(loss_names[1])
  legend(handles)
  return figure
