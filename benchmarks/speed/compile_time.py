"""What a first call costs: `python -m benchmarks.speed.compile_time --help`.

Compile time is part of the user's wait. For every registered method the seconds
that tracing and compiling `jax.jit(tx.update)` take on a tree of 200 leaves,
and those of its first run: at most 2 in all, on a machine with nothing else to
do. Prints a table and writes JSON.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track
from rich.table import Table

import optax_mtl
from benchmarks.common import options, output, timing
from benchmarks.common.examples import example


def leaf_shapes(leaves: int, own_widths: bool = False) -> list[tuple[int, ...]]:
  """A deep network's: a matrix, a bias, a scale and an offset per layer.

  With `own_widths` vectors, no two of one length: nothing is compiled once for
  several of them.
  """
  if own_widths:
    return [(5 + index,) for index in range(leaves)]
  layer = [(64, 64), (64,), (64,), (64,)]
  return [layer[index % 4] for index in range(leaves)]


def inputs(
  num_tasks: int, leaves: int, own_widths: bool = False
) -> tuple[Any, Any]:
  """Stacked task gradients and params."""
  rng = np.random.default_rng(0)
  params: dict[str, jax.Array] = {}
  grads: dict[str, jax.Array] = {}
  for index, shape in enumerate(leaf_shapes(leaves, own_widths)):
    name = f"leaf_{index:03d}"
    params[name] = jnp.asarray(np.zeros(shape, np.float32))
    grads[name] = jnp.asarray(
      rng.standard_normal((num_tasks, *shape), dtype=np.float32)
    )
  return grads, params


def measure(
  name: str, num_tasks: int, grads: Any, params: Any
) -> dict[str, Any]:
  """Seconds of one method's first call, by wall clock and by processor."""
  transformation, extra = example(name, num_tasks, grads)
  state = jax.block_until_ready(transformation.init(params))
  # Other methods share parts: none may profit from the one before.
  jax.clear_caches()

  marks = [(time.perf_counter(), time.process_time())]

  def mark() -> None:
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


def table(rows: Sequence[dict[str, Any]], leaves: int, limit: float) -> Table:
  """One row per method and number of tasks."""
  parts = ("trace", "compile", "run", "first_call")
  result = output.new_table(
    f"seconds of the first call on {leaves} leaves; in brackets the "
    f"processor's; limit {limit:g}",
    ["method", "T", *(part.replace("_", " ") for part in parts)],
  )
  for row in rows:
    texts = [f"{row[p]['wall']:.2f} ({row[p]['cpu']:.2f})" for p in parts]
    if row["first_call"]["wall"] > limit:
      texts[-1] = f"[red]{texts[-1]}[/red]"
    result.add_row(row["method"], str(row["tasks"]), *texts)
  return result


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = options.new_parser("speed.compile_time", __doc__)
  add, names = parser.add_argument, ",".join(optax_mtl.METHODS)
  add("--methods", type=options.words, default=names, help="of these")
  add("--tasks", type=options.numbers, default="10", help="T")
  add("--leaves", type=int, default=200, help="of the tree")
  add("--own-widths", action="store_true", help="no two leaves of one shape")
  add("--limit", type=float, default=2.0, help="seconds, marked above")
  options.add_out(parser, "compile_time")
  args = parser.parse_args(argv)
  options.check_known(parser, "methods", args.methods, optax_mtl.METHODS)
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Measures; returns the exit status."""
  args = parse_args(argv)
  console = output.new_console()
  machine = timing.machine()
  rows: list[dict[str, Any]] = []
  cases = [(name, t) for t in args.tasks for name in args.methods]
  # The first compilation of a process loads libraries, whatever is compiled.
  measure("equal_weighting", 2, *inputs(2, 2))
  try:
    for name, num_tasks in track(cases, "compiling", console=console):
      tree = inputs(num_tasks, args.leaves, args.own_widths)
      rows.append(measure(name, num_tasks, *tree))
  except KeyboardInterrupt:
    console.print(f"[yellow]Stopped after {len(rows)} of {len(cases)}.")
  console.print(table(rows, args.leaves, args.limit))
  data = {
    "machine": machine,
    "leaves": args.leaves,
    "own_widths": args.own_widths,
    "rows": rows,
  }
  output.say_wrote(output.write(args.out, "compile_time", data))
  return 0


if __name__ == "__main__":
  sys.exit(main())
