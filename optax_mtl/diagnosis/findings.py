"""What a diagnosis found: as arrays, as a plain dict, and as text."""

import dataclasses
import functools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from optax_mtl.diagnosis.advice import Advice
from optax_mtl.diagnosis.costs import Cost
from optax_mtl.diagnosis.gradients import Leaf
from optax_mtl.diagnosis.statistics import Statistics

#: So many leaves are shown as text, the longest gradients first; `as_dict` has
#: all of them.
_SHOWN = 12
#: Columns of text, as in a terminal.
_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Table:
  """A table to show.

  Attributes:
    title: Above it.
    columns: Their heads; the first is of words, the others of numbers.
    rows: Text, one for each column.
    note: Below it, or nothing.
  """

  title: str
  columns: tuple[str, ...]
  rows: list[tuple[str, ...]]
  note: str = ""


def _number(value: float) -> str:
  return "–" if np.isnan(value) else f"{value:.3g}"


def _plain(value: Any) -> Any:
  """Arrays as lists, dataclasses as dicts, NaN as None: what JSON can hold."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {
      field.name: _plain(getattr(value, field.name))
      for field in dataclasses.fields(value)
    }
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, list | tuple):
    return [_plain(entry) for entry in value]
  if isinstance(value, float) and np.isnan(value):
    return None
  return value


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """What `diagnose` found, of N batches and T tasks.

  `print` shows it as text, `rich.print` as tables, `plot.diagnosis` draws it,
  and `as_dict` is for JSON and loggers.

  Attributes:
    names: The tasks' names, in the order of everything below.
    losses: [N, T]; NaN for a task that is absent.
    statistics: Norms, signal and noise, cosines, on the trunk.
    leaves: One for each leaf of the params.
    costs: One for each source, the summed loss first; empty without `costs`.
    advice: What follows.
  """

  names: tuple[str, ...]
  losses: np.ndarray
  statistics: Statistics
  leaves: tuple[Leaf, ...]
  costs: tuple[Cost, ...]
  advice: tuple[Advice, ...]

  def as_dict(self) -> dict[str, Any]:
    """Dicts, lists, numbers and text, for JSON: NaN is None."""
    return _plain(self)

  def tables(self) -> list[Table]:
    """What is shown."""
    return [
      self._tasks(),
      self._cosines(),
      self._leaves(),
      *([self._costs()] if self.costs else []),
    ]

  def _tasks(self) -> Table:
    statistics = self.statistics
    norms = statistics.norms
    with np.errstate(invalid="ignore", divide="ignore"):
      ratio = statistics.signal / statistics.noise
    rows = [
      (
        name,
        _number(_mean(self.losses[:, task])),
        _number(_mean(norms[:, task])),
        _number(statistics.noise[task]),
        _number(ratio[task]),
      )
      for task, name in enumerate(self.names)
    ]
    batches = len(self.losses)
    return Table(
      f"Tasks, {batches} {'batch' if batches == 1 else 'batches'}",
      ("task", "loss", "gradient", "noise", "signal / noise"),
      rows,
      f"Alignment {_number(_mean(statistics.alignment))}, "
      f"{100 * statistics.conflict_rate:.0f} % of pairs below zero.",
    )

  def _cosines(self) -> Table:
    mean, error = self.statistics.mean_cosines, self.statistics.cosine_errors

    def cell(i: int, j: int) -> str:
      if np.isnan(mean[i, j]):
        return "–"
      spread = "" if np.isnan(error[i, j]) else f" ± {error[i, j]:.2f}"
      return f"{mean[i, j]:+.2f}{spread}"

    rows = [
      (name, *(cell(i, j) if j < i else "" for j in range(len(self.names) - 1)))
      for i, name in enumerate(self.names)
    ]
    return Table(
      "Cosines on the trunk",
      ("", *self.names[:-1]),
      rows[1:],
      "Mean over the batches and its standard error.",
    )

  def _leaves(self) -> Table:
    ordered = sorted(self.leaves, key=lambda leaf: -float(leaf.norms.max()))
    everyone = set(self.names)

    def readers(leaf: Leaf) -> str:
      if not leaf.tasks:
        return "none"
      if set(leaf.tasks) == everyone:
        return "all"
      return ", ".join(leaf.tasks)

    rows = [
      (
        leaf.name,
        f"{leaf.size:,}",
        readers(leaf),
        "yes" if leaf.in_trunk else "no",
        _number(float(np.sqrt(np.sum(leaf.norms**2)))),
      )
      for leaf in ordered[:_SHOWN]
    ]
    hidden = len(ordered) - len(rows)
    return Table(
      "Leaves",
      ("leaf", "size", "gradients of", "trunk", "norm"),
      rows,
      f"{hidden} leaves with shorter gradients are not shown."
      if hidden
      else "",
    )

  def _costs(self) -> Table:
    def megabytes(size: int | None) -> str:
      return "–" if size is None else f"{size / 2**20:.3g}"

    rows = [
      (
        cost.source,
        f"{1e3 * cost.seconds:.3g}",
        f"{cost.times_plain:.2f}",
        megabytes(cost.temporary_bytes),
        f"{cost.compile_seconds:.2g}",
      )
      for cost in self.costs
    ]
    return Table(
      "An update with mgda",
      ("source", "ms", "× summed", "temporary MiB", "compiling, s"),
      rows,
    )

  def __str__(self) -> str:
    """The tables and the advice, as plain text."""
    parts = [_as_text(table) for table in self.tables()]
    parts += [_advice_text(advice) for advice in self.advice]
    return "\n\n".join(parts)

  def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
    """How rich shows it."""
    # rich asks for this, so it is there.
    from rich.markup import escape
    from rich.table import Table as RichTable

    del console, options
    for table in self.tables():
      shown = RichTable(title=table.title, caption=table.note or None)
      for index, column in enumerate(table.columns):
        shown.add_column(escape(column), justify="right" if index else "left")
      for row in table.rows:
        shown.add_row(*map(escape, row))
      yield shown
    for advice in self.advice:
      yield escape(_advice_text(advice))


def _mean(values: np.ndarray) -> float:
  """Of those that are numbers; NaN if none is."""
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else float("nan")


def _advice_text(advice: Advice) -> str:
  fill = functools.partial(
    textwrap.fill, width=_WIDTH, subsequent_indent="  ", break_on_hyphens=False
  )
  parts = [fill(f"{advice.symptom} {advice.evidence}")]
  if advice.methods:
    parts.append(
      fill(f"Try: {', '.join(advice.methods)}.", initial_indent="  ")
    )
  parts.append(fill(advice.remark, initial_indent="  "))
  return "\n".join(parts)


def _as_text(table: Table) -> str:
  lines: Sequence[tuple[str, ...]] = [table.columns, *table.rows]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [
    "  ".join(
      cell.rjust(width) if index else cell.ljust(width)
      for index, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  ]
  return "\n".join([table.title, *text, *([table.note] if table.note else [])])
