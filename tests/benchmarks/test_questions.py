"""Questions: which rows they need, which rates they take, what they answer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.dense import recipes as dense_recipes
from benchmarks.dense.trainer import Settings
from benchmarks.pinn import recipes as pinn_recipes
from benchmarks.pinn.training import Run
from benchmarks.pinn.training import Settings as PinnSettings
from benchmarks.questions import answer, asked, report, training
from benchmarks.questions.asked import EQUAL, QUESTIONS
from benchmarks.questions.training import Dense, Pinn, Row

ALL = list(QUESTIONS)


# -- what is asked -------------------------------------------------------------


def test_rows_come_after_what_they_are_made_from():
  for problem in ("dense", "pinn"):
    labels = asked.needed(ALL, problem)
    assert labels[0] == EQUAL and len(set(labels)) == len(labels)
    for label in labels:
      base = label.removesuffix("-frozen")
      assert labels.index(base) <= labels.index(label)
  assert asked.needed(["muon"], "dense") == []


def test_every_row_has_a_recipe():
  for label in asked.needed(ALL, "dense"):
    assert dense_recipes.is_known(label.removesuffix("-frozen"))
  for label in asked.needed(ALL, "pinn"):
    base = label.removesuffix("-frozen").removesuffix("-muon")
    assert base in pinn_recipes.labels()


# -- how it is trained ---------------------------------------------------------


class FewTasks:
  """What the dense rows ask a problem for."""

  num_tasks = 2
  higher_is_better = (False, True)
  tasks = ("depth", "segmentation")
  train = {"image": np.zeros(8)}  # noqa: RUF012


def test_dense_rows_are_trained_at_the_rates_that_are_asked_for(monkeypatch):
  """A trainer that knows which rate is best, and says what it was given."""
  made = []

  class Fake:
    def __init__(self, problem, recipe, settings):
      made.append((recipe, []))
      # SGD's rates are others.
      self.best = recipe.rate_factor * made[0][0].best

    def __call__(self, seed, point, rate):
      recipe, calls = made[-1]
      calls.append((seed, rate))
      error = 1 + abs(np.log(rate / self.best))
      metrics = np.array([error, 1 / error])
      return {
        "validation": metrics[None],
        "test": metrics + seed,
        "weights": np.array([[rate, 1.0], [3 * rate, 1.0]]),
      }

  def recipe(label, problem, steps, epoch):
    found = real(label, problem, steps, epoch)
    object.__setattr__(found, "best", 1e-2)
    return found

  real = dense_recipes.recipe
  monkeypatch.setattr(training.dense_recipes, "recipe", recipe)
  monkeypatch.setattr(training.dense_trainer, "Trainer", Fake)
  settings = Settings(4, 4, 2, 4, (1e-3, 3e-3, 1e-2))
  dense = Dense(FewTasks(), settings)
  rows = {}
  for label in (EQUAL, f"{EQUAL}-sgd", "mgda-l2", "mgda-l2-ub-frozen"):
    if label.endswith("frozen"):
      rows["mgda-l2-ub"] = dense.train("mgda-l2-ub", rows)
    rows[label] = dense.train(label, rows)
  # Every rate once to choose; then two seeds at the best, and of equal weights,
  # which the questions ask for untuned too, at the middle.
  assert [len(calls) for _, calls in made] == [3 + 4, 3 + 2, 3 + 2, 7, 3 + 2]
  assert np.isfinite(rows[EQUAL].test).all(axis=(1, 2)).tolist() == [
    *(False, True, True)
  ]
  sgd = rows[f"{EQUAL}-sgd"]
  np.testing.assert_allclose(sgd.rates, 30 * np.array(settings.rates))
  assert training.best(dense, rows, f"{EQUAL}-sgd") == 2
  # Against equal weights at the middle rate.
  assert dense.validate(rows, rows[EQUAL].validation)[1] == 0
  # The weights are those at the best rate, and the heads get what they got.
  frozen, _ = made[-1]
  np.testing.assert_allclose(frozen.points, [[2e-2, 1.0]])
  assert frozen.source == "implicit" and frozen.heads == "sum"


class Equation:
  """What the equation's rows ask a problem for."""

  num_tasks = 2
  task_names = ("boundary", "residual")


