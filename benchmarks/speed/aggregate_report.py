"""Tables, targets and the picture of `benchmarks.aggregate`."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.common.output import new_table
from benchmarks.common.pictures import draw, legend_beside, panels

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Cell = dict[str, Any]

#: Errors below this are a few roundings of float32, and their order is chance.
ROUNDING = 2e-6
_SMALL = 64
_LARGE = 100_000


def small_target(method: str, num_tasks: int) -> float:
  """How many times faster than TorchJD ours is meant to be at P = 64."""
  if method == "mgda":
    return 100.0 if num_tasks <= 10 else 20.0 if num_tasks <= 40 else 1.0
  return {"nash_mtl": 1000.0, "cagrad": 100.0}.get(method, 10.0)


def ratio(cell: Cell, statistic: str = "median") -> float:
  """TorchJD's time over ours; NaN without TorchJD."""
  if "theirs" not in cell:
    return math.nan
  return cell["theirs"][statistic] / cell["ours"][statistic]


def over_floor(cell: Cell, statistic: str = "median") -> float:
  """Our time over the memory's floor."""
  return cell["ours"][statistic] / cell["floor"][statistic]


def judge(cell: Cell, statistic: str = "median") -> dict[str, str]:
  """Target -> "met", "missed", or why it says nothing here.

  Args:
    cell: One case.
    statistic: "median", "least" or "cpu".

  Returns:
    For the targets that apply: "speed", never slower than TorchJD; "floor",
    within twice the floor from 1e5 parameters up; "small", so many times faster
    at P = 64; "error", never larger than TorchJD's, "rounding" where ours is a
    few roundings of float32. "no room" is where an empty call on the same tree
    takes too long already.
  """
  verdicts = {}
  if cell["params"] >= _LARGE:
    met = over_floor(cell, statistic) <= 2
    verdicts["floor"] = "met" if met else "missed"
  if "theirs" not in cell:
    return verdicts
  targets = {"speed": 1.0}
  if cell["params"] == _SMALL:
    targets["small"] = small_target(cell["method"], cell["tasks"])
  for name, target in targets.items():
    met = ratio(cell, statistic) >= target
    room = cell["theirs"][statistic] / cell["empty"][statistic] >= target
    verdicts[name] = "met" if met else "missed" if room else "no room"
  ours, theirs = cell["error_ours"], cell["error_theirs"]
  if math.isnan(ours) or math.isnan(theirs):
    verdicts["error"] = "no solution"
  elif ours <= theirs:
    verdicts["error"] = "met"
  else:
    verdicts["error"] = "rounding" if ours <= ROUNDING else "missed"
  return verdicts


def _median(values: Sequence[float]) -> float:
  values = [value for value in values if not math.isnan(value)]
  return statistics.median(values) if values else math.nan


def _figures(value: float) -> str:
  """Two significant digits, without an exponent up to a million."""
  if math.isnan(value):
    return "–"
  if value >= 100:
    return f"{value:.0f}"
  return f"{value:.2g}" if value < 10 else f"{value:.1f}"


def _sizes(cells: Sequence[Cell], key: str) -> list[int]:
  return sorted({cell[key] for cell in cells})


def _methods(cells: Sequence[Cell]) -> list[str]:
  return list(dict.fromkeys(cell["method"] for cell in cells))


def _of(cells: Sequence[Cell], **wanted: Any) -> list[Cell]:
  return [c for c in cells if all(c[k] == v for k, v in wanted.items())]


def time_table(cells: Sequence[Cell], num_params: int) -> Table:
  """Methods against T at one size: our time, the ratio, the floor."""
  trees = sorted({c["tree"] for c in _of(cells, params=num_params)})
  tasks = _sizes(_of(cells, params=num_params), "tasks")
  table = new_table(
    f"P = {num_params:,}: our milliseconds, times faster than TorchJD, "
    f"multiple of the floor; medians over families ({', '.join(trees)})",
    ["method", *(f"T = {num_tasks}" for num_tasks in tasks)],
  )

  def cell(chosen: Sequence[Cell]) -> str:
    if not chosen:
      return "–"
    mine = 1e3 * _median([c["ours"]["median"] for c in chosen])
    faster = _median([ratio(c) for c in chosen])
    floors = _median([over_floor(c) for c in chosen])
    text = f"{_figures(mine)} {_figures(faster)}x"
    if num_params >= _LARGE:
      text += f" {_figures(floors)}f"
    missed = any("missed" in judge(c).values() for c in chosen)
    return f"[red]{text}[/red]" if missed else text

  for method in _methods(cells):
    rows = [
      _of(cells, method=method, params=num_params, tasks=t) for t in tasks
    ]
    table.add_row(method, *map(cell, rows))
  table.add_section()
  for key in ("empty", "floor"):
    times = [
      1e3
      * _median(
        [c[key]["median"] for c in _of(cells, params=num_params, tasks=t)]
      )
      for t in tasks
    ]
    label = {"empty": "(empty call, ms)", "floor": "(floor, ms)"}[key]
    table.add_row(label, *map(_figures, times))
  return table


