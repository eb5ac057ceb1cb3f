"""What a comparison shows: rows, a sentence, tables, JSON and the page."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import output, page, ranking, tuning
from benchmarks.common.ranking import Standing
from benchmarks.dense import pictures, tasks
from benchmarks.dense.problem import MISSING, Problem
from benchmarks.dense.recipes import BASELINES, EQUAL, SINGLE_TASK, SWEEP
from benchmarks.dense.trainer import Settings
from benchmarks.dense.training import Run
from optax_mtl import metrics

Runs = Mapping[str, Run]

_CAPTIONS = {
  "delta_m": "Δm against single-task networks",
  "curves": "Metrics on validation over training",
  "scene": "A test image, its labels, and predictions",
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table; S seeds, T tasks.

  Attributes:
    test: [S, T], metrics.
    delta_m: [S], against the single-task networks' means, percent.
    standing: Among the rows that train one network for all tasks; None for
      single-task networks.
    time: Of a step over that of equal weights.
    flops: Likewise.
    rate: [T], as validation chose it.
    point: Likewise.
  """

  test: np.ndarray
  delta_m: np.ndarray
  standing: Standing | None
  time: float
  flops: float
  rate: np.ndarray
  point: np.ndarray


def summarize(problem: Problem, runs: Runs) -> dict[str, Row]:
  """The rows of the table: the baselines, and the others by Δm.

  Args:
    problem: What was trained.
    runs: Label to run; single-task networks and equal weights are among them.

  Returns:
    Label to row.
  """
  baseline = runs[SINGLE_TASK].test.mean(axis=0)
  up = problem.higher_is_better
  standings = ranking.standings(
    {label: run.test for label, run in runs.items() if label != SINGLE_TASK},
    baseline,
    up,
    equal=EQUAL,
    reference=SWEEP if SWEEP in runs else None,
  )
  equal = runs[EQUAL]
  delta_m = {
    label: np.asarray(metrics.delta_m(run.test, baseline, up))
    for label, run in runs.items()
  }
  labels = ranking.best_first(
    runs, lambda label: float(delta_m[label].mean()), BASELINES
  )
  return {
    label: Row(
      test=run.test,
      delta_m=delta_m[label],
      standing=standings.get(label),
      time=run.seconds_per_step / equal.seconds_per_step,
      flops=run.flops / equal.flops,
      rate=run.rate,
      point=run.point,
    )
    for label in labels
    for run in (runs[label],)
  }


def header(problem: Problem) -> list[str]:
  """The column titles."""
  each = [tasks.TASKS[name] for name in problem.tasks]
  return [
    "method",
    *(
      f"{name}\n{task.metric} {'↑' if task.higher_is_better else '↓'}"
      for name, task in zip(problem.tasks, each, strict=True)
    ),
    "Δm\n% ↓",
    *ranking.HEADER,
    "rate",
    "time\n×",
    "FLOPs\n×",
  ]


def _number(mean: float, spread: float) -> str:
  """Three digits or so.

  Example:
    >>> _number(0.61234, 0.01), _number(24.53, 0.5)
    ('0.612 ± 0.010', '24.5 ± 0.5')
  """
  digits = 1 if abs(mean) >= 10 else 3
  return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _spread(values: np.ndarray) -> np.ndarray:
  """Standard deviation over seeds, the first axis."""
  return values.std(axis=0, ddof=1 if len(values) > 1 else 0)


def cells(label: str, row: Row) -> list[str]:
  """One row as text, in the order of `header`."""
  pairs = zip(row.test.mean(axis=0), _spread(row.test), strict=True)
  standing = ["–"] * len(ranking.HEADER)
  if row.standing is not None:
    standing = ranking.cells(row.standing, label == EQUAL)
  return [
    label,
    *(_number(mean, spread) for mean, spread in pairs),
    f"{row.delta_m.mean():+.1f} ± {_spread(row.delta_m):.1f}",
    *standing,
    tuning.rates_text(row.rate),
    f"{row.time:.2f}",
    f"{row.flops:.2f}",
  ]


def table(
  problem: Problem, rows: Mapping[str, Row], settings: Settings
) -> Table:
  """The table for a terminal; what is better than equal weights is bold."""
  result = output.new_table(
    f"dense prediction: test metrics after {settings.steps} steps, mean ± "
    f"spread over {settings.num_seeds} seeds",
    header(problem),
  )
  for label, row in rows.items():
    texts = cells(label, row)
    if row.standing is not None and row.standing.verdict == "better":
      texts = [f"[bold]{text}[/bold]" for text in texts]
    # A bracket begins markup.
    texts = [text.replace(" [", " \\[") for text in texts]
    result.add_row(*texts, end_section=label == SWEEP)
  return result


