"""What a comparison shows: rows, a sentence, tables, JSON and the page."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import output, page
from benchmarks.pinn import pictures
from benchmarks.pinn.problem import Problem
from benchmarks.pinn.recipes import EQUAL, MUON, SWEEP, SWEEP_FACTORS
from benchmarks.pinn.training import Run, Settings

Runs = Mapping[str, Run]

_CAPTIONS = {
  "errors": "Error over training, at equal steps and at equal time",
  "fields": "The solution, and where each method is wrong",
  "weights": "What a condition weighs, where the residual weighs 1",
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table.

  Attributes:
    label: The method, of a sweep with the point that did best.
    errors: [S], relative L2 errors at equal steps.
    at_time: [S], the same when equal weights have done all their steps.
    seconds: Of one step.
    time: The same over that of equal weights.
    flops: FLOPs of one step over those of equal weights.
    point: Which variant it is.
  """

  label: str
  errors: np.ndarray
  at_time: np.ndarray
  seconds: float
  time: float
  flops: float
  point: int

  @property
  def median(self) -> float:
    """Over seeds; a run that has diverged is the worst of all."""
    return float(np.median(np.nan_to_num(self.errors, nan=np.inf)))


def best_point(run: Run, steps: int) -> int:
  """The variant with the least geometric mean of the errors at `steps`."""
  at = int(np.searchsorted(run.steps, steps))
  logs = np.log(np.nan_to_num(run.errors[:, :, at], nan=np.inf))
  return int(np.argmin(logs.mean(axis=1)))


def summarize(runs: Runs, steps: int) -> dict[str, Row]:
  """The rows of the table by the label of their recipe, in the runs' order.

  Args:
    runs: Label to run; equal weights are among them.
    steps: At which the methods are compared.

  Returns:
    The rows.
  """
  equal = runs[EQUAL]
  budget = equal.seconds_per_step * steps
  rows: dict[str, Row] = {}
  for label, run in runs.items():
    point = best_point(run, steps)
    # The last evaluation before the time is up; there is one at least.
    in_time = run.steps * run.seconds_per_step <= 1.001 * budget
    at_time = max(0, int(in_time.sum()) - 1)
    shown = label
    if label == SWEEP:
      shown = f"{label}, conditions x {SWEEP_FACTORS[point]:g}"
    rows[label] = Row(
      label=shown,
      errors=run.errors[point, :, np.searchsorted(run.steps, steps)],
      at_time=run.errors[point, :, at_time],
      seconds=run.seconds_per_step,
      time=run.seconds_per_step / equal.seconds_per_step,
      flops=run.flops / equal.flops,
      point=point,
    )
  return rows


def _percent(value: float) -> str:
  """Three digits.

  Example:
    >>> _percent(0.012345), _percent(2.5), _percent(float("nan"))
    ('1.23', '250', '–')
  """
  if not np.isfinite(value):
    return "–"
  return f"{100 * value:.3g}" if value < 9.995 else f"{100 * value:.0f}"


def _spread(errors: np.ndarray) -> str:
  ddof = 1 if len(errors) > 1 else 0
  return f"{_percent(errors.mean())} ± {_percent(errors.std(ddof=ddof))}"


_HEADER = (
  "method",
  "median\n% ↓",
  "mean ± sd\n%",
  "equal time,\nmedian % ↓",
  "ms\n/step",
  "time\n× equal",
  "FLOPs\n× equal",
)


def _cells(row: Row) -> list[str]:
  """One row as text, in the order of `_HEADER`."""
  return [
    row.label,
    _percent(row.median),
    _spread(row.errors),
    _percent(float(np.median(np.nan_to_num(row.at_time, nan=np.inf)))),
    f"{1e3 * row.seconds:.2f}",
    f"{row.time:.2f}",
    f"{row.flops:.2f}",
  ]


def table(
  problem: Problem, rows: Mapping[str, Row], settings: Settings
) -> Table:
  """The table for a terminal; the best is bold."""
  result = output.new_table(
    f"{problem.name}: relative L2 error after {settings.steps} steps, "
    f"{settings.num_seeds} seeds",
    _HEADER,
  )
  least = min(row.median for row in rows.values())
  for label, row in rows.items():
    cells = _cells(row)
    if row.median == least:
      cells = [f"[bold]{cell}[/bold]" for cell in cells]
    result.add_row(*cells, end_section=label == MUON)
  return result