def error_table(cells: Sequence[Cell]) -> Table:
  """Methods against families: the largest error of ours and of theirs."""
  families = list(dict.fromkeys(cell["family"] for cell in cells))
  table = new_table(
    "largest relative error over all sizes: ours / theirs",
    ["method", "error of", *families, "compile s"],
    left=2,
  )
  for method in _methods(cells):
    texts = []
    for family in families:
      chosen = _of(cells, method=method, family=family)
      both = [
        max(
          (c[k] for c in chosen if k in c and not math.isnan(c[k])),
          default=math.nan,
        )
        for k in ("error_ours", "error_theirs")
      ]
      texts.append(" / ".join(f"{x:.0e}" for x in both))
    mine = _of(cells, method=method)
    compile_seconds = statistics.median(c["compile_seconds"] for c in mine)
    table.add_row(
      method, mine[0]["error_kind"], *texts, f"{compile_seconds:.2f}"
    )
  return table


def verdict_table(cells: Sequence[Cell]) -> Table:
  """Targets against what became of them, by medians and by processor time."""
  words = ("met", "missed", "no room", "rounding", "no solution")
  table = new_table(
    "targets, by the median (by processor time)", ["target", *words]
  )
  labels = {
    "speed": "never slower than TorchJD",
    "floor": "within 2x of the floor, P >= 1e5",
    "small": "so many times faster, P = 64",
    "error": "error never larger",
  }
  for target, label in labels.items():
    texts = []
    for word in words:
      counts = [
        sum(judge(c, s).get(target) == word for c in cells)
        for s in ("median", "cpu")
      ]
      texts.append(f"{counts[0]} ({counts[1]})" if any(counts) else "")
    table.add_row(label, *texts)
  return table


def misses(cells: Sequence[Cell]) -> list[str]:
  """One line for every method and target that is missed somewhere."""
  found: dict[tuple[str, str], list[Cell]] = {}
  for cell in cells:
    for target, verdict in judge(cell).items():
      if verdict == "missed":
        found.setdefault((target, cell["method"]), []).append(cell)

  def badness(target: str, cell: Cell) -> float:
    if target == "floor":
      return over_floor(cell)
    if target == "error":
      return cell["error_ours"] / max(cell["error_theirs"], 1e-30)
    goal = 1.0
    if target == "small":
      goal = small_target(cell["method"], cell["tasks"])
    return goal / ratio(cell)

  lines = []
  for (target, method), chosen in sorted(found.items()):
    worst = max(chosen, key=lambda cell: badness(target, cell))
    value = {
      "speed": f"{ratio(worst):.2f}x as fast",
      "small": f"{ratio(worst):.1f}x of "
      f"{small_target(method, worst['tasks']):.0f}x",
      "floor": f"{over_floor(worst):.1f} times the floor",
      "error": f"{worst['error_ours']:.1e} against "
      f"{worst.get('error_theirs', math.nan):.1e}",
    }[target]
    lines.append(
      f"{target}: {method} misses {len(chosen)}; worst {value} at "
      f"T={worst['tasks']} P={worst['params']} {worst['family']}"
    )
  return lines


def show(
  console: Console, cells: Sequence[Cell], settings: dict[str, Any]
) -> None:
  """Prints everything."""
  for num_params in _sizes(cells, "params"):
    console.print(time_table(cells, num_params))
  console.print(error_table(cells))
  console.print(verdict_table(cells))
  console.print(*misses(cells), sep="\n")
  left_out = sum("left_out" in cell for cell in cells)
  if left_out:
    console.print(f"{left_out} of the peer's calls were left out: too long.")
  machine = settings["machine"]
  console.print(
    f"{machine['processor']}, {settings['threads']} thread(s), jax "
    f"{machine['jax']}, TorchJD {settings['peer'] or 'not installed'}"
  )


def figure(cells: Sequence[Cell], settings: dict[str, Any]) -> "Figure":
  """Against P, one column per T: times faster, and multiples of the floor."""
  tasks = _sizes(cells, "tasks")
  rows = [(over_floor, 2.0, "multiple of the floor")]
  if any("theirs" in cell for cell in cells):
    rows.insert(0, (ratio, 1.0, "times faster than TorchJD"))
  result, axes = panels(
    len(rows),
    [f"T = {num_tasks}" for num_tasks in tasks],
    width=3.2 * len(tasks) + 2.4,
    height=3.2 * len(rows),
  )
  for (value, level, title), line in zip(rows, axes, strict=True):
    line[0].set_ylabel(title)
    for num_tasks, ax in zip(tasks, line, strict=True):
      for index, method in enumerate(_methods(cells)):
        chosen = _of(cells, method=method, tasks=num_tasks)
        params = _sizes(chosen, "params")
        medians = [
          _median([value(c) for c in _of(chosen, params=p)]) for p in params
        ]
        draw(ax, index, params, medians, method)
      ax.axhline(level, color="#888888", linewidth=0.8)
  for ax in axes[-1]:
    ax.set_xlabel("parameters")
  legend_beside(result, axes[0, 0])
  result.suptitle(
    f"{settings['machine']['processor']}, {settings['threads']} thread(s)",
    fontsize="small",
  )
  return result