@pytest.mark.standard_promotion
def test_an_equations_rates_and_optimizers_are_in_its_points(monkeypatch):
  given = []

  def train(problem, recipe, settings):
    given.append(recipe)
    shape = len(recipe.points), settings.num_seeds
    errors = np.arange(np.prod(shape)).reshape(*shape, 1) + 1.0
    weights = np.broadcast_to([1.0, 3.0], (*shape, 1, 2))
    return Run(
      np.array([1]), errors, weights, weights, np.zeros(1), {}, 1.0, 1.0, 0.0
    )

  monkeypatch.setattr(training.pinn_training, "train", train)
  rate = optax.constant_schedule(1e-2)
  pinn = Pinn(Equation(), PinnSettings(4, 2, 1, rate), (0.5, 1.0, 2.0))
  rows = {}
  for label in ("dwa", "dwa-frozen", f"{EQUAL}-muon"):
    rows[label] = pinn.train(label, rows)
  row = rows["dwa"]
  np.testing.assert_allclose(row.rates, [5e-3, 1e-2, 2e-2])
  # Of three seeds the first chooses, and is not in the table.
  assert row.test[..., 0].tolist() == [[2, 3], [5, 6], [8, 9]]
  np.testing.assert_allclose(row.validation[:, 0], [1, 4, 7])

  @jax.jit
  def steps(gradients):
    params = jnp.zeros(2)
    found = []
    for recipe in given[:2]:
      for factor in (0.5, 2.0):
        tx = recipe.build(jnp.array([factor]))
        updates, state = tx.update(
          gradients, tx.init(params), params, losses=jnp.ones(2)
        )
        found.append((updates, optax.tree.get(state, "weights")))
    return found

  found = steps(jnp.array([[1.0, 2.0], [3.0, -1.0]]))
  # Adam's first step is as long as its rate.
  for (updates, _), factor in zip(found, (0.5, 2.0, 0.5, 2.0), strict=True):
    np.testing.assert_allclose(abs(updates), factor * 1e-2, rtol=1e-5)
  # The mean weights, which the method's own are not.
  assert found[2][1].tolist() == [1.0, 3.0] != found[0][1].tolist()
  optimizers = [
    repr(jax.eval_shape(recipe.build(jnp.ones(1)).init, jnp.zeros((2, 2))))
    for recipe in given
  ]
  assert ["Muon" in one for one in optimizers] == [False, False, True]


# -- what is answered ----------------------------------------------------------


class Scores:
  """Trainers whose metrics are scores."""

  def __init__(self, factor):
    self.factor, self.labels = factor, []

  def train(self, label, rows):
    self.labels.append(label)
    factor = self.factor(label)
    spread = np.array([0.0, 0.1, 0.2])
    # The third rate is best for equal weights, the first for all else.
    order = [2.0, 1.0, 0.0] if label == EQUAL else [0.0, 1.0, 2.0]
    return Row(
      rates=np.array([1.0, 2.0, 3.0]),
      validation=np.array(order)[:, None],
      test=np.array([[factor + 10 * one] for one in order])[..., None]
      + spread[None, :, None],
      weights=np.ones((3, 2)),
    )

  def score(self, rows, metrics):
    return metrics[..., 0]

  validate = score


