"""Trains one method: tunes it on validation, then all seeds in turn.

A step is one compiled call. Neither a loop over steps inside of the program nor
a `vmap` over seeds would pay on a CPU: in a loop XLA's convolutions run on its
naive kernel, and over seeds they become grouped ones.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.common import timing
from benchmarks.dense import recipes, tasks
from benchmarks.dense.problem import Problem, sample
from benchmarks.dense.recipes import Recipe
from benchmarks.dense.scenes import Batch
from optax_mtl import metrics

#: The networks that validation chooses by start from this seed, which is not
#: among those of the table.
_TUNING_SEED = 1_000_000
#: Images that are evaluated together.
_BLOCK = 50
#: Test images whose predictions are kept, for the picture.
_SAMPLES = 2


@dataclasses.dataclass(frozen=True)
class Settings:
  """How every method of a comparison is trained.

  Attributes:
    steps: Optimizer steps.
    batch_size: Images a step.
    num_seeds: Networks a method.
    eval_every: Steps between two evaluations.
    rates: Adam's learning rates, which fall to 0 by a cosine; of several,
      validation chooses one for each method.
  """

  steps: int
  batch_size: int
  num_seeds: int
  eval_every: int
  rates: tuple[float, ...]


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


@functools.cache
def _init(problem: Problem) -> Callable[[jax.Array], Any]:
  return jax.jit(problem.init)


@functools.cache
def _counts(problem: Problem) -> Callable[..., Any]:
  return jax.jit(problem.counts)


def evaluate(
  problem: Problem, params: Any, stats: Any, data: Batch
) -> np.ndarray:
  """The metrics [T] over a whole split."""
  added: dict[str, Any] = {}
  for first in range(0, len(data["image"]), _BLOCK):
    part = sample(data, slice(first, first + _BLOCK))
    for name, count in _counts(problem)(params, stats, part).items():
      added[name] = added.get(name, 0) + np.asarray(count, np.float64)
  return problem.metrics(added)


def batches(number: int, settings: Settings, seed: int) -> np.ndarray:
  """Which images each step sees: [steps, batch], every epoch in a new order."""
  rng = np.random.default_rng(seed)
  needed = settings.steps * settings.batch_size
  epochs = -(-needed // number)
  order = np.concatenate([rng.permutation(number) for _ in range(epochs)])
  shape = settings.steps, settings.batch_size
  return order[:needed].reshape(shape).astype(np.int32)


def make_step(
  problem: Problem, recipe: Recipe, settings: Settings
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """The first carry and the step of a method, neither compiled.

  Args:
    problem: What is trained.
    recipe: The method.
    settings: How.

  Returns:
    `init(params, stats, point) -> carry` and `step(carry, point, rate, data,
    rows) -> carry`; in the carry are params, statistics, the optimizer's state,
    the losses that this step would see now, and sums [T] of losses, of how
    often they were there, and of weights.
  """
  value_and_grads = problem.value_and_grads(recipe.source, recipe.heads)
  zeros = jnp.zeros(problem.num_tasks)

  def transformation(
    point: jax.Array, rate: jax.typing.ArrayLike
  ) -> optax.GradientTransformationExtraArgs:
    schedule = optax.cosine_decay_schedule(1.0, settings.steps)
    return optax.chain(
      recipe.build(point), optax.adam(lambda count: rate * schedule(count))
    )

  def init(params: Any, stats: Any, point: jax.Array) -> Any:
    state = transformation(point, 0.0).init(params)
    before = {name: jnp.ones(()) for name in problem.tasks}
    return params, stats, state, before, (zeros,) * 3

  def step(
    carry: Any,
    point: jax.Array,
    rate: jax.Array,
    data: Batch,
    rows: jax.Array,
  ) -> Any:
    batch = sample(data, rows)
    params, stats, state, before, sums = carry
    (losses, (stats, kpis)), grads = value_and_grads(params, stats, batch)
    active = problem.active(batch)
    may_pass = {"kpis": kpis, "preference": point, "previous_losses": before}
    extra = {name: may_pass[name] for name in recipe.passes}
    updates, state = transformation(point, rate).update(
      grads, state, params, losses=losses, active=active, **extra
    )
    params = optax.apply_updates(params, updates)
    if "previous_losses" in recipe.passes:
      before, _ = problem.forward(params, stats, batch)
    seen = (
      jnp.stack([losses[name] for name in problem.tasks]),
      jnp.stack([active[name] for name in problem.tasks]).astype(jnp.float32),
      optax.tree.get(state, "weights", jnp.full_like(zeros, jnp.nan)),
    )
    sums = tuple(a + b for a, b in zip(sums, seen, strict=True))
    return params, stats, state, before, sums

  return init, step


class Trainer:
  """A method's step, compiled; a call trains one network.

  Attributes:
    flops: Of one step.
    temp_mib: Of one step.
    seconds_per_step: The fastest so far.
  """

  def __init__(self, problem: Problem, recipe: Recipe, settings: Settings):
    """Compiles."""
    self._problem, self._settings = problem, settings
    init, step = make_step(problem, recipe, settings)
    self._first = jax.jit(init)
    self._point = jnp.asarray(recipe.points[0], jnp.float32)
    lowered = jax.jit(step, donate_argnums=0).lower(
      self._start(0, self._point),
      self._point,
      jnp.zeros(()),
      problem.train,
      jnp.zeros(settings.batch_size, jnp.int32),
    )
    self._step = lowered.compile()
    self.flops = float(self._step.cost_analysis()["flops"])
    memory = self._step.memory_analysis()
    self.temp_mib = memory.temp_size_in_bytes / 2**20
    self.seconds_per_step = np.inf

  def _start(self, seed: int, point: jax.Array) -> Any:
    params, stats = _init(self._problem)(jax.random.key(seed))
    return self._first(params, stats, point)

  def __call__(
    self,
    seed: int,
    point: np.ndarray,
    rate: float,
    on_progress: Callable[[int], None] = lambda steps: None,
  ) -> dict[str, Any]:
    """Trains a network.

    Args:
      seed: Of the params and of the order of the batches.
      point: The variant.
      rate: The learning rate at first.
      on_progress: Called with the number of steps done since the last call.

    Returns:
      The fields of a `Run` without the axis of seeds, and "params", "stats".
    """
    problem, settings = self._problem, self._settings
    carry = self._start(seed, jnp.asarray(point, jnp.float32))
    point, rate_now = (jnp.asarray(x, jnp.float32) for x in (point, rate))
    rows = batches(len(problem.train["image"]), settings, seed)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    validation: list[np.ndarray] = []
    for first in range(0, settings.steps, settings.eval_every):
      chunk = rows[first : first + settings.eval_every]
      start = time.perf_counter()
      for row in chunk:
        carry = self._step(carry, point, rate_now, problem.train, row)
      losses, there, weights = jax.device_get(carry[-1])
      seconds = (time.perf_counter() - start) / len(chunk)
      self.seconds_per_step = min(self.seconds_per_step, seconds)
      with np.errstate(invalid="ignore"):
        seen.append((losses / there, weights / len(chunk)))
      validation.append(
        evaluate(problem, carry[0], carry[1], problem.validation)
      )
      zeros = jnp.zeros(problem.num_tasks)
      carry = (*carry[:-1], (zeros, zeros + 0, zeros + 0))
      on_progress(len(chunk))
    losses, weights = map(np.stack, zip(*seen, strict=True))
    return {
      "params": carry[0],
      "stats": carry[1],
      "losses": losses,
      "weights": weights,
      "validation": np.stack(validation),
      "test": evaluate(problem, carry[0], carry[1], problem.test),
    }


def _score(
  problem: Problem, values: np.ndarray, baseline: np.ndarray | None
) -> float:
  """What is to be least: Δm on validation, or a single task's own metric."""
  if baseline is None:
    sign = np.where(problem.higher_is_better, -1.0, 1.0)
    score = float(np.mean(sign * values))
  else:
    score = float(metrics.delta_m(values, baseline, problem.higher_is_better))
  return score if np.isfinite(score) else np.inf


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
      found = trainer(_TUNING_SEED, point, rate, on_progress)
      scores.append(_score(problem, found["validation"][-1], baseline))
      tried.append([rate, scores[-1], *map(float, point)])
    return candidates[int(np.argmin(scores))], min(scores)

  middle = settings.rates[len(settings.rates) // 2]
  point, rate, score = recipe.points[0], middle, np.inf
  if len(recipe.points) > 1 or len(settings.rates) > 1:
    (point, _), score = best([(point, middle) for point in recipe.points])
  others = [other for other in settings.rates if other != middle]
  if others:
    (_, other), its_score = best([(point, other) for other in others])
    if its_score < score:
      rate = other
  return point, rate, tried


def num_trainings(label: str, num_tasks: int, settings: Settings) -> int:
  """How many networks a row takes, those that tune it included."""
  points = len(recipes.sweep_weights(num_tasks, 9))
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
  outputs = jax.jit(problem.outputs)(
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
