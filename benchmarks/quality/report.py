"""What a comparison shows: a table, JSON, pictures and one HTML page.

All of it is made from the same rows: hence one module, a few lines above 400.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from benchmarks.common import output, page, ranking, tuning
from benchmarks.data.dataset import Dataset
from benchmarks.quality.recipes import (
  BASELINES,
  EQUAL,
  SINGLE_TASK,
  SWEEP,
  Recipe,
)
from benchmarks.quality.training import Run
from optax_mtl import metrics, plot

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Runs = Mapping[str, tuple[Recipe, Run]]

#: The last columns are left to the page: a terminal has 80 characters.
_TERMINAL_COLUMNS = -6
#: Of the columns, those about time and memory.
_TIMED = slice(-8, -4)


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table.

  Attributes:
    label: The method.
    mean: [T], test metrics, mean over seeds.
    spread: [T], their standard deviation over seeds.
    delta_m: Against the single-task networks, percent, lower is better.
    standing: Among the rows that train one network for all tasks; None for
      single-task networks.
    steps_per_second: Of all seeds (and points) together.
    num_networks: How many are trained at once.
    peak_mib: Memory of the training step.
    conflict_rate: Share of task pairs in conflict; NaN where not counted.
    compile_seconds: Of the training step.
    rate: [T] or [1], the learning rate: of single-task networks each its own.
    point: The row of the sweep or front that the metrics are of.
  """

  label: str
  mean: np.ndarray
  spread: np.ndarray
  delta_m: float
  standing: ranking.Standing | None
  steps_per_second: float
  num_networks: int
  peak_mib: float
  conflict_rate: float
  compile_seconds: float
  rate: np.ndarray
  point: list[float] | None


def of_single_tasks(values: np.ndarray) -> np.ndarray:
  """[T, S, T] of networks trained for one task each: task i from network i."""
  return np.stack(
    [values[task, :, task] for task in range(len(values))], axis=1
  )


def _point(dataset: Dataset, runs: Runs, name: str) -> int:
  """Which point a row shows: of the sweep the best on validation."""
  if name != SWEEP:
    return 0
  single = of_single_tasks(runs[SINGLE_TASK][1].validation_metrics)
  scores = tuning.score(
    runs[SWEEP][1].validation_metrics.mean(axis=1),
    single.mean(axis=0),
    dataset.higher_is_better,
  )
  return int(np.argmin(scores))


def _test_metrics(
  dataset: Dataset, runs: Runs, name: str
) -> tuple[np.ndarray, list[float] | None]:
  """A row's final test metrics [S, T] and which point they are of."""
  recipe, run = runs[name]
  final = run.test_metrics[:, :, -1]
  if name == SINGLE_TASK:
    return of_single_tasks(final), None
  index = _point(dataset, runs, name)
  says = name == SWEEP or recipe.point_is_preference
  return final[index], recipe.points[index].tolist() if says else None


def summarize(dataset: Dataset, runs: Runs) -> list[Row]:
  """The rows of the table: the baselines, and the others by Δm."""
  values = {name: _test_metrics(dataset, runs, name) for name in runs}
  baseline = values[SINGLE_TASK][0].mean(axis=0)
  multi = {name: values[name][0] for name in runs if name != SINGLE_TASK}
  standings: Mapping[str, ranking.Standing] = {}
  if EQUAL in multi:
    standings = ranking.standings(
      multi,
      baseline,
      dataset.higher_is_better,
      equal=EQUAL,
      reference=SWEEP if SWEEP in multi else None,
    )
  means = {name: metric.mean(axis=0) for name, (metric, _) in values.items()}
  delta_m = {
    name: float(metrics.delta_m(mean, baseline, dataset.higher_is_better))
    for name, mean in means.items()
  }
  rows: list[Row] = []
  for name in ranking.best_first(values, delta_m.__getitem__, BASELINES):
    (metric, point), run = values[name], runs[name][1]
    rows.append(
      Row(
        label=name,
        mean=means[name],
        spread=metric.std(axis=0, ddof=1 if len(metric) > 1 else 0),
        delta_m=delta_m[name],
        standing=standings.get(name),
        steps_per_second=run.steps_per_second,
        num_networks=run.tried.size * run.losses.shape[1],
        peak_mib=run.peak_mib,
        conflict_rate=run.conflict_rate,
        compile_seconds=run.compile_seconds,
        rate=run.rate
        if name == SINGLE_TASK
        else run.rate[[_point(dataset, runs, name)]],
        point=point,
      )
    )
  return rows


