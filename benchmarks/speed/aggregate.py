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
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.common import timing

_NAMES = (
  "equal_weighting fixed_weighting mgda pcgrad cagrad upgrad dual_proj "
  "nash_mtl fairgrad imtl_g aligned_mtl config"
).split()
_FAMILIES = ["iid", "conflicting", "scaled"]
_TREES = ["mlp", "cnn", "transformer"]
_INSTALL = (
  "TorchJD is not installed: only ours and the floor are measured. To have it "
  "beside, install torch (a CPU build, from the index that PyTorch's own "
  "instructions name: pip install torch --index-url ...), then the extra of "
  "this project that holds the peers: pip install -e '.[bench,peers]'."
)
#: Up to this many entries several matrices are run through in turn, as in
#: training, where no step's matrix is the last one's.
_TURNS_UP_TO = 1 << 18
_TURNS = 4


def _numbers(text: str) -> list[int]:
  return [int(float(word)) for word in text.split(",")]


def _words(text: str) -> list[str]:
  return [word.strip() for word in text.split(",") if word.strip()]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed.aggregate",
    description=__doc__,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add = parser.add_argument
  add("--methods", type=_words, default=",".join(_NAMES), help="of these")
  add("--tasks", type=_numbers, default="2,3,10,40,128", help="T")
  add("--params", type=_numbers, default="64,1e4,1e5,1e6,1e7", help="P")
  add("--families", type=_words, default=",".join(_FAMILIES))
  add(
    "--trees",
    type=_words,
    default=",".join(_TREES),
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
  add("--out", type=pathlib.Path, default=pathlib.Path("out/aggregate"))
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
  known = {"methods": _NAMES, "families": _FAMILIES, "trees": _TREES}
  for name, names in known.items():
    if unknown := set(getattr(args, name)) - set(names):
      parser.error(f"unknown {name} {sorted(unknown)}; there are {names}")
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
    import numpy as np

    from benchmarks.common import trees

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
      matrices = [
        trees.FAMILIES[family](rng, num_tasks, num_params) for _ in range(turns)
      ]
      yield from self._family(keys, matrices, shapes, family, tree)

  def _family(self, keys, matrices, shapes, family, tree):
    from benchmarks.accuracy.judge import Problem

    problem = Problem(matrices[0])
    floor = timing.memory_floor(matrices[0])
    for name, key in keys.items():
      if key not in self.cells:
        cell = self._cell(name, matrices, shapes, family, problem, floor)
        self.cells[key] = {"tree": tree, "leaves": len(shapes), **cell}
      yield

  def _cell(self, name, matrices, shapes, family, problem, floor):
    from benchmarks.common import contenders

    method = contenders.METHODS[name]
    num_tasks, num_params = matrices[0].shape
    ours = contenders.Ours(name, matrices, shapes, self._jitted)
    contenders = {
      "ours": ours,
      "floor": floor,
      "empty": timing.empty_call(ours.update, *ours.args),
    }
    theirs, known = None, self._known.setdefault((name, num_tasks, family), [])
    expected = _expected(known, num_params)
    if self.with_peer and expected <= self.args.peer_limit:
      theirs = contenders.Theirs(name, matrices)
      contenders["theirs"] = theirs
    timings = timing.interleave(
      contenders, repeats=self.args.repeats, seconds=self.args.seconds
    )
    cell = {
      "method": name,
      "tasks": num_tasks,
      "params": num_params,
      "family": family,
      "compile_seconds": ours.compile_seconds,
      **{side: timing.as_json() for side, timing in timings.items()},
      "error_kind": method.kind,
      "error_ours": method.error(problem, ours.answer()),
      "descent": problem.descent,
    }
    if theirs is not None:
      known.append((num_params, timings["theirs"].median))
      cell["error_theirs"] = method.error(problem, theirs.answer())
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


def _write(path: pathlib.Path, data: dict[str, Any]) -> None:
  """In one piece, whenever the run is stopped."""
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(data, indent=1))
  partial.replace(path)


def run(args: argparse.Namespace, console: Any) -> dict[str, Any]:
  """Measures; returns and writes everything as plain numbers."""
  from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
  )

  from benchmarks.common import contenders

  start = time.monotonic()
  peer = contenders.peer_version(args.threads)
  if peer is None:
    console.print(_INSTALL, style="yellow", highlight=False, markup=False)
  contenders.ready()
  machine = timing.machine()
  load = machine.pop("load_at_start")
  settings = {
    "machine": machine,
    "peer": peer,
    "threads": args.threads,
    "repeats": args.repeats,
    "seconds": args.seconds,
  }
  path = args.out / "aggregate.json"
  args.out.mkdir(parents=True, exist_ok=True)
  benchmark = _Benchmark(args, peer is not None)
  if not args.fresh:
    benchmark.cells = _load(path, settings)
  data = {"settings": settings, "load_at_start": load, "complete": False}
  data["cells"] = benchmark.cells
  groups = list(_groups(args))
  progress = Progress(
    TextColumn("{task.description:<28}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    console=console,
  )
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
        _write(path, data)
      data["complete"] = True
  except KeyboardInterrupt:
    console.print(f"[yellow]Stopped after {len(data['cells'])} of {total}.")
  except TimeoutError:
    console.print(
      f"[yellow]{args.minutes:g} minutes are over with "
      f"{len(data['cells'])} of {total} cases; the same command goes on."
    )
  _write(path, data)
  return data


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  args = parse_args(sys.argv[1:] if argv is None else argv)
  from rich.console import Console

  from benchmarks.speed import aggregate_report

  console = Console()
  if not console.is_terminal:
    console.width = 120
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
  picture = args.out / "aggregate.png"
  aggregate_report.figure(cells, data["settings"]).savefig(picture, dpi=120)
  console.print(f"Wrote {args.out / 'aggregate.json'}, {picture}")
  return 0


if __name__ == "__main__":
  timing.restart_with_threads(
    parse_args(sys.argv[1:]).threads, "benchmarks.speed.aggregate", sys.argv[1:]
  )
  sys.exit(main())
