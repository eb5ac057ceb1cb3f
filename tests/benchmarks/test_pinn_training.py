"""Short trainings of physics-informed networks, and what is reported."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl
from benchmarks.pinn import (
  compare,
  network,
  recipes,
  report,
  training,
)
from benchmarks.pinn.problem import RESIDUAL
from benchmarks.pinn.problems import PROBLEMS

problem_named = functools.cache(lambda name: PROBLEMS[name]())


def test_what_networks_share_is_carried_once():
  """A counter is; params and what follows from the seed are not."""
  tx = optax_mtl.refresh_every(optax_mtl.mgda(2), 10)

  def init(key, point):
    params = jax.random.normal(key, (3,))
    return params, tx.init(params)

  def step(carry, point, key, index):
    params, state = carry
    updates, state = tx.update(jnp.stack([params, -params]), state)
    return (params - updates, state), ()

  axes = training.common_leaves(init, step, jax.random.key(0), jnp.zeros(()))
  carry = init(jax.random.key(0), jnp.zeros(()))
  axes = jax.tree.unflatten(jax.tree.structure(carry), axes)
  assert axes[0] == 0
  assert axes[1].weights == 0
  leaves = jax.tree.leaves(axes[1], is_leaf=lambda axis: axis is None)
  assert None in leaves


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
  """A short training of two methods, and what it wrote."""
  out = tmp_path_factory.mktemp("pinn")
  argv = ["--steps", "4", "--seeds", "2", "--methods", "equal_weighting"]
  # A small network: compiling is what takes the time.
  small = dataclasses.replace(
    problem_named("helmholtz"), init=network.init([2, 4, 1])
  )
  with (
    jax.numpy_dtype_promotion("standard"),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(compare, "PROBLEMS", {"helmholtz": lambda: small})
    assert compare.main([*argv, "--out", str(out), "--markdown"]) == 0
  return out, argv


def test_writes_json_pictures_and_one_page(compared):
  out, _ = compared
  data = json.loads((out / "pinn_helmholtz.json").read_text())
  (row,) = data["rows"].values()
  assert len(row["errors"]) == len(row["at_time"]) == 2
  assert row["time"] == row["flops"] == 1
  page = (out / "pinn_helmholtz.html").read_text(encoding="utf-8")
  # Curves have names; the fields are a picture.
  assert page.count("data:image/png;base64,") == 1
  assert page.count("<svg") == 2
  assert 'src="http' not in page


@pytest.mark.standard_promotion
def test_what_is_done_is_not_done_again(compared, monkeypatch):
  out, argv = compared

  def never(*args, **kwargs):
    raise AssertionError("Trained again.")

  shown = []
  monkeypatch.setattr(compare, "train", never)
  monkeypatch.setattr(compare, "show", lambda *args: shown.append(args[2]))
  assert compare.main([*argv, "--out", str(out)]) == 0
  (runs,) = shown
  assert list(runs) == ["equal_weighting"]
  assert runs["equal_weighting"].errors.shape == (1, 2, 4)
  # Other settings are another comparison.
  with pytest.raises(AssertionError, match="again"):
    compare.main([*argv, "--out", str(out), "--steps", "2"])


def test_an_unknown_method_is_named(capsys):
  assert compare.main(["--methods", "nonsense"]) == 2
  assert "nonsense" in capsys.readouterr().out


def a_run(errors, seconds=1.0):
  """A run of one variant, from its errors [S, E]."""
  errors = np.asarray(errors, np.float64)[None]
  rest = np.ones((*errors.shape, 2))
  steps = 10 * np.arange(1, errors.shape[2] + 1)
  return training.Run(
    steps, errors, rest, rest, np.zeros(4), {}, seconds, 1.0, 0.0
  )


def test_equal_time_is_that_of_equal_weights():
  runs = {
    "equal_weighting": a_run([[0.8, 0.4], [0.8, 0.4]]),
    # Twice as slow: at equal time it has done half of the steps.
    "mgda": a_run([[0.2, 0.1], [0.2, np.nan]], seconds=2.0),
    # Twice as fast, and so trained twice as long.
    "upgrad": a_run([[0.9, 0.8, 0.7, 0.6]] * 2, seconds=0.5),
  }
  rows = report.summarize(runs, 20)
  assert rows["mgda"].at_time.tolist() == [0.2, 0.2]
  assert rows["upgrad"].errors.tolist() == [0.8, 0.8]
  assert rows["upgrad"].at_time.tolist() == [0.6, 0.6]
  assert rows["mgda"].time == 2
  # One of two seeds has diverged: the median over both is infinite.
  assert rows["mgda"].median == np.inf
  problem = problem_named("helmholtz")
  assert "decides little" in report.sentence(problem, rows)
  runs["mgda"] = a_run([[0.2, 0.01]] * 2, seconds=2.0)
  rows = report.summarize(runs, 20)
  text = report.sentence(problem, rows)
  assert "mgda" in text and "40 times less" in text and "2.00 times" in text
  assert report.markdown(rows).count("\n") == 4


def test_the_best_point_of_a_sweep_is_its_row():
  run = a_run([[0.5]])
  run.errors = np.array([[[0.5]], [[0.1]], [[np.nan]]])
  run.losses = run.weights = np.ones((3, 1, 1, 2))
  rows = report.summarize(
    {"equal_weighting": a_run([[0.3]])} | {recipes.SWEEP: run}, 10
  )
  assert rows[recipes.SWEEP].point == 1
  assert rows[recipes.SWEEP].label == "fixed_weighting, conditions x 100"


def test_sweep_leaves_the_residual_as_it_is():
  problem = problem_named("burgers")
  weights = recipes.sweep_weights(problem)
  row = problem.task_names.index(RESIDUAL)
  assert (weights[:, row] == 1).all()
  assert (
    np.delete(weights, row, axis=1) == [[10] * 2, [100] * 2, [1000] * 2]
  ).all()