def _header(dataset: Dataset) -> list[str]:
  """The column titles."""
  tasks = [
    f"{task}\n{metric} {'↑' if up else '↓'}"
    for task, metric, up in zip(
      dataset.task_names, dataset.metrics, dataset.higher_is_better, strict=True
    )
  ]
  return [
    "method",
    *tasks,
    "Δm\n% ↓",
    ranking.HEADER[0],
    "con-\nflicts",
    "steps\n/s",
    "peak\nMiB",
    "net-\nworks",
    "compile\ns",
    "rate",
    *ranking.HEADER[1:],
  ]


def _cells(row: Row) -> list[str]:
  """One row as text, in the order of `_header`."""
  scores = [
    f"{mean:.3f} ± {spread:.3f}"
    for mean, spread in zip(row.mean, row.spread, strict=True)
  ]
  rank, *others = ["–"] * len(ranking.HEADER)
  if row.standing is not None:
    rank, *others = ranking.cells(row.standing, row.label == EQUAL)
  return [
    row.label,
    *scores,
    f"{row.delta_m:+.2f}",
    rank,
    "–" if np.isnan(row.conflict_rate) else f"{row.conflict_rate:.0%}",
    f"{row.steps_per_second:.0f}",
    f"{row.peak_mib:.1f}",
    str(row.num_networks),
    f"{row.compile_seconds:.1f}",
    tuning.rates_text(row.rate),
    *others,
  ]


def table(dataset: Dataset, rows: list[Row], num_seeds: int) -> Table:
  """The table for a terminal; the best of each task is bold."""
  result = output.new_table(
    f"{dataset.name}: test metrics, mean ± spread over {num_seeds} seeds",
    _header(dataset)[:_TERMINAL_COLUMNS],
  )
  multi = [row for row in rows if row.label != SINGLE_TASK]
  for row in rows:
    cells = _cells(row)[:_TERMINAL_COLUMNS]
    for task, up in enumerate(dataset.higher_is_better):
      best = (max if up else min)(
        (other.mean[task] for other in multi), default=None
      )
      if row in multi and row.mean[task] == best:
        cells[1 + task] = f"[bold]{cells[1 + task]}[/bold]"
    result.add_row(*cells, end_section=row.label == SWEEP)
  return result


def markdown(dataset: Dataset, rows: list[Row]) -> str:
  """The table for the docs, without what a busy machine blurs."""
  whole = [_header(dataset), *(_cells(row) for row in rows)]
  head, *body = [line[: _TIMED.start] + line[_TIMED.stop :] for line in whole]
  return output.markdown(head, body)


def notes(dataset: Dataset, runs: Runs) -> list[str]:
  """What a reader of the table has to know."""
  lines = [
    "Δm: mean relative change against the single-task networks, lower is "
    "better. steps/s: of the step that trains all networks of a row at once.",
    "mean rank: over seeds and tasks, with its spread. The page also has the "
    "difference to equal weights' Δm at the same seeds, with a 95 % interval, "
    "and how often a method beats the best fixed weights.",
  ]
  if SWEEP in runs:
    recipe, _ = runs[SWEEP]
    _, point = _test_metrics(dataset, runs, SWEEP)
    chosen = ", ".join(f"{weight:.2f}" for weight in point)
    lines.append(
      f"{SWEEP}: the best of {len(recipe.points)} fixed weightings by Δm on a "
      f"validation split: weights {chosen}."
    )
  tried = runs[SINGLE_TASK][1].tried
  if tried.shape[1] > 1:
    lines.append(
      f"rate: of Adam, for each row the best of {tried.shape[1]} by Δm on the "
      "validation split, over the table's seeds; of single-task networks by "
      "their own metric."
    )
  if "pareto_mtl" in runs:
    number = len(runs["pareto_mtl"][0].points)
    lines.append(
      f"pareto_mtl: trains {number} preference{'s' * (number > 1)} at once; "
      "the row is the middle one."
    )
  return lines


