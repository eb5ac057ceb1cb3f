"""Pictures of multi-task training; matplotlib is imported only when called.

Every function returns a `matplotlib.figure.Figure` and touches neither pyplot
nor its settings: save it with `figure.savefig("name.png")`, or return it from a
notebook cell.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. There
are seven, so line styles or markers tell further methods apart; legends stand
outside the axes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optax_mtl import _plot_base as _base

if TYPE_CHECKING:
  from matplotlib.figure import Figure

__all__ = [
  "front",
  "gap_curves",
  "learning_curves",
  "trade_off",
  "weights_over_time",
]


def learning_curves(
  curves: Mapping[str, Any],
  *,
  task_names: Sequence[str] | None = None,
  steps: Any = None,
  smooth: int = 1,
  xlabel: str = "step",
  ylabel: str = "loss",
  log: bool = False,
) -> "Figure":
  """One panel per task, one line per method.

  Args:
    curves: Label to [steps, T] or [seeds, steps, T]. With several seeds the
      line is their mean and the band one standard deviation.
    task_names: T names, the panels' titles.
    steps: [steps], where the points lie; 1, 2, ... by default.
    smooth: Draws means over that many successive points.
    xlabel: Label of the horizontal axes.
    ylabel: Label of the vertical axes.
    log: Whether the vertical axes are logarithmic.

  Returns:
    The figure.

  Raises:
    ValueError: The shapes do not fit.
    ImportError: matplotlib is not installed.

  Example:
    >>> import numpy as np
    >>> falling = np.exp(-np.linspace(0, 3, 50))[:, None]
    >>> figure = learning_curves({"mgda": falling * np.array([1.0, 2.0])})
    >>> [ax.get_title() for ax in figure.axes]
    ['task 0', 'task 1']
  """
  arrays = _base.as_mapping(
    "curves", curves, "[steps, T] or [seeds, steps, T]", 3
  )
  names = _base.check_task_names(
    task_names, _base.count_tasks("curves", arrays)
  )
  columns = min(len(names), 4)
  rows = -(-len(names) // columns)
  height = max(3.0, 3.8 / rows)
  figure, axes, legend = _base.new_figure(
    rows, columns, 3.6, height, len(arrays)
  )
  handles = []
  for index, (label, array) in enumerate(arrays.items()):
    x = _base.x_values(steps, array.shape[1])
    array = _base.moving_mean(array, smooth)
    style = _base.line_style(index)
    for task, ax in enumerate(axes.flat[: len(names)]):
      line = _base.band(ax, x, array[:, :, task], style)
    line.set_label(label)
    handles.append(line)
  for task, ax in enumerate(axes.flat):
    if task >= len(names):
      ax.remove()
      continue
    ax.set_title(names[task], fontsize="medium")
    if log:
      _base.log_scale(ax)
    if task + columns >= len(names):
      ax.set_xlabel(xlabel)
    if task % columns == 0:
      ax.set_ylabel(ylabel)
  legend(handles)
  return figure


def weights_over_time(
  weights: Mapping[str, Any] | Any,
  *,
  task_names: Sequence[str] | None = None,
  steps: Any = None,
  smooth: int = 1,
  xlabel: str = "step",
  log: bool = False,
) -> "Figure":
  """One panel per method, one line per task.

  Args:
    weights: Label to [steps, T] or [seeds, steps, T], or one such array. The
      sum of the weights is each method's own, so every panel has its own scale.
    task_names: T names.
    steps: [steps], where the points lie; 1, 2, ... by default.
    smooth: Draws means over that many successive points.
    xlabel: Label of the horizontal axes.
    log: Whether the vertical axes are logarithmic.

  Returns:
    The figure.

  Raises:
    ValueError: The shapes do not fit.
    ImportError: matplotlib is not installed.

  Example:
    >>> import numpy as np
    >>> figure = weights_over_time({"equal_weighting": np.full((9, 2), 0.5)})
    >>> [ax.get_title() for ax in figure.axes]
    ['equal_weighting']
  """
  if not isinstance(weights, Mapping):
    weights = {"": weights}
  arrays = _base.as_mapping(
    "weights", weights, "[steps, T] or [seeds, steps, T]", 3
  )
  names = _base.check_task_names(
    task_names, _base.count_tasks("weights", arrays)
  )
  columns = min(len(arrays), 4)
  rows = -(-len(arrays) // columns)
  width, height = (2.5, 2.0) if len(arrays) > 3 else (3.6, 3.0)
  figure, axes, legend = _base.new_figure(
    rows, columns, width, height, len(names)
  )
  for index, (ax, (label, array)) in enumerate(
    zip(axes.flat, arrays.items(), strict=False)
  ):
    x = _base.x_values(steps, array.shape[1])
    array = _base.moving_mean(array, smooth)
    handles = [
      _base.band(ax, x, array[:, :, task], _base.line_style(task))
      for task in range(len(names))
    ]
    ax.set_title(label, fontsize="medium")
    if log:
      _base.log_scale(ax)
    elif (array >= 0).all():
      ax.set_ylim(bottom=0)
    if index + columns >= len(arrays):
      ax.set_xlabel(xlabel)
    if index % columns == 0:
      ax.set_ylabel("weight")
  for ax in axes.flat[len(arrays) :]:
    ax.remove()
  for handle, name in zip(handles, names, strict=True):
    handle.set_label(name)
  legend(handles)
  return figure


def trade_off(
  points: Mapping[str, Any],
  *,
  metric_names: Sequence[str] = ("task 0", "task 1"),
  higher_is_better: Sequence[bool] = (True, True),
  sweep: Any = None,
  sweep_label: str = "fixed weights, swept",
  baseline: Any = None,
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
  arrays = _base.as_mapping("points", points, "[2] or [seeds, 2]", 2)
  if _base.count_tasks("points", arrays) != 2:
    raise ValueError(
      "points must have two metrics; choose two columns of"
      f" {next(iter(arrays.values())).shape[-1]}."
    )
  figure, axes, legend = _base.new_figure(1, 1, 5.2, 4.6, len(arrays) + 2)
  ax = axes[0, 0]
  handles = []
  for index, (label, array) in enumerate(arrays.items()):
    mean = array.mean(axis=0)
    spread = array.std(axis=0, ddof=1) if len(array) > 1 else None
    colour = _base.COLOURS[index % len(_base.COLOURS)]
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
    handles += ax.plot(*mean, label=label, **_base.marker_style(index))
  ax.margins(0.08)
  if baseline is not None:
    # In sight even where the axes keep to the methods.
    ax.update_datalim([np.asarray(baseline, np.float64)])
    ax.autoscale_view()
  limits = ax.get_xlim(), ax.get_ylim()
  if sweep is not None:
    line = _base.as_curves(
      "sweep", sweep, "[grid, 2] or [seeds, grid, 2]", 3
    ).mean(0)
    handles += ax.plot(
      *line.T,
      color=_base.GREY,
      linewidth=1.2,
      marker=".",
      markersize=5,
      zorder=2,
      label=sweep_label,
    )
  if baseline is not None:
    x, y = np.asarray(baseline, np.float64)
    style = {"color": _base.GREY, "linestyle": (0, (5, 3)), "linewidth": 1.0}
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
  points: Mapping[str, Any],
  *,
  true_front: Any = None,
  rays: Any = None,
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
  arrays = _base.as_mapping("points", points, "[2] or [K, 2]", 2)
  if _base.count_tasks("points", arrays) != 2:
    raise ValueError("points must be [K, 2]: a front is drawn for two losses.")
  figure, axes, legend = _base.new_figure(1, 1, 4.6, 4.4, len(arrays) + 2)
  ax = axes[0, 0]
  handles = []
  for index, (label, array) in enumerate(arrays.items()):
    handles += ax.plot(*array.T, label=label, **_base.marker_style(index))
  if true_front is not None:
    handles += ax.plot(
      *_base.as_pairs("true_front", true_front).T,
      color=_base.GREY,
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
    for end in _base.ray_ends(rays, right, top):
      (line,) = ax.plot(
        *np.outer(end, [0.0, 1.0]),
        color=_base.GREY,
        linewidth=0.7,
        linestyle=(0, (2, 2)),
        zorder=1,
        label="preferences",
      )
    handles.append(line)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
  ax.set_xlabel(loss_names[0])
  ax.set_ylabel(loss_names[1])
  legend(handles)
  return figure


def gap_curves(
  gaps: Mapping[str, Any],
  *,
  iterations: Any = None,
  floor: float = 1e-8,
  xlabel: str = "iteration",
  ylabel: str = "relative duality gap",
) -> "Figure":
  """How fast solvers close their gap, on a logarithmic axis.

  Args:
    gaps: Label to [iterations] or [problems, iterations]. With several problems
      the line is their median, the band reaches from quartile to quartile.
    iterations: [iterations], where the points lie; 0, 1, ... by default.
    floor: Smaller gaps, zeros among them, are drawn here, on a dotted line:
      below the rounding of the numbers they say nothing.
    xlabel: Label of the horizontal axis.
    ylabel: Label of the vertical axis.

  Returns:
    The figure.

  Raises:
    ValueError: The shapes do not fit, or `floor` is not positive.
    ImportError: matplotlib is not installed.

  Example:
    >>> figure = gap_curves({"plain": [1.0, 0.5], "exact": [1.0, 0.0]})
    >>> figure.axes[0].get_yscale()
    'log'
  """
  what = "[iterations] or [problems, iterations]"
  arrays = _base.as_mapping("gaps", gaps, what, 2)
  if not floor > 0:
    raise ValueError(f"floor must be positive; got {floor}.")
  figure, axes, legend = _base.new_figure(1, 1, 5.0, 3.8, len(gaps))
  ax = axes[0, 0]
  handles = []
  for index, (label, curves) in enumerate(arrays.items()):
    curves = np.maximum(curves, floor)
    x = np.arange(curves.shape[1])
    if iterations is not None:
      x = _base.x_values(iterations, curves.shape[1])
    style = _base.line_style(index)
    handles += ax.plot(x, np.median(curves, axis=0), label=label, **style)
    if len(curves) > 1:
      low, high = np.quantile(curves, [0.25, 0.75], axis=0)
      ax.fill_between(x, low, high, color=style["color"], alpha=0.12, lw=0)
  ax.axhline(
    floor, color=_base.GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1
  )
  _base.log_scale(ax)
  ax.set_xlabel(xlabel)
  ax.set_ylabel(ylabel)
  legend(handles)
  return figure
