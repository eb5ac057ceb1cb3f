"""Trains the rows: tunes each on validation, then all its seeds in turn."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import timing, tuning
from benchmarks.common.sweeps import sweep_weights
from benchmarks.dense import recipes, tasks
from benchmarks.dense.problem import Problem, sample
from benchmarks.dense.recipes import Recipe
from benchmarks.dense.trainer import Settings, Trainer, compiled

#: The networks that validation chooses by start from this seed, which is not
#: among those of the table.
TUNING_SEED = 1_000_000
#: Test images whose predictions are kept, for the picture.
_SAMPLES = 2


@dataclasses.dataclass
class Run:
  """What training left behind; S seeds, E evaluations, T tasks.

  Attributes:
    steps: [E], the step of each evaluation.
    losses: [S, E, T], training losses, averaged between evaluations over the
      batches that had labels.
    weights: [S, E, T], the method's weights, averaged likewise; NaN where it
      has none.
    validation: [S, E, T], metrics.
    test: [S, T], metrics at the end.
    rate: [T], the learning rate that validation chose; for single-task networks
      each has its own.
    point: The variant that validation chose.
    tried: What it chose from: rate, score (lower is better), point.
    samples: Predictions for the first test images of the first seed, by task.
    seconds_per_step: In the fastest chunk: what a quiet machine would show.
    flops: Of one step, by XLA's analysis, which counts a loop's body once.
    temp_mib: Temporary memory of a step, likewise.
  """

  steps: np.ndarray
  losses: np.ndarray
  weights: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  rate: np.ndarray
  point: np.ndarray
  tried: list[list[float]]
  samples: dict[str, np.ndarray]
  seconds_per_step: float
  flops: float
  temp_mib: float


def _tune(
  problem: Problem,
  recipe: Recipe,
  settings: Settings,
  trainer: Trainer,
  baseline: np.ndarray | None,
  on_progress: Callable[[int], None],
) -> tuple[np.ndarray, float, list[list[float]]]:
  """Chooses among the points at the middle rate, then among the rates."""
  tried: list[list[float]] = []

  def best(candidates: Sequence[tuple[np.ndarray, float]]) -> Any:
    scores: list[float] = []
    for point, rate in candidates:
      found = trainer(TUNING_SEED, point, rate, on_progress)
      score = tuning.score(
        found["validation"][-1], baseline, problem.higher_is_better
      )
      scores.append(float(score))
      tried.append([rate, scores[-1], *map(float, point)])
    return candidates[int(np.argmin(scores))], min(scores)

  rates = [recipe.rate_factor * rate for rate in settings.rates]
  middle = rates[len(rates) // 2]
  point, rate, score = recipe.points[0], middle, np.inf
  if len(recipe.points) > 1 or len(rates) > 1:
    (point, _), score = best([(point, middle) for point in recipe.points])
  others = [other for other in rates if other != middle]
  if others:
    (_, other), its_score = best([(point, other) for other in others])
    if its_score < score:
      rate = other
  return point, rate, tried


def num_trainings(label: str, num_tasks: int, settings: Settings) -> int:
  """How many networks a row takes, those that tune it included."""
  points = len(sweep_weights(num_tasks, 9))
  points = points if label == recipes.SWEEP else 1
  tuned = points + len(settings.rates) - 1
  number = settings.num_seeds + (tuned if tuned > 1 else 0)
  return number * (num_tasks if label == recipes.SINGLE_TASK else 1)


def train(
  problem: Problem,
  label: str,
  settings: Settings,
  *,
  baseline: np.ndarray | None = None,
  on_progress: Callable[[int], None] = lambda steps: None,
) -> Run:
  """Tunes a method, and trains it on every seed.

  Networks with the same seed start from the same params and see the same
  batches, whatever the method.

  Args:
    problem: Data and network.
    label: A row; of `recipes.SINGLE_TASK`, a network for each task.
    settings: Steps, seeds and so on.
    baseline: [T], validation metrics that tuning compares with.
    on_progress: Called with the number of steps done since the last call.

  Returns:
    The `Run`.
  """
  if label == recipes.SINGLE_TASK and problem.num_tasks > 1:
    return _side_by_side(
      [
        train(problem.only(task), label, settings, on_progress=on_progress)
        for task in problem.tasks
      ]
    )
  epoch = max(1, len(problem.train["image"]) // settings.batch_size)
  recipe = recipes.recipe(label, problem, settings.steps, epoch)
  trainer = Trainer(problem, recipe, settings)
  point, rate, tried = _tune(
    problem, recipe, settings, trainer, baseline, on_progress
  )
  found = [
    trainer(seed, point, rate, on_progress)
    for seed in range(settings.num_seeds)
  ]
  outputs = compiled(problem.outputs)(
    found[0]["params"], found[0]["stats"], problem.test["image"][:_SAMPLES]
  )
  ends = range(0, settings.steps, settings.eval_every)
  return Run(
    steps=np.minimum(np.array(ends) + settings.eval_every, settings.steps),
    **{
      name: np.stack([one[name] for one in found])
      for name in ("losses", "weights", "validation", "test")
    },
    rate=np.full(problem.num_tasks, rate),
    point=np.asarray(point),
    tried=tried,
    samples={
      name: tasks.shown(tasks.TASKS[name], output).round(3)
      for name, output in outputs.items()
    },
    seconds_per_step=trainer.seconds_per_step,
    flops=trainer.flops,
    temp_mib=trainer.temp_mib,
  )


def _side_by_side(runs: Sequence[Run]) -> Run:
  """Networks of single tasks as one row: costs add up, memory does not."""
  return Run(
    steps=runs[0].steps,
    **{
      name: np.concatenate([getattr(run, name) for run in runs], axis=-1)
      for name in ("losses", "weights", "validation", "test", "rate")
    },
    point=runs[0].point,
    tried=[one for run in runs for one in run.tried],
    samples={name: out for run in runs for name, out in run.samples.items()},
    seconds_per_step=sum(run.seconds_per_step for run in runs),
    flops=sum(run.flops for run in runs),
    temp_mib=max(run.temp_mib for run in runs),
  )


def time_steps(
  problem: Problem,
  labels: Sequence[str],
  settings: Settings,
  rounds: int = 5,
) -> Mapping[str, float]:
  """Seconds of a step of each row, timed in turn.

  On a machine that does other things too, those that were trained at a busy
  time look slow; here each gets its turn in every round, and what counts is its
  fastest.

  Args:
    problem: What is trained.
    labels: The rows; of `recipes.SINGLE_TASK`, its networks one after another.
    settings: How.
    rounds: How often.

  Returns:
    Label to seconds.
  """
  # An evaluation of one image is as good as nothing beside ten steps.
  few = dataclasses.replace(settings, steps=10, eval_every=10)
  one = {
    split: sample(getattr(problem, split), slice(0, 1))
    for split in ("validation", "test")
  }
  small = dataclasses.replace(problem, **one)
  runners: dict[str, Callable[[], None]] = {}
  trainers: dict[str, list[Trainer]] = {}
  for label in labels:
    problems = [small]
    if label == recipes.SINGLE_TASK:
      problems = [small.only(task) for task in small.tasks]
    made = [recipes.recipe(label, each, few.steps, 1) for each in problems]
    trainers[label] = [
      Trainer(each, recipe, few)
      for each, recipe in zip(problems, made, strict=True)
    ]

    def run(ours: Any = (trainers[label], made)) -> None:
      for trainer, recipe in zip(*ours, strict=True):
        trainer(0, recipe.points[0], few.rates[0])

    runners[label] = run
  timing.interleave(runners, repeats=rounds, seconds=np.inf)
  return {
    label: sum(trainer.seconds_per_step for trainer in ours)
    for label, ours in trainers.items()
  }
