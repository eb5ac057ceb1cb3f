"""Every method on one equation: `python -m benchmarks.pinn.compare --help`.

Trains a physics-informed network with every method that people use for them,
several seeds at once, beside equal weights, a sweep of fixed weights, and Muon.
Prints a table; writes JSON, pictures and one HTML page. What is done is kept:
the same command goes on where it stopped, and --fresh starts anew.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import optax
from rich.console import Console

from benchmarks.common import options, output, page
from benchmarks.pinn import recipes, report
from benchmarks.pinn.problem import Problem
from benchmarks.pinn.problems import PROBLEMS
from benchmarks.pinn.problems.helmholtz import helmholtz
from benchmarks.pinn.training import Run, Settings, time_steps, train

#: Points of a curve.
_EVALUATIONS = 24


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = options.new_parser("pinn.compare", __doc__)
  add = parser.add_argument
  add("--problem", default="helmholtz", choices=list(PROBLEMS))
  add(
    "--methods",
    type=options.words,
    default="all",
    help="comma-separated names; equal weights are always there",
  )
  add("--steps", type=int, default=0, help="0: the problem's own number")
  add("--rate", type=float, default=0.0, help="0: the problem's own")
  add("--seeds", type=int, default=5, help="networks a method")
  add("--fresh", action="store_true", help="forget what is done")
  add(
    "--time",
    action="store_true",
    help="time the steps of all rows once more, in turn: on a busy machine",
  )
  add("--markdown", action="store_true", help="print the tables for the docs")
  options.add_out(parser, "pinn")
  args = parser.parse_args(argv)
  if args.seeds < 1 or args.steps < 0 or args.rate < 0:
    parser.error("--seeds must be at least 1, --steps and --rate not negative")
  return args


def new_settings(problem: Problem, steps: int, seeds: int) -> Settings:
  """The settings with evaluations at equal distances, the last at the end."""
  eval_every = max(1, steps // _EVALUATIONS)
  return Settings(
    steps=eval_every * (steps // eval_every),
    num_seeds=seeds,
    eval_every=eval_every,
    rate=problem.rate,
  )


def train_all(
  problem: Problem,
  settings: Settings,
  labels: Sequence[str],
  console: Console,
  *,
  runs: dict[str, Run] | None = None,
  on_run: Callable[[dict[str, Run]], None] = lambda runs: None,
) -> dict[str, Run]:
  """Trains the methods in turn; on Ctrl-C, stops and keeps what is done.

  Args:
    problem: What is trained.
    settings: How.
    labels: Of the rows; equal weights come first.
    console: For the progress.
    runs: Those that are done already.
    on_run: Called with all runs after each.

  Returns:
    Label to run, in the order of the labels.
  """
  done = dict(runs or {})
  progress = output.new_progress(console)
  try:
    with progress:
      overall = progress.add_task(problem.name, total=len(labels))
      for label in labels:
        if label not in done:
          bar = progress.add_task(label, total=settings.steps)
          seconds = 0.0
          if recipes.EQUAL in done:
            seconds = settings.steps * done[recipes.EQUAL].seconds_per_step
          done[label] = train(
            problem,
            recipes.recipe(label, problem, settings.steps),
            settings,
            seconds=seconds,
            on_progress=lambda steps, bar=bar: progress.advance(bar, steps),
          )
          progress.update(bar, completed=settings.steps, visible=False)
          on_run(done)
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
  rows = report.summarize(runs, settings.steps)
  console.print(report.table(problem, rows, settings))
  console.print(*report.notes(problem, settings), sep="\n")
  console.print(report.sentence(problem, rows))
  paths, section = report.write(folder, problem, settings, runs)
  output.say_wrote(paths)
  return section


def short_problem(
  steps: int, waves: tuple[float, float] = (1.0, 4.0)
) -> Problem:
  """Helmholtz's equation, to be solved in so few steps.

  A quarter of the points at the boundary, whose loss is the plain mean over
  them; and a rate that starts higher and falls to zero, so that fewer steps do.
  """
  return dataclasses.replace(
    helmholtz(a_side=32, boundary_scale=1.0, waves=waves),
    rate=optax.cosine_decay_schedule(4e-3, steps),
    scaled=f"{steps} steps instead of 40,000, with a rate that falls from 4e-3 "
    "to 0; 32 points a side instead of 128, and the mean of their squares "
    "instead of its fourfold",
  )


def in_short(
  console: Console, folder: pathlib.Path, steps: int, seeds: int
) -> page.Section | None:
  """`short_problem` in a minute or two, with the methods that matter.

  Args:
    console: For progress and table.
    folder: Where to write.
    steps: Of each network.
    seeds: Networks a method.

  Returns:
    What the page shows, or None if nothing was trained.
  """
  problem = short_problem(steps)
  settings = new_settings(problem, steps, seeds)
  runs = train_all(problem, settings, recipes.SHORT, console)
  if recipes.EQUAL not in runs:
    return None
  return show(problem, settings, runs, console, folder)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the comparison; returns the exit status."""
  args = _parse(argv)
  console = output.new_console(160)
  problem = PROBLEMS[args.problem]()
  if args.rate:
    rate = optax.constant_schedule(args.rate)
    problem = dataclasses.replace(problem, rate=rate)
  labels = recipes.labels()
  if args.methods != ["all"]:
    unknown = sorted(set(args.methods) - set(labels))
    if unknown:
      console.print(f"Unknown: {unknown}; there are {labels}.", markup=False)
      return 2
    labels = [
      label for label in labels if label in (recipes.EQUAL, *args.methods)
    ]
  settings = new_settings(problem, args.steps or problem.steps, args.seeds)
  path = args.out / f"pinn_{problem.name}_runs.json"
  key = {
    "problem": problem.name,
    "steps": settings.steps,
    "seeds": args.seeds,
    "rate": args.rate,
  }

  def keep(runs: Mapping[str, Run]) -> None:
    kept = {name: report.as_data(run) for name, run in runs.items()}
    output.keep(path, key, kept)

  saved = output.kept(path, key, fresh=args.fresh)
  runs = train_all(
    problem,
    settings,
    labels,
    console,
    runs={name: report.from_data(run) for name, run in saved.items()},
    on_run=keep,
  )
  if recipes.EQUAL not in runs:
    console.print("Nothing to report: not even equal weights were trained.")
    return 130
  if args.time:
    chosen = {
      label: recipes.recipe(label, problem, settings.steps) for label in runs
    }
    seconds = time_steps(problem, chosen, settings)
    for label, run in runs.items():
      run.seconds_per_step = seconds[label]
    keep(runs)
  show(problem, settings, runs, console, args.out)
  if args.markdown:
    rows = report.summarize(runs, settings.steps)
    console.print(report.markdown(rows), markup=False, soft_wrap=True)
    console.print(report.published(problem), markup=False, soft_wrap=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
