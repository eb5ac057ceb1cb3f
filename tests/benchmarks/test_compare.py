"""The main job, on a few steps: what it writes, keeps, and tunes."""

import json

import jax
import numpy as np
import pytest

import optax_mtl
from benchmarks.common import examples
from benchmarks.common.sweeps import sweep_weights
from benchmarks.data import datasets
from benchmarks.networks import trunk_and_heads
from benchmarks.quality import compare, recipes, training

pytest.importorskip("sklearn")

SMALL = ["--steps", "4", "--seeds", "2", "--batch-size", "8", "--sweep", "3"]
#: With the first of them nothing moves.
STUCK, MOVES = 1e-30, 1e-2
TUNED = [*SMALL, "--rates", f"{STUCK},{MOVES}", "--held-out", "100"]

#: Label -> what training left behind, of the one comparison that trains.
TRAINED = {}


def kept(problem, recipe, *args, **kwargs):
  TRAINED[recipe.label] = training.train(problem, recipe, *args, **kwargs)
  return TRAINED[recipe.label]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  """A comparison with each kind of recipe, of which each is a program."""
  out = tmp_path_factory.mktemp("compare")
  argv = [*TUNED, "--methods", "pareto_mtl", "--out", str(out), "--markdown"]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compare, "train", kept)
    assert compare.main(argv) == 0
  return out


def test_writes_json_pictures_and_one_page(report):
  data = json.loads((report / "compare.json").read_text())
  labels = [row["label"] for row in data["rows"]]
  assert labels == [
    "single_task",
    "equal_weighting",
    "fixed_weighting",
    "pareto_mtl",
  ]
  for row in data["rows"]:
    assert len(row["mean"]) == len(row["spread"]) == len(data["tasks"])
    assert row["steps_per_second"] > 0
    assert row["peak_mib"] > 0
    # They are not counted where weights are fixed.
    fixed = row["label"] in ("single_task", "fixed_weighting")
    assert (
      np.isnan(row["conflict_rate"]) if fixed else row["conflict_rate"] <= 1
    )
  # Three points and two seeds, four steps one by one, two tasks.
  assert len(data["runs"]["fixed_weighting"]["weights"]) == 3
  pictures = {path.name for path in report.glob("*.png")}
  assert pictures == {
    "learning_curves.png",
    "test_metrics.png",
    "trade_off.png",
    "weights.png",
  }
  page = (report / "report.html").read_text(encoding="utf-8")
  assert page.count("<svg") == 4
  assert 'src="http' not in page


