"""Five questions, a table each: `python -m benchmarks.questions.answer -h`.

Trains what the questions compare, on rendered scenes and on Helmholtz's
equation, small ones both. Prints a table and a sentence for each question, and
writes JSON. What is done is kept: the same command goes on where it stopped,
and --fresh starts anew.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console

from benchmarks.common import options, output
from benchmarks.dense import problem as dense
from benchmarks.dense.trainer import Settings
from benchmarks.pinn import compare as pinn
from benchmarks.pinn.training import Settings as PinnSettings
from benchmarks.questions import report
from benchmarks.questions.asked import QUESTIONS, ProblemName, needed
from benchmarks.questions.training import Dense, Pinn, Row, Rows, Trainer

#: Small enough that a training takes seconds: tasks whose losses differ by an
#: order of magnitude, and images of 16 x 16 pixels.
_TASKS = ("depth", "normals", "segmentation")
_SIZE = 16
_BATCH = 16
#: Adam's, of the dense problem.
_DENSE_RATES = (1e-3, 3e-3, 1e-2)
#: Slower than those of the whole comparison: learnt in a thousand steps.
_WAVES = (1.0, 2.0)
#: In those of the equation's own rate, 4e-3: from 2.5e-3 to 4e-2.
_PINN_FACTORS = (0.625, 2.5, 10.0)
#: The options that the rows of each problem depend on.
_KEYS: Mapping[ProblemName, Sequence[str]] = {
  "dense": ("seeds", "dense_steps", "images"),
  "pinn": ("seeds", "pinn_steps"),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Reads the command line."""
  parser = options.new_parser("questions.answer", __doc__)
  add = parser.add_argument
  add(
    "--questions",
    type=options.words,
    default=",".join(QUESTIONS),
    help="comma-separated",
  )
  add("--seeds", type=int, default=3, help="networks a row, in the table")
  add("--dense-steps", type=int, default=200, help="per network")
  add("--images", type=int, default=400, help="to train on")
  add("--pinn-steps", type=int, default=1000, help="per network")
  add("--fresh", action="store_true", help="forget what is done")
  add("--markdown", action="store_true", help="print the tables for the docs")
  options.add_out(parser, "questions")
  args = parser.parse_args(argv)
  options.check_known(parser, "questions", args.questions, QUESTIONS)
  for name in ("seeds", "dense_steps", "images", "pinn_steps"):
    if getattr(args, name) < 1:
      parser.error(f"--{name.replace('_', '-')} must be at least 1")
  return args


def trainers(args: argparse.Namespace) -> dict[ProblemName, Trainer]:
  """What trains each problem that is asked about."""
  found: dict[ProblemName, Trainer] = {}
  if needed(args.questions, "dense"):
    problem = dense.build(
      _TASKS,
      num_train=args.images,
      num_held_out=max(2, args.images // 2),
      size=_SIZE,
    )
    settings = Settings(
      steps=args.dense_steps,
      batch_size=_BATCH,
      num_seeds=args.seeds,
      eval_every=args.dense_steps,
      rates=_DENSE_RATES,
    )
    found["dense"] = Dense(problem, settings)
  if needed(args.questions, "pinn"):
    equation = pinn.short_problem(args.pinn_steps, _WAVES)
    settings = PinnSettings(
      steps=args.pinn_steps,
      num_seeds=args.seeds,
      eval_every=args.pinn_steps,
      rate=equation.rate,
    )
    found["pinn"] = Pinn(equation, settings, _PINN_FACTORS)
  return found


def train_all(
  args: argparse.Namespace,
  training: Mapping[ProblemName, Trainer],
  console: Console,
) -> dict[ProblemName, Rows]:
  """Trains what is not done yet; on Ctrl-C, stops and keeps what is done."""
  rows: dict[ProblemName, Rows] = {}
  progress = output.new_progress(console)
  try:
    with progress:
      for problem, trainer in training.items():
        path = args.out / f"{problem}_rows.json"
        key = {name: getattr(args, name) for name in _KEYS[problem]}
        kept = output.kept(path, key, fresh=args.fresh)
        done = {label: Row.from_data(data) for label, data in kept.items()}
        rows[problem] = done
        labels = needed(args.questions, problem)
        bar = progress.add_task(problem, total=len(labels))
        for label in labels:
          if label not in done:
            done[label] = trainer.train(label, done)
            data = {name: dataclasses.asdict(row) for name, row in done.items()}
            output.keep(path, key, data)
          progress.advance(bar)
  except KeyboardInterrupt:
    number = sum(map(len, rows.values()))
    console.print(f"[yellow]Stopped. {number} rows are done and kept.")
  return rows


def main(argv: Sequence[str] | None = None) -> int:
  """Answers; returns the exit status."""
  args = parse(argv)
  console = output.new_console(160)
  training = trainers(args)
  rows = train_all(args, training, console)
  if len(rows) < len(training):
    return 130
  answers = {
    name: report.lines(name, training, rows) for name in args.questions
  }
  console.print(*(report.UNITS[problem] for problem in training), sep="\n")
  for name, lines in answers.items():
    if args.markdown:
      console.print(f"\n<!-- {name} -->", markup=False)
      console.print(report.markdown(lines), markup=False, soft_wrap=True)
    else:
      console.print(report.table(name, lines))
    console.print(report.sentence(name, lines), markup=False, soft_wrap=True)
  data = {
    "settings": {
      name: getattr(args, name) for key in _KEYS.values() for name in key
    },
    **output.made_with(),
    "answers": {
      name: {
        "question": QUESTIONS[name].text,
        "sentence": report.sentence(name, lines),
        "lines": [
          {**dataclasses.asdict(line), "verdict": line.verdict}
          for line in lines
        ],
      }
      for name, lines in answers.items()
    },
  }
  output.say_wrote(output.write(args.out, "answers", data))
  return 0


if __name__ == "__main__":
  sys.exit(main())
