"""Dense prediction with every method: `python -m benchmarks.dense.compare -h`.

Trains an encoder with a decoder for each task on rendered scenes, with every
method, beside single-task networks, equal weights, and a grid of fixed weights.
Validation chooses a learning rate for each. Prints a table; writes JSON,
pictures and one HTML page. What is done is kept: the same command goes on where
it stopped, and --fresh starts anew.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.common import options, output, page
from benchmarks.dense import problem as problems
from benchmarks.dense import recipes, report, tasks
from benchmarks.dense.problem import Problem
from benchmarks.dense.trainer import Settings
from benchmarks.dense.training import (
  Run,
  num_trainings,
  time_steps,
  train,
)

#: Points of a curve.
_EVALUATIONS = 10
#: What `--quick` does not leave to the other options.
_QUICK = {
  "methods": list(recipes.SHORT),
  "steps": 60,
  "seeds": 2,
  "images": 300,
  "rates": [3e-3],
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Reads the command line."""
  parser = options.new_parser("dense.compare", __doc__)
  add = parser.add_argument
  add(
    "--methods",
    type=options.words,
    default="all",
    help="comma-separated; endings: -weighted (heads), -ub (source), -l2, "
    "-normalized, -refreshed (every 10 steps), -sgd; single-task networks and "
    "equal weights are always there",
  )
  add("--tasks", type=options.words, default=",".join(problems.TASKS))
  add("--steps", type=int, default=500, help="per network")
  add("--seeds", type=int, default=3, help="networks a method")
  add(
    "--rates",
    type=options.rates,
    default="1e-3,3e-3,1e-2",
    help="Adam's; of several, validation chooses for each method",
  )
  add("--batch-size", type=int, default=16, help="images a step")
  add("--images", type=int, default=1000, help="to train on")
  add("--size", type=int, default=32, help="pixels a side")
  add("--network", default="linen", choices=("linen", "nnx"))
  add("--quick", action="store_true", help="few steps, methods and images")
  add("--fresh", action="store_true", help="forget what is done")
  add(
    "--time",
    action="store_true",
    help="time the steps of all rows once more, in turn: on a busy machine",
  )
  add("--markdown", action="store_true", help="print the table for the docs")
  options.add_out(parser, "dense")
  args = parser.parse_args(argv)
  if args.quick:
    vars(args).update(_QUICK)
  for name in ("steps", "seeds", "batch_size", "images"):
    if getattr(args, name) < 1:
      parser.error(f"--{name.replace('_', '-')} must be at least 1")
  options.check_known(parser, "tasks", args.tasks, tasks.TASKS)
  if len(set(args.tasks)) < 2:
    parser.error("--tasks must name two tasks at least")
  if args.methods == ["all"]:
    args.methods = list(recipes.LABELS)
  unknown = [name for name in args.methods if not recipes.is_known(name)]
  options.check_known(parser, "methods", unknown, recipes.LABELS)
  # What the others are judged by comes first.
  first = [recipes.SINGLE_TASK, recipes.EQUAL]
  args.methods = first + [name for name in args.methods if name not in first]
  return args


def train_all(
  problem: Problem,
  settings: Settings,
  labels: Sequence[str],
  console: Console,
  *,
  runs: Mapping[str, Run],
  keep: Any = lambda runs: None,
) -> dict[str, Run]:
  """Trains the methods in turn; on Ctrl-C, stops and keeps what is done.

  Args:
    problem: What is trained.
    settings: How.
    labels: Of the rows; single-task networks come first.
    console: For the progress.
    runs: Those that are done already.
    keep: Called with all runs after each.

  Returns:
    Label to run, in the order of the labels.
  """
  done = dict(runs)
  progress = output.new_progress(console)
  try:
    with progress:
      overall = progress.add_task("all methods", total=len(labels))
      for label in labels:
        if label not in done:
          number = num_trainings(label, problem.num_tasks, settings)
          bar = progress.add_task(label, total=number * settings.steps)
          baseline = None
          if recipes.SINGLE_TASK in done:
            single = done[recipes.SINGLE_TASK]
            baseline = single.validation[:, -1].mean(axis=0)
          done[label] = train(
            problem,
            label,
            settings,
            baseline=baseline,
            on_progress=lambda steps, bar=bar: progress.advance(bar, steps),
          )
          progress.update(bar, visible=False)
          keep(done)
        progress.advance(overall)
  except KeyboardInterrupt:
    console.print(f"[yellow]Stopped. {len(done)} rows are done and kept.")
  return {label: done[label] for label in labels if label in done}


def show(
  problem: Problem,
  settings: Settings,
  runs: Mapping[str, Run],
  console: Console,
  folder: pathlib.Path,
) -> page.Section:
  """Prints the table and writes everything; returns what the page shows."""
  rows = report.summarize(problem, runs)
  console.print(report.table(problem, rows, settings))
  console.print(*report.notes(problem, rows, settings), sep="\n", markup=False)
  console.print(report.sentence(rows))
  paths, section = report.write(folder, problem, settings, runs, rows)
  output.say_wrote(paths)
  return section


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the comparison; returns the exit status."""
  args = parse(argv)
  console = output.new_console(200)
  settings = Settings(
    steps=args.steps,
    batch_size=args.batch_size,
    num_seeds=args.seeds,
    eval_every=max(1, args.steps // _EVALUATIONS),
    rates=tuple(sorted(args.rates)),
  )
  key = {
    name: getattr(args, name)
    for name in (
      *("tasks", "steps", "seeds", "rates", "batch_size"),
      *("images", "size", "network"),
    )
  }
  path = args.out / "dense_runs.json"
  saved = output.kept(path, key, fresh=args.fresh)
  runs = {name: report.from_data(run) for name, run in saved.items()}
  problem = problems.build(
    args.tasks,
    num_train=args.images,
    num_held_out=max(2, args.images // 4),
    size=args.size,
    network=args.network,
  )

  def keep(runs: Mapping[str, Run]) -> None:
    kept = {name: report.as_data(run) for name, run in runs.items()}
    output.keep(path, key, kept)

  runs = train_all(
    problem, settings, args.methods, console, runs=runs, keep=keep
  )
  if recipes.EQUAL not in runs:
    console.print("Nothing to report: not even equal weights were trained.")
    return 130
  if args.time:
    for label, seconds in time_steps(problem, list(runs), settings).items():
      runs[label].seconds_per_step = seconds
    keep(runs)
  show(problem, settings, runs, console, args.out)
  if args.markdown:
    rows = report.summarize(problem, runs)
    text = report.markdown(problem, rows)
    console.print(text, markup=False, soft_wrap=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
