"""Trains the rows that questions need.

Nothing is trained in a way of its own here: the dense problem's and the
equations' trainers do it. What is said of a row are its metrics, on networks
that choose a learning rate and on networks that are in the table.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import optax

import optax_mtl
from benchmarks.common import tuning
from benchmarks.dense import recipes as dense_recipes
from benchmarks.dense import trainer as dense_trainer
from benchmarks.dense.problem import Problem as DenseProblem
from benchmarks.dense.training import TUNING_SEED
from benchmarks.pinn import recipes as pinn_recipes
from benchmarks.pinn import training as pinn_training
from benchmarks.pinn.problem import Problem as PinnProblem
from benchmarks.questions.asked import DENSE_METHODS, EQUAL, FROZEN, MUON, Rate

#: Of an equation's networks, which are trained at once, the first chooses the
#: learning rate.
_TUNING_SEEDS = 1


@dataclasses.dataclass(frozen=True)
class Row:
  """What one label left behind; R rates, S seeds, K metrics, T tasks.

  Attributes:
    rates: [R].
    validation: [R, K], of networks that are not in the table.
    test: [R, S, K], of those that are; NaN at rates that nothing asks for.
    weights: [R, T], the mean over steps and seeds; NaN likewise.
  """

  rates: np.ndarray
  validation: np.ndarray
  test: np.ndarray
  weights: np.ndarray

  @classmethod
  def from_data(cls, data: Mapping[str, Any]) -> "Row":
    """The row that `dataclasses.asdict` made that of, through JSON."""
    return cls(
      **{key: np.asarray(value, np.float64) for key, value in data.items()}
    )


Rows = Mapping[str, Row]


class Trainer(Protocol):
  """What trains the rows of one problem, and says what is good."""

  def train(self, label: str, rows: Rows) -> Row:
    """Trains a row; what it is made from is among those that are done."""
    ...

  def score(self, rows: Rows, metrics: np.ndarray) -> np.ndarray:
    """[...] of metrics [..., K]; lower is better, and differences count."""
    ...

  def validate(self, rows: Rows, metrics: np.ndarray) -> np.ndarray:
    """The same, of metrics on validation."""
    ...


def best(trainer: Trainer, rows: Rows, label: str) -> int:
  """The index of the rate that is best for a row on validation."""
  scores = trainer.validate(rows, rows[label].validation)
  return int(np.argmin(np.nan_to_num(scores, nan=np.inf)))


def chosen(trainer: Trainer, rows: Rows, label: str, rate: Rate) -> int:
  """The index of the rate that is meant."""
  if rate == "middle":
    return len(rows[label].rates) // 2
  return best(trainer, rows, EQUAL if rate == "equal's" else label)


def _found_weights(trainer: Trainer, rows: Rows, label: str) -> np.ndarray:
  """The mean weights [T] of the method whose frozen weights a label names."""
  base = label.removesuffix(f"-{FROZEN}")
  return rows[base].weights[best(trainer, rows, base)]


class Dense:
  """Dense prediction.

  What is good is a change against equal weights at the grid's middle rate: the
  mean over tasks of the metrics' relative changes, in percent. So no
  single-task networks have to be trained.
  """

  def __init__(self, problem: DenseProblem, settings: dense_trainer.Settings):
    """Keeps them."""
    self._problem, self._settings = problem, settings

  def _recipe(self, label: str, rows: Rows) -> dense_recipes.Recipe:
    problem, settings = self._problem, self._settings
    epoch = max(1, len(problem.train["image"]) // settings.batch_size)
    base = label.removesuffix(f"-{FROZEN}")
    recipe = dense_recipes.recipe(base, problem, settings.steps, epoch)
    if base == label:
      return recipe
    # The heads get what they got from the method.
    return dataclasses.replace(
      dense_recipes.recipe(dense_recipes.SWEEP, problem, settings.steps, epoch),
      points=_found_weights(self, rows, label)[None],
      heads=recipe.heads,
    )

  def train(self, label: str, rows: Rows) -> Row:
    """At the rates that are asked for, one network after another."""
    settings = self._settings
    recipe = self._recipe(label, rows)
    trainer = dense_trainer.Trainer(self._problem, recipe, settings)
    rates = recipe.rate_factor * np.asarray(settings.rates)
    number, tasks = len(rates), self._problem.num_tasks
    validation = np.stack(
      [
        trainer(TUNING_SEED, recipe.points[0], rate)["validation"][-1]
        for rate in rates
      ]
    )
    row = Row(
      rates=rates,
      validation=validation,
      test=np.full((number, settings.num_seeds, tasks), np.nan),
      weights=np.full((number, tasks), np.nan),
    )
    known = {**rows, label: row}
    wanted = {best(self, known, label)}
    if label in (EQUAL, *DENSE_METHODS):
      wanted |= {number // 2, best(self, known, EQUAL)}
    for index in sorted(wanted):
      found = [
        trainer(seed, recipe.points[0], rates[index])
        for seed in range(settings.num_seeds)
      ]
      row.test[index] = [one["test"] for one in found]
      row.weights[index] = np.mean(
        [one["weights"].mean(axis=0) for one in found], axis=0
      )
    return row

  def _change(self, metrics: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    return tuning.score(metrics, baseline, self._problem.higher_is_better)

  def score(self, rows: Rows, metrics: np.ndarray) -> np.ndarray:
    """Percent, of test metrics [..., T]."""
    equal = rows[EQUAL].test
    return self._change(metrics, equal[len(equal) // 2].mean(axis=0))

  def validate(self, rows: Rows, metrics: np.ndarray) -> np.ndarray:
    """Percent, of metrics [..., T] on validation."""
    equal = rows[EQUAL].validation
    return self._change(metrics, equal[len(equal) // 2])


class Pinn:
  """An equation, all rates and seeds at once; what is good is the log error."""

  def __init__(
    self,
    problem: PinnProblem,
    settings: pinn_training.Settings,
    factors: Sequence[float],
  ):
    """Keeps them.

    Args:
      problem: The equation.
      settings: With the number of seeds in the table.
      factors: The rates, in those of the settings.
    """
    self._problem, self._factors = problem, np.asarray(factors)
    self._settings = dataclasses.replace(
      settings, num_seeds=settings.num_seeds + _TUNING_SEEDS
    )

  def _recipe(self, label: str, rows: Rows) -> pinn_training.Recipe:
    """The label's recipe, whose points are factors of the rate."""
    base = label.removesuffix(f"-{FROZEN}").removesuffix(f"-{MUON}")
    problem, settings = self._problem, self._settings
    recipe = pinn_recipes.recipe(base, problem, settings.steps)
    build, optimizer = recipe.build, recipe.optimizer
    if label.endswith(FROZEN):
      weights = _found_weights(self, rows, label)
      build = lambda _: optax_mtl.fixed_weighting(len(weights), weights)  # noqa: E731
    if label.endswith(MUON):
      optimizer = pinn_recipes.muon

    def whole(factor: jax.Array) -> optax.GradientTransformationExtraArgs:
      def rate(count: jax.typing.ArrayLike) -> Any:
        return factor[0] * settings.rate(count)

      return optax.chain(build(factor), optimizer(rate))

    return dataclasses.replace(
      recipe,
      build=whole,
      points=self._factors[:, None],
      optimizer=lambda rate: optax.identity(),
    )

  def train(self, label: str, rows: Rows) -> Row:
    """At all rates."""
    run = pinn_training.train(
      self._problem, self._recipe(label, rows), self._settings
    )
    errors = run.errors[:, :, -1, None]
    tuned, rest = errors[:, :_TUNING_SEEDS], errors[:, _TUNING_SEEDS:]
    return Row(
      rates=self._factors * np.asarray(self._settings.rate(0)),
      # Of errors the geometric mean.
      validation=np.exp(np.log(tuned).mean(axis=1)),
      test=rest,
      weights=run.weights.mean(axis=(1, 2)),
    )

  def score(self, rows: Rows, metrics: np.ndarray) -> np.ndarray:
    """The logarithm of errors [..., 1]; infinite where it has diverged."""
    del rows
    return tuning.score(np.log(metrics), None, [False])

  validate = score