def _figures(dataset: Dataset, runs: Runs) -> dict[str, "Figure"]:
  """File name to figure."""
  methods = [name for name in runs if name != SINGLE_TASK]
  steps = runs[SINGLE_TASK][1].steps
  names = dataset.task_names

  def of(name: str, field: str) -> np.ndarray:
    """[S, E, T] of the row's own point."""
    return getattr(runs[name][1], field)[_point(dataset, runs, name)]

  figures = {
    "learning_curves": plot.learning_curves(
      {name: of(name, "losses") for name in methods},
      task_names=names,
      steps=steps,
      ylabel="training loss",
      log=True,
    ),
    "test_metrics": plot.learning_curves(
      {name: of(name, "test_metrics") for name in methods},
      task_names=names,
      steps=steps,
      ylabel=f"test {dataset.metrics[0]}",
    ),
    "weights": plot.weights_over_time(
      {name: of(name, "weights") for name in methods if name != SWEEP},
      task_names=names,
      steps=steps,
    ),
  }
  sweep = runs[SWEEP][1].test_metrics[:, :, -1] if SWEEP in runs else None
  points = {
    name: _test_metrics(dataset, runs, name)[0][:, :2]
    for name in methods
    if name != SWEEP
  }
  single = _test_metrics(dataset, runs, SINGLE_TASK)[0].mean(axis=0)
  if points:
    line = None
    if sweep is not None and dataset.num_tasks == 2:
      line = sweep.swapaxes(0, 1)
    figures["trade_off"] = plot.trade_off(
      points,
      metric_names=[
        f"{task} {metric}"
        for task, metric in zip(names[:2], dataset.metrics[:2], strict=True)
      ],
      higher_is_better=dataset.higher_is_better[:2],
      sweep=line,
      baseline=single[:2],
      focus=True,
    )
  return figures


def _as_data(
  args: argparse.Namespace, dataset: Dataset, runs: Runs, rows: list[Row]
) -> dict[str, Any]:
  """Everything, for the JSON file."""
  settings = {
    key: value if isinstance(value, (int, float, str, list)) else str(value)
    for key, value in vars(args).items()
    if key not in ("names", "data_dir", "out") and value is not None
  }
  return {
    "dataset": dataset.name,
    "tasks": dataset.task_names,
    "metrics": dataset.metrics,
    "higher_is_better": dataset.higher_is_better,
    "settings": settings,
    **output.made_with(),
    "rows": [dataclasses.asdict(row) for row in rows],
    "runs": {
      name: {"points": recipe.points, **dataclasses.asdict(run)}
      for name, (recipe, run) in runs.items()
    },
  }


_CAPTIONS = {
  "trade_off": "The two tasks against each other",
  "learning_curves": "Training losses",
  "test_metrics": "Test metrics over training",
  "weights": "Weights over training",
}


def sentence(dataset: Dataset, rows: list[Row]) -> str:
  """What the table says about the choice of a method, in one sentence."""
  by_name = {row.label: row for row in rows}
  others = [row for row in rows if row.label not in (SINGLE_TASK, SWEEP, EQUAL)]
  if EQUAL not in by_name or not others:
    return "Too few rows to compare."
  equal = by_name[EQUAL]
  alike = [
    row
    for row in others
    if (np.abs(row.mean - equal.mean) <= equal.spread + row.spread).all()
  ]
  standings = {row.label: row.standing for row in others if row.standing}
  return (
    f"On {dataset.name}, {len(alike)} of {len(others)} methods end within the "
    "spread over seeds of equal weights, on every task: here the choice "
    f"decides {'little' if len(alike) > len(others) / 2 else 'much'}. "
    f"{ranking.verdicts(standings)}, by Δm at the same seeds."
  )


def section(
  data: Mapping[str, Any],
  dataset: Dataset,
  runs: Runs,
  rows: list[Row],
  pictures: Mapping[str, pathlib.Path],
) -> page.Section:
  """What the HTML page shows of a comparison.

  Args:
    data: What the JSON file has.
    dataset: What was trained on.
    runs: By name.
    rows: Of the table.
    pictures: Name to file.

  Returns:
    The section.
  """
  return page.Section(
    title=f"optax_mtl on {dataset.name}",
    sentence=sentence(dataset, rows),
    settings=page.listed(data["settings"]) + f", on {data['device']}",
    head=_header(dataset),
    rows=[_cells(row) for row in rows],
    notes=notes(dataset, runs),
    pictures={
      caption: pictures[name]
      for name, caption in _CAPTIONS.items()
      if name in pictures
    },
  )


def write(
  args: argparse.Namespace, dataset: Dataset, runs: Runs, rows: list[Row]
) -> tuple[list[pathlib.Path], page.Section]:
  """Writes compare.json, the pictures and report.html to `args.out`.

  Returns:
    The files, and what the page shows.
  """
  data = _as_data(args, dataset, runs, rows)
  paths = output.write(args.out, "compare", data, _figures(dataset, runs))
  pictures = {path.stem: path for path in paths if path.suffix == ".png"}
  shown = section(data, dataset, runs, rows, pictures)
  html = args.out / "report.html"
  html.write_text(page.render([shown], data["versions"]), encoding="utf-8")
  return [*paths, html], shown
