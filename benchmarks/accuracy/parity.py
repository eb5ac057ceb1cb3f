"""What a comparison with a peer prints, and when it fails.

Either side of a comparison has an error against a float64 reference, and the
two differ from each other: a `Cell`. What is off by more than its rounding has
to be a `Known` one, with a sentence that says why; a command fails on any other
difference.
"""

import argparse
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from benchmarks.common import output

#: Rounding, relative: float32's 1.2e-7, times a hundred for gradients that
#: cancel tenfold, of whose squares the Gram matrix keeps a hundredth; and some.
ROUNDING = 2e-5

Side = Literal["ours", "theirs", "both"]


@dataclasses.dataclass(frozen=True)
class Cell:
  """Both sides on one kind of input.

  Attributes:
    row: The method.
    where: The kind of input.
    tasks: How many.
    ours: Our relative error against the reference, the worst over the steps.
    theirs: The peer's.
    difference: Between the two, relative to the longer one.
    as_known: The peer's error against the reference with the peer's known
      fault in it; NaN where that is not at hand.
  """

  row: str
  where: str
  tasks: int
  ours: float
  theirs: float
  difference: float
  as_known: float = math.nan

  def off(self) -> set[str]:
    """The sides that are off by more than rounding.

    Two that are not differ by no more than the sum of their errors.
    """
    sides = {
      side
      for side, error in (("ours", self.ours), ("theirs", self.theirs))
      if not error <= ROUNDING
    }
    if not sides and not self.difference <= 2 * ROUNDING:
      raise ValueError(f"{self}: the difference of two small errors is small.")
    return sides


@dataclasses.dataclass(frozen=True)
class Known:
  """A difference that is understood.

  Attributes:
    rows: The methods that have it.
    side: Who is off.
    why: A sentence, which the docs repeat.
    where: The kinds of input it shows on; empty: any.
    at_most: The largest error that it explains.
    proved: How near the peer is to the reference with this fault in it, where
      there is such a one: it explains no more than the fault.
  """

  rows: tuple[str, ...]
  side: Side
  why: str
  where: tuple[str, ...] = ()
  at_most: float = math.inf
  proved: float | None = None

  def covers(self, cell: Cell, side: str) -> bool:
    """Whether it explains that this side is off there."""
    error = cell.ours if side == "ours" else cell.theirs
    return (
      self.about(cell)
      and self.side in (side, "both")
      and error <= self.at_most
      and (self.proved is None or cell.as_known <= self.proved)
    )

  def about(self, cell: Cell) -> bool:
    """Whether it speaks of this method and this kind of input."""
    return cell.row in self.rows and (
      not self.where or cell.where in self.where
    )


def cell(
  row: str,
  where: str,
  *,
  ours: np.ndarray,
  theirs: np.ndarray,
  right: np.ndarray,
  as_known: np.ndarray | None = None,
) -> Cell:
  """Compares vectors [steps, N]; the worst step counts.

  Args:
    row: The method.
    where: The kind of input.
    ours: Of our side.
    theirs: Of the peer.
    right: Of the reference, in float64.
    as_known: Of the reference with the peer's known fault in it.

  Returns:
    The cell, with N tasks unless it is replaced. What is not finite is off by
    infinity.
  """
  own, peer, right = (np.asarray(x, np.float64) for x in (ours, theirs, right))
  if not own.shape == peer.shape == right.shape:
    raise ValueError(f"{row}: {own.shape}, {peer.shape}, {right.shape}")
  longer = np.maximum(_length(own), _length(peer))
  return Cell(
    row,
    where,
    right.shape[-1],
    _worst(own - right, _length(right)),
    _worst(peer - right, _length(right)),
    _worst(own - peer, longer),
    math.nan
    if as_known is None
    else _worst(peer - as_known, np.maximum(_length(peer), _length(as_known))),
  )


def _length(vectors: np.ndarray) -> np.ndarray:
  return np.linalg.norm(vectors, axis=-1)


def _worst(apart: np.ndarray, size: np.ndarray) -> float:
  """The largest `|apart| / size` of the steps; of nothing, 0."""
  length = _length(apart)
  with np.errstate(invalid="ignore", divide="ignore"):
    ratio = np.where(length == 0, 0.0, length / size)
  return float(np.max(np.where(np.isnan(ratio), np.inf, ratio)))


