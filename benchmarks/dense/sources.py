"""What each source costs: `python -m benchmarks.dense.sources --help`.

The network of the dense comparison, with 3, 5 and 8 of its tasks: an encoder
with BatchNorm, and a decoder for each task. A step of MGDA by each source,
beside the step of the plain summed loss: the time, taken in turn, FLOPs and
temporary memory of the compiled program, and how much the resident set grows
while a step first runs, in a process of its own. The updates are compared too:
stacked and implicit gradients have to give the same one. Prints a table, and
writes JSON.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import optax_mtl
from benchmarks.common import options, output, timing
from benchmarks.dense import problem as problems
from benchmarks.dense.problem import Problem, Source
from benchmarks.dense.tasks import TASKS
from benchmarks.speed import ways

#: Way -> where its gradients come from.
_SOURCES: dict[str, Source] = {
  "stacked": "stacked",
  "implicit": "implicit",
  "representation": "representation",
}
#: Ways whose program has a loop, of which XLA counts one turn.
LOOPS = ("implicit",)
_BATCH = 16


def steps(problem: Problem) -> dict[str, Callable[..., Any]]:
  """Way -> a step, from params, statistics and a batch to losses and update."""
  method = optax_mtl.mgda(problem.num_tasks)

  def plain(params: Any, stats: Any, batch: Any) -> Any:
    def total(params: Any) -> Any:
      losses, aux = problem.forward(params, stats, batch)
      return sum(losses.values()), (losses, aux)

    (_, (losses, (new, _))), grads = jax.value_and_grad(total, has_aux=True)(
      params
    )
    return losses, new, grads

  def by(source: Source) -> Callable[..., Any]:
    value_and_grads = problem.value_and_grads(source)

    def step(params: Any, stats: Any, batch: Any) -> Any:
      (losses, (new, _)), grads = value_and_grads(params, stats, batch)
      update, _ = method.update(
        grads, method.init(params), params, active=problem.active(batch)
      )
      return losses, new, update

    return step

  return {ways.PLAIN: plain} | {way: by(of) for way, of in _SOURCES.items()}


def build(num_tasks: int, size: int) -> tuple[Problem, tuple[Any, ...]]:
  """The problem with its first tasks, and what a step is called with."""
  problem = problems.build(
    tuple(TASKS)[:num_tasks], num_train=_BATCH, num_held_out=2, size=size
  )
  params, stats = jax.jit(problem.init)(jax.random.key(0))
  return problem, (params, stats, problem.train)


def difference(problem: Problem, args: tuple[Any, ...]) -> float:
  """Between stacked and implicit update, by leaf, over the longest leaf."""
  both = steps(problem)
  one, other = (
    jax.tree.leaves(jax.jit(both[way])(*args)[2])
    for way in ("stacked", "implicit")
  )
  longest = max(float(jnp.linalg.norm(leaf)) for leaf in one)
  gaps = [
    float(jnp.linalg.norm(a - b)) for a, b in zip(one, other, strict=True)
  ]
  return max(gaps) / longest


def resident_growth(way: str, num_tasks: int, size: int) -> float:
  """MiB by which the resident set grows while a step first runs."""
  problem, args = build(num_tasks, size)
  program = jax.jit(steps(problem)[way]).lower(*args).compile()
  before = timing.resident_peak(reset=True)
  jax.block_until_ready(program(*args))
  return timing.resident_peak() - before


def _resident(way: str, num_tasks: int, size: int) -> float:
  """The same in a process of its own."""
  command = [sys.executable, "-m", "benchmarks.dense.sources"]
  command += ["--resident", way, "--tasks", str(num_tasks)]
  command += ["--size", str(size)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return float(done.stdout.split()[-1])


def measure(num_tasks: int, size: int, repeats: int) -> list[dict[str, Any]]:
  """One row for each way."""
  problem, args = build(num_tasks, size)
  rows = ways.measure(
    steps(problem), args, repeats=repeats, seconds=60, tasks=num_tasks
  )
  for row in rows:
    row["resident"] = _resident(row["way"], num_tasks, size)
    row["params"] = sum(leaf.size for leaf in jax.tree.leaves(args[0]))
  rows[1]["difference"] = difference(problem, args)
  return rows


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = options.new_parser("dense.sources", __doc__)
  add = parser.add_argument
  add("--tasks", type=options.numbers, default="3,5,8", help="T, at most 8")
  add("--size", type=int, default=32, help="pixels a side")
  add("--repeats", type=int, default=20, help="timed blocks")
  add("--resident", choices=(ways.PLAIN, *_SOURCES), help=argparse.SUPPRESS)
  options.add_out(parser, "dense_sources")
  args = parser.parse_args(argv)
  if not all(1 < number <= len(TASKS) for number in args.tasks):
    parser.error(f"--tasks must lie in [2, {len(TASKS)}]")
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Measures; returns the exit status."""
  args = parse_args(argv)
  if args.resident:
    print(resident_growth(args.resident, args.tasks[0], args.size))
    return 0
  console = output.new_console()
  rows: list[dict[str, Any]] = []
  try:
    for num_tasks in track(args.tasks, "measuring", console=console):
      rows += measure(num_tasks, args.size, args.repeats)
  except KeyboardInterrupt:
    console.print("[yellow]Stopped.")
  console.print(ways.table(rows, {"T": "tasks"}, LOOPS))
  gaps = [row["difference"] for row in rows if "difference" in row]
  if gaps:
    console.print(
      "The stacked and the implicit update differ by at most "
      f"{np.max(gaps):.1e} of the longest leaf's."
    )
  data = {"machine": timing.machine(), "rows": rows}
  output.say_wrote(output.write(args.out, "dense_sources", data))
  return 0


if __name__ == "__main__":
  sys.exit(main())
