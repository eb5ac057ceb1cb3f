"""The pictures of a comparison."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import pictures
from benchmarks.dense import tasks
from benchmarks.dense.problem import Problem
from benchmarks.dense.training import Run
from optax_mtl.plot._drawing import COLOURS, GREY, bare_axes

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

#: A method so much worse is drawn at the edge, in percent.
_FARTHEST = 30.0


def _draw(
  ax: "Axes", name: str, values: np.ndarray, label: np.ndarray, mask: np.ndarray
) -> None:
  """One target of one image; white where there is no label."""
  task = tasks.TASKS[name]
  style: dict[str, Any] = {"cmap": "Greys", "vmin": 0.0, "vmax": 1.0}
  values = np.asarray(values, np.float64)
  if task.kind == "classes":
    style = {"cmap": "viridis", "vmin": 0, "vmax": task.channels - 1}
  elif task.kind == "direction":
    # Towards the camera is blue, as usual.
    values = np.clip((values * np.array([1, 1, -1]) + 1) / 2, 0, 1)
  elif task.kind == "amount" and task.channels == 1:
    # On one scale with the label.
    seen = label[mask]
    style = {"cmap": "magma", "vmin": seen.min(), "vmax": seen.max()}
  values = np.squeeze(values)
  shown = mask if values.ndim == 2 else mask[..., None]
  values = np.where(shown, values, np.nan if values.ndim == 2 else 1.0)
  ax.imshow(values, **style)


def scene(
  problem: Problem,
  samples: Mapping[str, Mapping[str, np.ndarray]],
  index: int = 0,
) -> "Figure":
  """A test image, its labels, and what methods predict.

  Args:
    problem: Data.
    samples: Label of a row to its predictions by task.
    index: Which of the test images.

  Returns:
    The figure: a row for the labels, and one for each method.
  """
  from matplotlib.figure import Figure

  rows, columns = 1 + len(samples), 1 + problem.num_tasks
  figure = Figure(figsize=(1.7 * columns, 1.75 * rows), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False)
  labels = {
    name: np.asarray(label[index])
    for name, label in problem.test["labels"].items()
  }
  axes[0, 0].imshow(np.asarray(problem.test["image"][index]))
  axes[0, 0].set_title("image", fontsize="small")
  lines = [
    labels,
    *({k: v[index] for k, v in s.items()} for s in samples.values()),
  ]
  for row, (title, line) in enumerate(
    zip(["labels", *samples], lines, strict=True)
  ):
    for column, name in enumerate(problem.tasks, start=1):
      mask = np.asarray(problem.test["masks"][name][index])
      # Predictions are everywhere.
      kept = mask if row == 0 else np.ones_like(mask)
      ax = axes[row, column]
      if row == 0:
        ax.set_title(name, fontsize="small")
      _draw(ax, name, line[name], labels[name], kept & (mask | (row > 0)))
    if row:
      axes[row, 0].text(
        0.5,
        0.5,
        title.replace("-", "\n").replace("_", "\n"),
        ha="center",
        va="center",
        fontsize="small",
      )
  for ax in axes.flat:
    ax.set_axis_off()
  return figure


def curves(
  problem: Problem, runs: Mapping[str, Run], focus: Sequence[str]
) -> "Figure":
  """Each task's metric on validation over the steps, mean over seeds.

  Args:
    problem: What was trained.
    runs: By label.
    focus: Labels in colour.

  Returns:
    The figure.
  """
  titles = [
    f"{name}: {tasks.TASKS[name].metric} "
    + ("↑" if tasks.TASKS[name].higher_is_better else "↓")
    for name in problem.tasks
  ]
  # Panels of one row share their scale, and each task has its own.
  figure, axes = pictures.panels(
    len(titles), [""], 6.5, 1.0 + 2.6 * len(titles)
  )
  for column, ax in enumerate(axes[:, 0]):
    ax.set(xscale="linear", ylabel=titles[column])
    if column == problem.num_tasks - 1:
      ax.set_xlabel("step")
    pictures.label_lines(
      ax,
      {
        label: (run.steps, run.validation[:, :, column].mean(axis=0))
        for label, run in runs.items()
      },
      focus,
    )
  return figure


def bars(changes: Mapping[str, np.ndarray]) -> "Figure":
  """Δm of each method, the best first; a dot is a seed.

  Args:
    changes: Label to Δm [S], in percent.

  Returns:
    The figure.
  """
  from matplotlib.figure import Figure

  order = sorted(
    changes, key=lambda label: np.nan_to_num(changes[label].mean(), nan=np.inf)
  )
  figure = Figure(figsize=(7.0, 0.8 + 0.27 * len(order)), layout="constrained")
  ax = figure.subplots()
  for place, label in enumerate(order):
    seeds = np.clip(
      np.nan_to_num(changes[label], nan=_FARTHEST), -_FARTHEST, _FARTHEST
    )
    mean = seeds.mean()
    ax.barh(place, mean, color=COLOURS[0] if mean < 0 else GREY, alpha=0.55)
    ax.plot(seeds, np.full(len(seeds), place), "o", color="black", markersize=3)
  ax.set_yticks(range(len(order)), order, fontsize="small")
  ax.invert_yaxis()
  ax.axvline(0, color="black", linewidth=0.8)
  ax.set_xlabel("Δm against single-task networks, percent; lower is better")
  bare_axes(ax)
  return figure