@dataclasses.dataclass(frozen=True)
class Report:
  """Cells, and what is known of them.

  Attributes:
    peer: The peer's name, and its version.
    cells: In the order of the rows.
    known: All that is known.
  """

  peer: tuple[str, str]
  cells: Sequence[Cell]
  known: Sequence[Known]

  def seen(self) -> list[Known]:
    """Those of the known differences that show in these cells."""
    return [
      known
      for known in self.known
      if any(known.covers(c, side) for c in self.cells for side in c.off())
    ]

  def not_seen(self) -> list[Known]:
    """Those that could have shown, and did not: the peer may have mended them.

    Where fewer tasks or steps were run than usual, that may be why.
    """
    seen = self.seen()
    return [
      known
      for known in self.known
      if known not in seen and any(known.about(c) for c in self.cells)
    ]

  def unexplained(self) -> list[tuple[Cell, str]]:
    """Cells, and the side that is off there for no known reason."""
    return [
      (c, side)
      for c in self.cells
      for side in sorted(c.off())
      if not any(known.covers(c, side) for known in self.known)
    ]

  def summary(self) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table: a line for each method.

    The last column is the largest difference over the cells in which neither
    side is off.
    """
    head = ["method", "optax_mtl", self.peer[0], "difference", "elsewhere"]
    body = []
    for row in dict.fromkeys(c.row for c in self.cells):
      cells = [c for c in self.cells if c.row == row]
      plain = [c.difference for c in cells if not c.off()]
      body.append(
        [
          row,
          _number(max(c.ours for c in cells)),
          _number(max(c.theirs for c in cells)),
          _number(max(c.difference for c in cells)),
          _number(max(plain)) if plain else "–",
        ]
      )
    return head, body

  def details(self) -> tuple[list[str], list[list[str]]]:
    """Head and body of the wide table: errors of both by kind of input."""
    columns = list(dict.fromkeys(c.where for c in self.cells))
    lines: dict[tuple[str, int], dict[str, str]] = {}
    for c in self.cells:
      line = lines.setdefault((c.row, c.tasks), {})
      line[c.where] = f"{_number(c.ours)} / {_number(c.theirs)}"
    body = [
      [row, str(tasks), *(line.get(column, "") for column in columns)]
      for (row, tasks), line in lines.items()
    ]
    return ["method", "T", *columns], body

  def sentences(self) -> list[str]:
    """What is known and shows, a sentence each after whom it is about."""
    return [self._sentence(known) for known in self.seen()]

  def _sentence(self, known: Known) -> str:
    sides = {
      "ours": "optax_mtl",
      "theirs": self.peer[0],
      "both": "both sides",
    }
    return f"{', '.join(known.rows)} ({sides[known.side]}): {known.why}"

  def status(self) -> int:
    """The exit status: 1 where something differs for no known reason."""
    return int(bool(self.unexplained()))

  def show(self, *, markdown: bool = False, details: bool = False) -> int:
    """Prints all of it, as a page has it or for the terminal.

    Args:
      markdown: For a page.
      details: Whether with the wide table.

    Returns:
      The exit status.
    """
    tables = [("Relative error and difference, the largest", self.summary())]
    if details:
      tables.append(
        ("Relative error, optax_mtl / " + self.peer[0], self.details())
      )
    console = output.new_console(200)
    name = " ".join(self.peer)
    print(name) if markdown else console.print(name)
    for title, (head, body) in tables:
      if markdown:
        print(f"\n{output.markdown(head, body)}")
        continue
      table = output.new_table(title, head, left=1)
      for line in body:
        table.add_row(*line)
      console.print(table)
    print()
    for sentence in self.sentences():
      print(f"- {sentence}" if markdown else f"* {sentence}")
    for known in self.not_seen():
      print(f"Known, and not seen here: {self._sentence(known)}")
    for c, side in self.unexplained():
      error = c.ours if side == "ours" else c.theirs
      who = "optax_mtl" if side == "ours" else self.peer[0]
      print(
        f"NOT EXPLAINED: {c.row}, {c.where}, {c.tasks} tasks: {who} is off by "
        f"{error:.1e}."
      )
    return self.status()

  def write(self, path: pathlib.Path) -> None:
    """Writes the cells as JSON."""
    rows = [dataclasses.asdict(c) for c in self.cells]
    path.write_text(json.dumps({"peer": self.peer, "cells": rows}, indent=1))


def _number(value: float) -> str:
  return f"{value:.0e}"


def add_options(
  parser: argparse.ArgumentParser, rows: Iterable[str]
) -> argparse.ArgumentParser:
  """The options of such a command."""
  names = list(rows)
  parser.add_argument(
    "--methods", nargs="+", choices=names, default=names, metavar="NAME"
  )
  parser.add_argument("--details", action="store_true", help="by kind of input")
  parser.add_argument("--markdown", action="store_true", help="for a page")
  parser.add_argument("--json", type=pathlib.Path, help="write the cells here")
  return parser


def finish(report: Report, args: argparse.Namespace) -> int:
  """Shows and writes what the options of `add_options` ask for."""
  if args.json:
    report.write(args.json)
  return report.show(markdown=args.markdown, details=args.details)