def markdown(problem: Problem, rows: Mapping[str, Row]) -> str:
  """The table for the docs."""
  return output.markdown(
    header(problem), [cells(label, row) for label, row in rows.items()]
  )


def notes(
  problem: Problem, rows: Mapping[str, Row], settings: Settings
) -> list[str]:
  """What a reader of the table has to know."""
  rates = ", ".join(f"{rate:g}" for rate in settings.rates)
  lines = [
    f"{len(problem.train['image'])} images to train on, {MISSING:.0%} of them "
    f"without each task's labels; batches of {settings.batch_size}. Δm: mean "
    "relative change against networks of one task each, trained on the same "
    "batches for as many steps.",
    f"rate: of Adam, chosen among {rates} by Δm on validation, with a seed "
    "that is not in the table.",
    "Interval: of the difference to equal weights' Δm at the same seed, 95 %, "
    "Student's t. 'even' is no difference beyond the spread.",
    "Endings: -weighted, the decoders get the trunk's weights; -ub, gradients "
    "at the representation; -refreshed, weights at every tenth step; -sgd, SGD "
    "with momentum.",
  ]
  if SWEEP in rows:
    chosen = ", ".join(
      f"{name} {weight:.2f}"
      for name, weight in zip(problem.tasks, rows[SWEEP].point, strict=True)
    )
    lines.append(
      f"{SWEEP}: the best of {1 + 2 * problem.num_tasks} weightings on "
      f"validation: {chosen}."
    )
  return lines


def sentence(rows: Mapping[str, Row]) -> str:
  """What the table says about the choice of a method."""
  others = {
    label: row.standing
    for label, row in rows.items()
    if row.standing is not None and label not in (EQUAL, SWEEP)
  }
  if not others:
    return "Too few rows to compare."
  best = min(others, key=lambda label: others[label].difference)
  return (
    f"{ranking.verdicts(others)}; {best} ends at a Δm of "
    f"{rows[best].delta_m.mean():+.1f} %, equal weights at "
    f"{rows[EQUAL].delta_m.mean():+.1f} %."
  )


def focus(rows: Mapping[str, Row]) -> list[str]:
  """The labels in colour: what methods are judged by, and the first of them."""
  first = [label for label in BASELINES if label in rows]
  others = [label for label in rows if label not in first]
  return [*first, *others[:3]]


def write(
  folder: pathlib.Path,
  problem: Problem,
  settings: Settings,
  runs: Runs,
  rows: Mapping[str, Row],
) -> tuple[list[pathlib.Path], page.Section]:
  """Writes JSON, pictures and the page.

  Args:
    folder: Where to.
    problem: What was trained.
    settings: How.
    runs: By label.
    rows: From `summarize`.

  Returns:
    The files, and what the page shows.
  """
  chosen = focus(rows)
  figures = {
    "delta_m": pictures.bars(
      {label: row.delta_m for label, row in rows.items()}
    ),
    "curves": pictures.curves(problem, runs, chosen),
    "scene": pictures.scene(
      problem, {label: runs[label].samples for label in chosen}
    ),
  }
  data = {
    "tasks": problem.tasks,
    **dataclasses.asdict(settings),
    **output.made_with(),
    "rows": {label: dataclasses.asdict(row) for label, row in rows.items()},
  }
  paths = output.write(
    folder,
    "dense",
    data,
    {f"dense_{key}": figure for key, figure in figures.items()},
  )
  section = page.Section(
    title="Dense prediction",
    sentence=sentence(rows),
    settings=f"{settings.steps} steps, {settings.num_seeds} seeds, on "
    f"{data['device']}",
    head=header(problem),
    rows=[cells(label, row) for label, row in rows.items()],
    notes=notes(problem, rows, settings),
    pictures={
      caption: folder / f"dense_{key}.png" for key, caption in _CAPTIONS.items()
    },
  )
  html = folder / "dense.html"
  html.write_text(page.render([section], data["versions"]), encoding="utf-8")
  return [*paths, html], section


def as_data(run: Run) -> dict[str, Any]:
  """A run as what JSON has."""
  return output.plain(dataclasses.asdict(run))


def from_data(data: Mapping[str, Any]) -> Run:
  """The run that `as_data` made that of."""
  lists: Sequence[str] = ("tried",)
  arrays = {
    key: np.asarray(value)
    if isinstance(value, list) and key not in lists
    else value
    for key, value in data.items()
  }
  arrays["samples"] = {
    name: np.asarray(value) for name, value in data["samples"].items()
  }
  return Run(**arrays)