@pytest.fixture
def answered(tmp_path, monkeypatch):
  """All questions: methods are better, but not frozen, nor with SGD or muon."""

  def factor(label):
    ended = label.endswith(("-frozen", "-sgd", "-muon"))
    return -1.0 if label != EQUAL and not ended else 0.0

  fakes = {"dense": Scores(factor), "pinn": Scores(factor)}
  monkeypatch.setattr(answer, "trainers", lambda args: fakes)
  argv = ["--out", str(tmp_path), "--markdown"]
  assert answer.main(argv) == 0
  return tmp_path, fakes, argv


def test_answers_follow_from_the_numbers(answered, capsys):
  out, _, argv = answered
  assert answer.main(argv) == 0
  found = json.loads((out / "answers.json").read_text())["answers"]
  assert list(found) == ALL
  sentences = {name: one["sentence"] for name, one in found.items()}
  assert "With Adam 3 of 3 methods are better" in sentences["adam"]
  assert "with SGD 0 of 3" in sentences["adam"]
  assert "shows no gain" in sentences["adam"]
  assert "it does make them unnecessary" in sentences["muon"]
  # -ub is as good as what it is compared with, and so is -refreshed.
  assert sentences["cheaper"].count("of 2, 2 even") == 2
  assert "no cost" in sentences["cheaper"]
  assert "method that found them: of 4, 4 worse" in sentences["frozen"]
  assert "against equal weights: of 4, 4 even" in sentences["frozen"]
  # At its middle rate equal weights are ten points worse than at its best;
  # methods at that rate, which is their worst, are nineteen.
  assert "by -10.0 points (dense)" in sentences["tuned"]
  assert "neither tuned: 5 of 5" in sentences["tuned"]
  assert "equal weights tuned: 0 of 5" in sentences["tuned"]
  assert "both tuned: 5 of 5" in sentences["tuned"]
  lines = found["tuned"]["lines"]
  both = [one for one in lines if one["comparison"]["group"] == "both tuned"]
  assert {(one["rate"], one["against_rate"]) for one in both} == {(1.0, 3.0)}
  assert {one["verdict"] for one in both} == {"better"}
  text = capsys.readouterr().out
  assert text.count("| problem | row |") == len(ALL)
  assert "| × 0.368 [0.368, 0.368] | better |" in text


def test_what_is_done_is_not_done_again(answered):
  _, fakes, argv = answered
  before = {name: list(fake.labels) for name, fake in fakes.items()}
  assert answer.main(argv) == 0
  assert {name: fake.labels for name, fake in fakes.items()} == before
  # The dense rows do not depend on the equation's steps.
  assert answer.main([*argv, "--pinn-steps", "5"]) == 0
  assert fakes["dense"].labels == before["dense"]
  assert fakes["pinn"].labels == 2 * before["pinn"]


def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch, capsys):
  fake = Scores(lambda label: 0.0)

  def train(label, rows):
    if len(rows) == 2:
      raise KeyboardInterrupt
    return Scores.train(fake, label, rows)

  fake.train = train
  monkeypatch.setattr(answer, "trainers", lambda args: {"pinn": fake})
  argv = ["--questions", "muon", "--out", str(tmp_path)]
  assert answer.main(argv) == 0
  text = capsys.readouterr().out
  assert "2 rows are done and kept" in text
  assert "Not all rows are trained yet." in text


def test_what_diverges_is_said_to(answered):
  _, fakes, _ = answered
  rows = {EQUAL: fakes["dense"].train(EQUAL, {})}
  rows["mgda-l2"] = fakes["dense"].train("mgda-l2", {})
  rows["mgda-l2-ub"] = fakes["dense"].train("mgda-l2-ub", {})
  rows["mgda-l2-ub"].test[0, 1] = np.inf
  lines = report.lines("cheaper", fakes, {"dense": rows})
  assert [line.verdict for line in lines] == ["diverged"]
  assert "| – | diverged |" in report.markdown(lines)


def test_an_unknown_question_is_named(capsys):
  with pytest.raises(SystemExit):
    answer.parse(["--questions", "adam,nonsense"])
  assert "nonsense" in capsys.readouterr().err
