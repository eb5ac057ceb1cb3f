"""Every method on one problem: `python -m benchmarks.quality.compare --help`.

Trains a network with a shared trunk and one head per task with every registered
method, several seeds at once, beside single-task baselines and a sweep of fixed
weights. Of several `--rates` validation chooses one for each row. Prints a
table; writes JSON, pictures and one HTML page. What is done is kept: the same
command goes on where it stopped, and --fresh starts anew.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import jax
import numpy as np
from rich.console import Console

import optax_mtl
from benchmarks.common import options, output, page
from benchmarks.data import datasets
from benchmarks.networks import trunk_and_heads
from benchmarks.networks.scores import Batch
from benchmarks.quality import recipes, report
from benchmarks.quality.training import Run, Settings, split_validation, train

#: The options that a run depends on.
_KEY = (
  *("dataset", "steps", "seeds", "batch_size", "rates", "sweep", "network"),
  *("source", "evaluations", "held_out"),
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Reads the command line."""
  parser = options.new_parser("quality.compare", __doc__)
  add = parser.add_argument
  known = list(datasets.DATASETS)
  add("--dataset", default="digits", choices=known, help="what to train on")
  add("--data-dir", help="folder of the .npz files; digits and toys need none")
  add(
    "--methods",
    type=options.words,
    default="all",
    help="comma-separated names; the baselines and the sweep are always there",
  )
  add("--steps", type=int, default=600, help="per network")
  add("--seeds", type=int, default=3, help="networks a method")
  add("--batch-size", type=int, default=128, help="examples a step")
  add(
    "--rates",
    type=options.rates,
    default="1e-3",
    help="Adam's, comma-separated; validation chooses, all in one vmapped run",
  )
  add("--sweep", type=int, default=9, help="points, two tasks")
  add("--network", default="mlp", choices=("mlp", "cnn"), help="the trunk")
  add(
    "--source",
    default="stacked",
    choices=("stacked", "implicit", "representation"),
    help="where task gradients come from",
  )
  add("--evaluations", type=int, default=20, help="points of a curve")
  add(
    "--held-out",
    type=int,
    default=0,
    help="examples to validate on, and to test on, at most; 0: all there are",
  )
  add("--fresh", action="store_true", help="forget what is done")
  add("--markdown", action="store_true", help="print the table for the docs")
  options.add_out(parser, "compare")
  args = parser.parse_args(argv)
  for name in ("steps", "seeds", "batch_size", "sweep", "evaluations"):
    if getattr(args, name) < 1:
      parser.error(f"--{name.replace('_', '-')} must be at least 1")
  if args.held_out < 0:
    parser.error("--held-out must not be negative")
  if args.methods == ["all"]:
    args.methods = [
      n for n in optax_mtl.METHODS if n not in recipes.WITHOUT_ROW
    ]
  options.check_known(parser, "methods", args.methods, optax_mtl.METHODS)
  # The rows that let a reader judge the others come first.
  first = list(recipes.BASELINES)
  args.names = first + [name for name in args.methods if name not in first]
  return args


def _first(data: Batch, number: int) -> Batch:
  """The first examples of a split."""
  return jax.tree.map(lambda array: array[:number], data)


def _train_all(
  args: argparse.Namespace, problem: trunk_and_heads.Problem, console: Console
) -> dict[str, tuple[recipes.Recipe, Run]]:
  """Trains the methods in turn; on Ctrl-C, stops and keeps what is done."""
  settings = Settings(
    steps=args.steps,
    batch_size=args.batch_size,
    rates=tuple(sorted(args.rates)),
    num_seeds=args.seeds,
    eval_every=max(1, args.steps // args.evaluations),
    source=args.source,
  )
  train_set, validation_set = split_validation(problem.train)
  if args.held_out:
    validation_set = _first(validation_set, args.held_out)
  path = args.out / "compare_runs.json"
  key = {name: getattr(args, name) for name in _KEY}
  done = {
    name: Run.from_data(data)
    for name, data in output.kept(path, key, fresh=args.fresh).items()
  }
  runs: dict[str, tuple[recipes.Recipe, Run]] = {}
  progress = output.new_progress(console)
  try:
    with progress:
      overall = progress.add_task("all methods", total=len(args.names))
      for name in args.names:
        bar = progress.add_task(name, total=args.steps)
        recipe = recipes.recipe(name, problem, settings, args.sweep)
        if name not in done:
          baseline = None
          if recipes.SINGLE_TASK in done:
            single = done[recipes.SINGLE_TASK].validation_metrics
            baseline = report.of_single_tasks(single).mean(axis=0)
          done[name] = train(
            problem,
            recipe,
            settings,
            train_set=train_set,
            validation_set=validation_set,
            baseline=baseline,
            on_progress=lambda steps, bar=bar: progress.advance(bar, steps),
          )
          kept = {label: dataclasses.asdict(run) for label, run in done.items()}
          output.keep(path, key, kept)
        runs[name] = recipe, done[name]
        progress.update(bar, completed=args.steps, visible=False)
        progress.advance(overall)
  except KeyboardInterrupt:
    console.print(
      f"[yellow]Stopped. {len(runs)} of {len(args.names)} are done and kept."
    )
  return runs


def compare(
  args: argparse.Namespace, console: Console
) -> tuple[int, page.Section | None]:
  """Trains, prints the table and writes everything.

  Args:
    args: From `parse`.
    console: Where the table goes.

  Returns:
    The exit status, and what the page shows, if there is anything to show.
  """
  try:
    dataset = datasets.load(args.dataset, args.data_dir)
  except (FileNotFoundError, ValueError) as error:
    console.print(str(error), style="red", markup=False)
    return 2, None
  problem = trunk_and_heads.build(dataset, network=args.network)
  if args.held_out:
    test = _first(problem.test, args.held_out)
    problem = dataclasses.replace(problem, test=test)
  runs = _train_all(args, problem, console)
  if recipes.SINGLE_TASK not in runs:
    console.print("Nothing to report: not even the baselines were trained.")
    return 130, None
  rows = report.summarize(dataset, runs)
  console.print(report.table(dataset, rows, args.seeds))
  console.print(*report.notes(dataset, runs), sep="\n", markup=False)
  console.print(report.sentence(dataset, rows))
  if args.markdown:
    text = report.markdown(dataset, rows)
    console.print(text, markup=False, soft_wrap=True)
  paths, section = report.write(args, dataset, runs, rows)
  output.say_wrote(paths)
  finite = all(np.isfinite(row.mean).all() for row in rows)
  if not finite:
    console.print("[yellow]Some metrics are not finite: see the table.")
  return 0, section


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the comparison; returns the exit status."""
  return compare(parse(argv), output.new_console(160))[0]


if __name__ == "__main__":
  sys.exit(main())
