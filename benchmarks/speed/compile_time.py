"""What a first call costs: `python -m benchmarks.speed.compile_time --help`.

Compile time is part of the user's wait. For every registered method the seconds
that tracing and compiling `jax.jit(tx.update)` take on a tree of 200 leaves,
and those of its first run. Prints a table and writes JSON.
"""

import argparse
import json
import math
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import optax_mtl
from benchmarks.common import timing
from benchmarks.common.output import new_table


def leaf_shapes(leaves: int) -> list[tuple[int, ...]]:
  """A deep network's: a matrix, a bias, a scale and an offset per layer."""
  layer = [(64, 64), (64,), (64,), (64,)]
  return [layer[index % 4] for index in range(leaves)]


def inputs(num_tasks: int, leaves: int) -> tuple[Any, Any]:
  """Stacked task gradients and params."""
  rng = np.random.default_rng(0)
  params, grads = {}, {}
  for index, shape in enumerate(leaf_shapes(leaves)):
    name = f"leaf_{index:03d}"
    params[name] = jnp.asarray(np.zeros(shape, np.float32))
    grads[name] = jnp.asarray(
      rng.standard_normal((num_tasks, *shape), dtype=np.float32)
    )
  return grads, params


def measure(name: str, num_tasks: int, grads: Any, params: Any) -> dict:
  """Seconds of one method's first call, by wall clock and by processor."""
  build = optax_mtl.METHODS[name]
  transformation = build(num_tasks, **build.info.example(range(num_tasks)))
  # Losses and preferences are positive, KPIs in (0, 1).
  half = np.full((num_tasks,), 0.5, np.float32)
  extra = {need: jnp.asarray(half) for need in build.info.needs}
  state = jax.block_until_ready(transformation.init(params))
  # Other methods share parts: none may profit from the one before.
  jax.clear_caches()

  marks = [(time.perf_counter(), time.process_time())]

  def mark():
    marks.append((time.perf_counter(), time.process_time()))

  function = jax.jit(transformation.update)
  lowered = function.lower(grads, state, params, **extra)
  mark()
  compiled = lowered.compile()
  mark()
  jax.block_until_ready(compiled(grads, state, params, **extra))
  mark()
  names = ("trace", "compile", "run")
  seconds = {
    part: {"wall": after[0] - before[0], "cpu": after[1] - before[1]}
    for part, before, after in zip(names, marks, marks[1:], strict=False)
  }
  seconds["first_call"] = {
    clock: math.fsum(seconds[part][clock] for part in names)
    for clock in ("wall", "cpu")
  }
  return {"method": name, "tasks": num_tasks, **seconds}


def table(rows: Sequence[dict], leaves: int, limit: float) -> Table:
  """One row per method and number of tasks."""
  result = new_table(
    f"seconds of the first call on {leaves} leaves; in brackets the "
    f"processor's; limit {limit:g}"
  )
  parts = ("trace", "compile", "run", "first_call")
  result.add_column("method", no_wrap=True)
  result.add_column("T", justify="right")
  for part in parts:
    result.add_column(part.replace("_", " "), justify="right", no_wrap=True)
  for row in rows:
    texts = [f"{row[p]['wall']:.2f} ({row[p]['cpu']:.2f})" for p in parts]
    if row["first_call"]["wall"] > limit:
      texts[-1] = f"[red]{texts[-1]}[/red]"
    result.add_row(row["method"], str(row["tasks"]), *texts)
  return result


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed.compile_time",
    description=__doc__,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  words = lambda text: text.split(",")  # noqa: E731
  add = parser.add_argument
  add("--methods", type=words, default=",".join(optax_mtl.METHODS))
  add("--tasks", type=lambda text: list(map(int, words(text))), default="10")
  add("--leaves", type=int, default=200)
  add("--limit", type=float, default=3.0, help="seconds, marked above")
  add("--out", type=pathlib.Path, default=pathlib.Path("out/compile_time"))
  args = parser.parse_args(argv)
  unknown = set(args.methods) - set(optax_mtl.METHODS)
  if unknown:
    parser.error(f"unknown methods {sorted(unknown)}")
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Measures; returns the exit status."""
  args = parse_args(argv)
  console = Console()
  machine = timing.machine()
  rows = []
  cases = [(name, t) for t in args.tasks for name in args.methods]
  # The first compilation of a process loads libraries, whatever is compiled.
  measure("equal_weighting", 2, *inputs(2, 2))
  try:
    for name, num_tasks in track(cases, "compiling", console=console):
      rows.append(measure(name, num_tasks, *inputs(num_tasks, args.leaves)))
  except KeyboardInterrupt:
    console.print(f"[yellow]Stopped after {len(rows)} of {len(cases)}.")
  console.print(table(rows, args.leaves, args.limit))
  args.out.mkdir(parents=True, exist_ok=True)
  path = args.out / "compile_time.json"
  data = {"machine": machine, "leaves": args.leaves, "rows": rows}
  path.write_text(json.dumps(data, indent=1))
  console.print(f"Wrote {path}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