def markdown(rows: Mapping[str, Row]) -> str:
  """The table for the docs."""
  return output.markdown(_HEADER, [_cells(row) for row in rows.values()])


def published(problem: Problem) -> str:
  """What others report, as a table for the docs; empty if nothing."""
  if not problem.published:
    return ""
  lines = ["| method | error | whose |", "|---|---:|---|"]
  lines += [
    f"| {item.method} | {item.error} | {item.source} |"
    for item in problem.published
  ]
  return "\n".join(lines)


def sentence(problem: Problem, rows: Mapping[str, Row]) -> str:
  """What the table says about the choice of a method, in one sentence."""
  others = {
    label: row
    for label, row in rows.items()
    if label not in (EQUAL, SWEEP, MUON)
  }
  if not others:
    return "Too few rows to compare."
  best = min(others.values(), key=lambda row: row.median)
  equal = rows[EQUAL]
  factor = equal.median / best.median
  start = (
    f"On {problem.name}, {best.label} ends at an error of "
    f"{_percent(best.median)} % where equal weights end at "
    f"{_percent(equal.median)} %"
  )
  if factor > 1.5:
    return (
      f"{start}: {factor:.3g} times less in as many steps, each of "
      f"{best.time:.2f} times the time. Here the choice decides."
    )
  return f"{start}: here the choice decides little."


def notes(problem: Problem, settings: Settings) -> list[str]:
  """What a reader of the table has to know."""
  lines = [
    "Equal time: the error when equal weights have done all their steps; a "
    "cheaper method has done more of them, a dearer one fewer.",
    f"{SWEEP}: the best of {len(SWEEP_FACTORS)} factors on the conditions' "
    "losses, chosen by the errors shown here, which flatters it.",
  ]
  if problem.scaled:
    lines.append(f"Against the published setting: {problem.scaled}.")
  return lines


def focus(rows: Mapping[str, Row]) -> list[str]:
  """The labels that a picture shows in colour: equal weights, and the best."""
  first = [label for label in (EQUAL, SWEEP) if label in rows]
  others = [label for label in rows if label not in (EQUAL, SWEEP, MUON)]
  others.sort(key=lambda label: rows[label].median)
  return [*first, *others[:4]]


def write(
  folder: pathlib.Path,
  problem: Problem,
  settings: Settings,
  runs: Runs,
) -> tuple[list[pathlib.Path], page.Section]:
  """Writes the pictures and the page.

  Args:
    folder: Where to.
    problem: What was trained.
    settings: How.
    runs: By label; equal weights are among them.

  Returns:
    The files, and what the page shows.
  """
  rows = summarize(runs, settings.steps)
  chosen = focus(rows)
  points = {label: row.point for label, row in rows.items()}
  figures = {
    "errors": pictures.errors(runs, points, settings.steps, chosen),
    "fields": pictures.fields(problem, runs, chosen),
    "weights": pictures.weights(problem, runs, points, chosen),
  }
  data = {
    "problem": problem.name,
    "steps": settings.steps,
    "seeds": settings.num_seeds,
    **output.made_with(),
    "rows": {label: dataclasses.asdict(row) for label, row in rows.items()},
  }
  name = f"pinn_{problem.name}"
  paths = output.write(
    folder,
    name,
    data,
    {f"{name}_{key}": figure for key, figure in figures.items()},
  )
  section = page.Section(
    title=f"optax_mtl on {problem.name}",
    sentence=sentence(problem, rows),
    settings=f"{settings.steps} steps, {settings.num_seeds} seeds, "
    f"on {data['device']}",
    head=_HEADER,
    rows=[_cells(row) for row in rows.values()],
    notes=notes(problem, settings),
    pictures={
      caption: folder / f"{name}_{key}.png"
      for key, caption in _CAPTIONS.items()
    },
  )
  html = folder / f"{name}.html"
  html.write_text(page.render([section], data["versions"]), encoding="utf-8")
  return [*paths, html], section


def as_data(run: Run) -> dict[str, Any]:
  """A run as what JSON has."""
  return output.plain(dataclasses.asdict(run))


def from_data(data: Mapping[str, Any]) -> Run:
  """The run that `as_data` made that of."""
  arrays = {
    key: np.asarray(value) if isinstance(value, list) else value
    for key, value in data.items()
  }
  arrays["scalars"] = {
    key: np.asarray(value) for key, value in data["scalars"].items()
  }
  return Run(**arrays)
