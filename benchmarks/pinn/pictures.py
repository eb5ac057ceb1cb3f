"""The pictures of a comparison."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.common import pictures
from benchmarks.pinn.problem import RESIDUAL, Problem
from benchmarks.pinn.training import Run

if TYPE_CHECKING:
  from matplotlib.figure import Figure


#: Ratios of weights beyond it, and below its inverse, are not drawn.
_FARTHEST = 1e8


def _median(values: np.ndarray) -> np.ndarray:
  """Over seeds, the first axis; what has diverged counts as infinite."""
  median = np.median(np.nan_to_num(values, nan=np.inf), axis=0)
  return np.where(np.isfinite(median), median, np.nan)


def errors(
  runs: Mapping[str, Run],
  points: Mapping[str, int],
  steps: int,
  focus: Sequence[str],
) -> "Figure":
  """The median error over steps, and over time.

  Args:
    runs: By label.
    points: Label to the variant that is drawn.
    steps: As far as all go.
    focus: Labels in colour.

  Returns:
    The figure.
  """
  figure, axes = pictures.panels(
    1, ["at equal steps", "at equal time"], 11.5, 4.6
  )
  by_steps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
  by_time: dict[str, tuple[np.ndarray, np.ndarray]] = {}
  # Until the least patient of those in colour has done its steps.
  end = runs[focus[0]].seconds_per_step * steps
  for label, run in runs.items():
    median = _median(run.errors[points[label]])
    within = run.steps <= steps
    by_steps[label] = run.steps[within], median[within]
    seconds = run.steps * run.seconds_per_step
    within = seconds <= 1.001 * end
    by_time[label] = seconds[within], median[within]
  left, right = axes[0]
  for ax, curves, name in (
    (left, by_steps, "step"),
    (right, by_time, "seconds on this machine"),
  ):
    ax.set(xscale="linear", xlabel=name)
    pictures.label_lines(ax, curves, focus)
  left.set_ylabel("relative L2 error, median over seeds")
  return figure


def fields(
  problem: Problem,
  runs: Mapping[str, Run],
  focus: Sequence[str],
) -> "Figure":
  """The solution, and the absolute error of each method in colour.

  Shown is the seed with the median error.
  """
  from matplotlib.colors import LogNorm
  from matplotlib.figure import Figure

  names, (first, second) = zip(*problem.axes.items(), strict=True)
  shape = len(first), len(second)

  def component(values: np.ndarray) -> np.ndarray:
    """What is drawn: the first of several, the first axis to the right."""
    values = np.asarray(values, np.float64).reshape(*shape, -1)
    return values[:, :, 0].T

  exact = component(problem.solution)
  number = 1 + len(focus)
  columns = min(4, number)
  rows = -(-number // columns)
  figure = Figure(figsize=(2.9 * columns, 2.5 * rows), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False)
  extent = (first[0], first[-1], second[0], second[-1])
  style = {"origin": "lower", "extent": extent, "aspect": "auto"}
  top = np.abs(exact).max()
  shown = axes[0, 0].imshow(exact, cmap="RdBu_r", vmin=-top, vmax=top, **style)
  axes[0, 0].set_title("solution", fontsize="medium")
  figure.colorbar(shown, ax=axes[0, 0])
  # Four decades below the solution all is well.
  norm = LogNorm(1e-4 * top, top)
  wrong = None
  for ax, label in zip(axes.flat[1:], focus, strict=False):
    difference = np.abs(component(runs[label].field) - exact)
    wrong = ax.imshow(
      np.maximum(difference, norm.vmin), norm=norm, cmap="magma", **style
    )
    ax.set_title(f"error of {label}", fontsize="small")
  for ax in axes.flat[number:]:
    ax.remove()
  for ax in axes.flat[:number]:
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.label_outer()
  if wrong is not None:
    figure.colorbar(wrong, ax=list(axes.flat[1:number]), label="absolute error")
  return figure


def weights(
  problem: Problem,
  runs: Mapping[str, Run],
  points: Mapping[str, int],
  focus: Sequence[str],
) -> "Figure":
  """Each condition's weight over the residual's, the median over seeds."""
  row = problem.task_names.index(RESIDUAL)
  conditions = [
    (index, name)
    for index, name in enumerate(problem.task_names)
    if index != row
  ]
  figure, axes = pictures.panels(
    1,
    [f"{name} / {RESIDUAL}" for _, name in conditions],
    5.5 * len(conditions),
    4.6,
  )
  for ax, (index, _) in zip(axes[0], conditions, strict=True):
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for label, run in runs.items():
      taken = run.weights[points[label]]
      with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _median(taken[:, :, index] / taken[:, :, row])
      # Nor is there a place for a weight that is zero, or as good as zero.
      shown = (ratio > 1 / _FARTHEST) & (ratio < _FARTHEST)
      curves[label] = run.steps, np.where(shown, ratio, np.nan)
    ax.set(xscale="linear", xlabel="step")
    pictures.label_lines(ax, curves, focus)
  axes[0, 0].set_ylabel("ratio of the weights")
  return figure
