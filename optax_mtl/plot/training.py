"""How training went: losses and weights, step by step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from optax_mtl.plot import _arrays, _drawing

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def learning_curves(
  curves: Mapping[str, ArrayLike],
  *,
  task_names: Sequence[str] | None = None,
  steps: ArrayLike | None = None,
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
  arrays = _arrays.as_mapping(
    "curves", curves, "[steps, T] or [seeds, steps, T]", 3
  )
  names = _arrays.check_task_names(
    task_names, _arrays.count_tasks("curves", arrays)
  )
  columns = min(len(names), 4)
  rows = -(-len(names) // columns)
  height = max(3.0, 3.8 / rows)
  figure, axes, legend = _drawing.new_figure(
    rows, columns, 3.6, height, len(arrays)
  )
  handles = []
  for index, (label, array) in enumerate(arrays.items()):
    x = _arrays.x_values(steps, array.shape[1])
    array = _arrays.moving_mean(array, smooth)
    style = _drawing.line_style(index)
    lines = [
      _drawing.band(ax, x, array[:, :, task], style)
      for task, ax in enumerate(axes.flat[: len(names)])
    ]
    # The method's line has the same style in every panel: one speaks for all.
    lines[0].set_label(label)
    handles.append(lines[0])
  for task, ax in enumerate(axes.flat):
    if task >= len(names):
      ax.remove()
      continue
    ax.set_title(names[task], fontsize="medium")
    if log:
      _drawing.log_scale(ax)
    if task + columns >= len(names):
      ax.set_xlabel(xlabel)
    if task % columns == 0:
      ax.set_ylabel(ylabel)
  legend(handles)
  return figure


def weights_over_time(
  weights: Mapping[str, ArrayLike] | ArrayLike,
  *,
  task_names: Sequence[str] | None = None,
  steps: ArrayLike | None = None,
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
  arrays = _arrays.as_mapping(
    "weights", weights, "[steps, T] or [seeds, steps, T]", 3
  )
  names = _arrays.check_task_names(
    task_names, _arrays.count_tasks("weights", arrays)
  )
  columns = min(len(arrays), 4)
  rows = -(-len(arrays) // columns)
  width, height = (2.5, 2.0) if len(arrays) > 3 else (3.6, 3.0)
  figure, axes, legend = _drawing.new_figure(
    rows, columns, width, height, len(names)
  )
  handles = []
  for index, (ax, (label, array)) in enumerate(
    zip(axes.flat, arrays.items(), strict=False)
  ):
    x = _arrays.x_values(steps, array.shape[1])
    array = _arrays.moving_mean(array, smooth)
    handles = [
      _drawing.band(ax, x, array[:, :, task], _drawing.line_style(task))
      for task in range(len(names))
    ]
    ax.set_title(label, fontsize="medium")
    if log:
      _drawing.log_scale(ax)
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