def test_single_task_networks_are_the_baseline(report):
  data = json.loads((report / "compare.json").read_text())
  single, *others = data["rows"]
  assert single["delta_m"] == 0
  # delta_m again from the definition, for accuracy, where higher is better.
  for row in others:
    pairs = zip(row["mean"], single["mean"], strict=True)
    expected = 100 * sum((b - m) / b for m, b in pairs) / 2
    # float32 means of two numbers near 1.
    assert row["delta_m"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_weights_of_the_sweep_are_what_was_asked_for(report):
  data = json.loads((report / "compare.json").read_text())
  run = data["runs"]["fixed_weighting"]
  assert run["points"] == [[0.5, 1.5], [1.0, 1.0], [1.5, 0.5]]
  for point, seeds in zip(run["points"], run["weights"], strict=True):
    assert seeds[0][0] == point


@pytest.mark.usefixtures("report")
def test_one_seed_is_one_start_and_one_order_of_batches():
  """Whatever the method: the first losses are those of the same params."""
  first = [run.losses[:, :, 0] for run in TRAINED.values()]
  assert [len(losses) for losses in first] == [2, 1, 3, 5]
  expected = first[1][0]
  assert (expected[0] != expected[1]).all(), "two seeds"
  for losses in first:
    # The same sums, in programs for more or fewer networks.
    np.testing.assert_allclose(
      losses, np.broadcast_to(expected, losses.shape), rtol=1e-5
    )


@pytest.mark.usefixtures("report")
def test_validation_chooses_a_rate_for_each_point():
  single = TRAINED["single_task"]
  baseline = np.mean(
    [single.validation_metrics[task, :, task] for task in range(2)], axis=1
  )
  for label, run in TRAINED.items():
    assert run.tried.shape == (len(run.losses), 2)
    assert (run.tried[:, 0] != run.tried[:, 1]).any()
    best = run.tried.argmin(axis=1)
    assert run.rate.tolist() == [[STUCK, MOVES][index] for index in best]
    mean = run.validation_metrics.mean(axis=1)
    if label == "single_task":
      expected = [-mean[task, task] for task in range(2)]
    else:
      expected = 100 * ((baseline - mean) / baseline).mean(axis=1)
    # float32 means of two numbers near 1, in percent.
    np.testing.assert_allclose(
      run.tried.min(axis=1), expected, rtol=1e-4, atol=1e-4
    )
    # All networks of a point are those with its rate: of both seeds the
    # metrics move, or those of none.
    moved = (run.test_metrics[:, :, -1] != run.test_metrics[:, :, 0]).any(-1)
    assert (moved == (run.rate == MOVES)[:, None]).all()


def test_what_is_done_is_not_done_again(report, monkeypatch):
  def never(*args, **kwargs):
    raise AssertionError("Trained again.")

  monkeypatch.setattr(compare, "train", never)
  shown = []
  monkeypatch.setattr(
    compare.report, "write", lambda *args: shown.append(args[2]) or ([], None)
  )
  argv = [*TUNED, "--methods", "pareto_mtl", "--out", str(report)]
  assert compare.main(argv) == 0
  (runs,) = shown
  for label, (_, run) in runs.items():
    np.testing.assert_array_equal(run.tried, TRAINED[label].tried)
  for other in (["--rates", "1e-3"], ["--fresh"]):
    with pytest.raises(AssertionError, match="again"):
      compare.main([*argv, *other])


@pytest.mark.parametrize("rates", ["0", "1e-3,-1", "fast", ""])
def test_rates_are_positive_numbers(rates, capsys):
  with pytest.raises(SystemExit):
    compare.parse(["--rates", rates])
  assert "--rates" in capsys.readouterr().err


@pytest.mark.usefixtures("report")
def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch, capsys):
  finished = []

  def interrupted(problem, recipe, *args, **kwargs):
    if len(finished) == 2:
      raise KeyboardInterrupt
    finished.append(recipe.label)
    return TRAINED[recipe.label]

  monkeypatch.setattr(compare, "train", interrupted)
  argv = [*SMALL, "--methods", "mgda", "--out", str(tmp_path)]
  assert compare.main(argv) == 0
  data = json.loads((tmp_path / "compare.json").read_text())
  assert [row["label"] for row in data["rows"]] == finished
  assert "2 of 4 are done and kept" in capsys.readouterr().out


def test_a_missing_file_says_where_to_get_it(tmp_path, capsys):
  argv = ["--dataset", "census", "--data-dir", str(tmp_path)]
  assert compare.main(argv) == 2
  assert "census.npz" in capsys.readouterr().out


def test_an_unknown_method_is_named(capsys):
  with pytest.raises(SystemExit):
    compare.main(["--methods", "mgda,nonsense"])
  assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("num_tasks", [2, 3, 7])
def test_sweep_weights_sum_to_the_number_of_tasks(num_tasks):
  weights = sweep_weights(num_tasks, 9)
  # Sums of at most 7 float64 numbers below 7.
  assert abs(weights.sum(axis=1) - num_tasks).max() < 1e-14
  assert (weights > 0).all()


def test_every_row_by_default_can_be_built():
  # That each trains shows a run without --methods.
  problem = trunk_and_heads.build(datasets.load("digits", None))
  params = jax.eval_shape(problem.init, jax.random.key(0))
  passed = {"losses", "kpis", "preference", "second_grads"}
  for name in compare.parse([]).names:
    recipe = recipes.recipe(name, problem, training.Settings(), 3)
    jax.eval_shape(recipe.build(recipe.points[0]).init, params)
    if name in optax_mtl.METHODS:
      assert set(examples.example(name, 2)[1]) <= passed
