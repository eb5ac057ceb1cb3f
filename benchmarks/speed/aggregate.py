"""Ours against TorchJD: `python -m benchmarks.speed.aggregate --help`.

For every method that both have: the median time of each on the same float32
matrices and the same number of threads, in turn in one process; the error of
each against a float64 solution; and the floor, the time to read the matrix
twice and write the result once, measured in between. Ours is timed as users
meet it, `jax.jit(tx.update)` on a pytree with the leaves of a network, and the
compile time is reported apart; theirs gets the flat matrix. Prints tables;
writes a picture, and JSON as it goes, from which a stopped run goes on.
"""

import argparse
import json
import pathlib
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks.accuracy import judge
from benchmarks.common import (
  contenders,
  matrices,
  options,
  output,
  timing,
  trees,
)
from benchmarks.speed import aggregate_report

#: Up to this many entries several matrices are run through in turn, as in
#: training, where no step's matrix is the last one's.
_TURNS_UP_TO = 1 << 18
_TURNS = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  known = {
    "methods": list(contenders.METHODS),
    "families": list(matrices.TIMED),
    "trees": list(trees.TREES),
  }
  default = {name: ",".join(names) for name, names in known.items()}
  words, numbers = options.words, options.numbers
  parser = options.new_parser("speed.aggregate", __doc__)
  add = parser.add_argument
  add("--methods", type=words, default=default["methods"], help="of these")
  add("--tasks", type=numbers, default="2,3,10,40,128", help="T")
  add("--params", type=numbers, default="64,1e4,1e5,1e6,1e7", help="P")
  add("--families", type=words, default=default["families"], help="of matrices")
  add(
    "--trees",
    type=words,
    default=default["trees"],
    help="whose leaves; taken in turn over the sizes",
  )
  add(
    "--threads",
    type=int,
    default=1,
    help="of either side; more than one is sensible on an idle machine only",
  )
  add("--repeats", type=int, default=15, help="timed blocks of each side")
  add("--seconds", type=float, default=0.15, help="a side's time per case")
  add("--max-gib", type=float, default=0.6, help="leave out larger matrices")
  add(
    "--peer-limit",
    type=float,
    default=6.0,
    help="leave out a peer's call that would take more seconds, judging by "
    "those of smaller sizes",
  )
  add("--minutes", type=float, default=14.0, help="start no case after that")
  add("--quick", action="store_true", help="fewer sizes; under two minutes")
  add("--fresh", action="store_true", help="do not go on with an earlier run")
  options.add_out(parser, "aggregate")
  args = parser.parse_args(argv)
  if args.quick:
    given = {word.split("=")[0] for word in argv or ()}
    quick = {
      "tasks": [3, 40],
      "params": [64, 100_000],
      "families": ["conflicting"],
      "minutes": 1.8,
    }
    for name, value in quick.items():
      if f"--{name}" not in given:
        setattr(args, name, value)
  for name, names in known.items():
    options.check_known(parser, name, getattr(args, name), names)
  if min(args.tasks) < 2 or min(args.params) < 32:
    parser.error("--tasks starts at 2, --params at 32")
  if args.threads < 1 or args.threads > timing.available_cores():
    parser.error(
      f"--threads must lie between 1 and {timing.available_cores()}, the "
      "cores that this process may use"
    )
  return args


def _groups(args: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
  """`(T, P, tree)`, smaller sizes first: peers' times are extrapolated."""
  for row, num_params in enumerate(sorted(args.params)):
    for column, num_tasks in enumerate(sorted(args.tasks)):
      if 4 * num_tasks * num_params <= args.max_gib * 2**30:
        tree = args.trees[(row + column) % len(args.trees)]
        yield num_tasks, num_params, tree


def _expected(known: list[tuple[int, float]], num_params: int) -> float:
  """A peer's seconds at a size, on the line through its last two."""
  if len(known) < 2:
    return 0.0
  (p0, t0), (p1, t1) = known[-2:]
  return t1 + max(0.0, t1 - t0) / max(1, p1 - p0) * (num_params - p1)


class _Benchmark:
  """Runs the cases and keeps what is measured."""

  def __init__(self, args: argparse.Namespace, with_peer: bool):
    """Starts with no case."""
    self.args = args
    self.with_peer = with_peer
    self.cells: dict[str, dict[str, Any]] = {}
    self._jitted: dict[Any, Any] = {}
    self._known: dict[Any, list[tuple[int, float]]] = {}

  def group(self, num_tasks: int, num_params: int, tree: str) -> Iterator[None]:
    """Every family and method at one size; yields after each case."""
    self._jitted.clear()
    shapes = trees.tree_shapes(tree, num_params)
    turns = _TURNS if num_tasks * num_params <= _TURNS_UP_TO else 1
    for family in self.args.families:
      keys = {
        name: f"{name} T={num_tasks} P={num_params} {family}"
        for name in self.args.methods
      }
      if all(key in self.cells for key in keys.values()):
        for _ in keys:
          yield
        continue
      seed = zlib.crc32(f"{family} {num_tasks} {num_params}".encode())
      rng = np.random.default_rng(seed)
      given = [
        matrices.TIMED[family](rng, num_tasks, num_params, np.float32)
        for _ in range(turns)
      ]
      yield from self._family(keys, given, shapes, family, tree)

  def _family(
    self,
    keys: dict[str, str],
    given: list[np.ndarray],
    shapes: trees.Shapes,
    family: str,
    tree: str,
  ) -> Iterator[None]:
    problem = judge.Problem(given[0])
    floor = timing.memory_floor(given[0])
    for name, key in keys.items():
      if key not in self.cells:
        cell = self._cell(name, given, shapes, family, problem, floor)
        self.cells[key] = {"tree": tree, "leaves": len(shapes), **cell}
      yield

  def _cell(
    self,
    name: str,
    given: list[np.ndarray],
    shapes: trees.Shapes,
    family: str,
    problem: judge.Problem,
    floor: Callable[[], None],
  ) -> dict[str, Any]:
    num_tasks, num_params = given[0].shape
    ours = contenders.Ours(name, given, shapes, self._jitted)
    runs: dict[str, Callable[[], Any]] = {
      "ours": ours,
      "floor": floor,
      "empty": timing.empty_call(ours.update, *ours.args),
    }
    theirs, known = None, self._known.setdefault((name, num_tasks, family), [])
    expected = _expected(known, num_params)
    if self.with_peer and expected <= self.args.peer_limit:
      theirs = contenders.Theirs(name, given)
      runs["theirs"] = theirs
    timings = timing.interleave(
      runs, repeats=self.args.repeats, seconds=self.args.seconds
    )
    cell: dict[str, Any] = {
      "method": name,
      "tasks": num_tasks,
      "params": num_params,
      "family": family,
      "compile_seconds": ours.compile_seconds,
      **{side: seconds.as_json() for side, seconds in timings.items()},
      "error_kind": judge.KINDS[name],
      "error_ours": judge.error(name, problem, ours.answer()),
      "descent": problem.descent,
    }
    if theirs is not None:
      known.append((num_params, timings["theirs"].median))
      cell["error_theirs"] = judge.error(name, problem, theirs.answer())
      cell["first_seconds_theirs"] = theirs.first_seconds
    elif self.with_peer:
      cell["left_out"] = f"theirs would take some {expected:.0f} s"
    return cell


def _load(path: pathlib.Path, settings: dict[str, Any]) -> dict[str, Any]:
  """The cases of an earlier run with the same settings."""
  try:
    earlier = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return earlier["cells"] if earlier.get("settings") == settings else {}


def run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
  """Measures; returns and writes everything as plain numbers."""
  start = time.monotonic()
  peer = contenders.peer_version(args.threads)
  if peer is None:
    console.print(contenders.INSTALL, style="yellow", markup=False)
  # Starts the backend, so that no method pays for it.
  jnp.zeros(()).block_until_ready()
  machine = timing.machine()
  load = machine.pop("load_at_start")
  settings = {
    "machine": machine,
    "peer": peer,
    "threads": args.threads,
    "repeats": args.repeats,
    "seconds": args.seconds,
  }
  benchmark = _Benchmark(args, peer is not None)
  if not args.fresh:
    benchmark.cells = _load(args.out / "aggregate.json", settings)
  data: dict[str, Any] = {
    "settings": settings,
    "load_at_start": load,
    "complete": False,
    "cells": benchmark.cells,
  }
  groups = list(_groups(args))
  progress = output.new_progress(console)
  total = len(groups) * len(args.families) * len(args.methods)
  try:
    with progress:
      bar = progress.add_task("", total=total)
      for group in groups:
        progress.update(bar, description="T={} P={} {}".format(*group))
        for _ in benchmark.group(*group):
          progress.advance(bar)
          if time.monotonic() - start > 60 * args.minutes:
            raise TimeoutError
        output.write(args.out, "aggregate", data)
      data["complete"] = True
  except KeyboardInterrupt:
    console.print(f"[yellow]Stopped after {len(data['cells'])} of {total}.")
  except TimeoutError:
    console.print(
      f"[yellow]{args.minutes:g} minutes are over with "
      f"{len(data['cells'])} of {total} cases; the same command goes on."
    )
  output.write(args.out, "aggregate", data)
  return data


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  args = parse_args(sys.argv[1:] if argv is None else argv)
  console = output.new_console()
  data = run(args, console)
  if not data["cells"]:
    console.print("Nothing was measured.")
    return 130
  chosen = set(args.methods), set(args.tasks), set(args.params)
  cells = [
    cell
    for cell in data["cells"].values()
    if cell["method"] in chosen[0]
    and cell["tasks"] in chosen[1]
    and cell["params"] in chosen[2]
    and cell["family"] in args.families
  ]
  aggregate_report.show(console, cells, data["settings"])
  figure = aggregate_report.figure(cells, data["settings"])
  output.say_wrote(
    output.write(args.out, "aggregate", data, {"aggregate": figure})
  )
  return 0


if __name__ == "__main__":
  timing.restart_with_threads(
    parse_args(sys.argv[1:]).threads, "benchmarks.speed.aggregate", sys.argv[1:]
  )
  sys.exit(main())
