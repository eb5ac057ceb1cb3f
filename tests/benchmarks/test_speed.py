"""The benchmarks of speed on tiny sizes, without the peer."""

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from benchmarks.accuracy import judge  # noqa: E402
from benchmarks.accuracy.judge import Problem  # noqa: E402
from benchmarks.common import (  # noqa: E402
  contenders,
  matrices,
  timing,
  trees,
)
from benchmarks.reference.solvers import (  # noqa: E402
  bargaining,
  conflict_averse,
)
from benchmarks.speed import (  # noqa: E402
  aggregate,
  aggregate_report,
  compile_time,
  decoders,
  each_loss,
  solver_times,
  tracking,
)

#: What float32 loses at most in the updates below, relative to their length:
#: tens of roundings of 6e-8, times the conditions of Gram matrices of four
#: independent rows in 64 dimensions, at most a few.
FLOAT32 = 1e-5


@pytest.fixture
def no_peer(monkeypatch):
  monkeypatch.setattr(contenders, "peer_version", lambda threads: None)


def run(tmp_path, *options):
  argv = ["--seconds=0.01", "--repeats=2", f"--out={tmp_path}", *options]
  return aggregate.main(argv)


# -- what is measured ----------------------------------------------------------


def test_trees_hold_every_parameter():
  for name in trees.TREES:
    for num_params in (32, 64, 12_345, 1_000_000):
      shapes = trees.tree_shapes(name, num_params)
      assert sum(map(math.prod, shapes)) == num_params
  assert len(trees.tree_shapes("transformer", 10_000_000)) > 100


def test_tree_and_vector_are_the_matrix():
  matrix = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)
  tree = trees.as_tree(matrix, trees.tree_shapes("transformer", 64))
  rows = {name: leaf[1] for name, leaf in tree.items()}
  np.testing.assert_array_equal(trees.as_vector(rows), matrix[1])


def test_interleave_counts_and_orders():
  calls = []
  runs = {name: lambda name=name: calls.append(name) for name in "ab"}
  timings = timing.interleave(runs, repeats=3, seconds=1.0)
  assert {t.blocks for t in timings.values()} == {3}
  assert calls.count("a") > 3  # blocks of many calls
  slow = {"slow": lambda: time.sleep(0.02), "fast": lambda: None}
  timings = timing.interleave(slow, repeats=5, seconds=0.01)
  assert timings["slow"].blocks == 1 and timings["fast"].blocks == 5
  # Sleeping takes no processor time.
  assert timings["slow"].median >= 0.02 > timings["slow"].cpu


def test_in_turn_warms_up_and_orders():
  calls = []
  runs = {name: lambda name=name: calls.append(name) for name in "ab"}
  seconds = timing.in_turn(
    runs,
    2,
    before=lambda name: calls.append(name.upper()),
    after_round=lambda: calls.append("|"),
  )
  assert "".join(calls) == 3 * "AaBb|"
  assert {len(s) for s in seconds.values()} == {2}
  # Before a block the clock stands still.
  runs = {"fast": lambda: None}
  slow = timing.in_turn(runs, 1, before=lambda name: time.sleep(0.02))
  assert slow["fast"][0] < 0.02
  assert timing.median_ratio([1.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2


def test_every_contender_is_judged():
  distances = {n for n, kind in judge.KINDS.items() if kind == "distance"}
  assert set(judge.KINDS) == set(contenders.METHODS)
  assert distances == set(judge._RIGHT)


@pytest.mark.parametrize("name", matrices.TIMED)
def test_timed_families_draw_in_float32(name):
  rng = np.random.default_rng(0)
  matrix = matrices.TIMED[name](rng, 3, 64, np.float32)
  assert matrix.shape == (3, 64) and matrix.dtype == np.float32


# -- the errors ----------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  return Problem(matrices.conflicting(rng, 4, 64, np.float32))


def test_factor_does_not_depend_on_how_it_is_made(problem, monkeypatch):
  monkeypatch.setattr("benchmarks.accuracy.judge._EXACT_COLUMNS", 0)
  monkeypatch.setattr("benchmarks.accuracy.judge._CHUNK", 7)
  chunked = Problem(problem.matrix)
  for p in (problem, chunked):
    np.testing.assert_allclose(p.factor @ p.factor.T, problem.gram, rtol=1e-10)
  weights = np.arange(4.0)
  update = (weights @ problem.matrix.astype(np.float64)).astype(np.float32)
  assert chunked.distance(update, weights) < 1e-6
  update[-1] += 0.1 * np.linalg.norm(update)
  assert chunked.distance(update, weights) == pytest.approx(0.1, rel=1e-3)


def test_cagrad_reference_is_optimal(problem):
  c = 0.5
  weights = problem.cagrad(c) - 1 / 4
  weights /= weights.sum()
  # The duality gap bounds the error of the objective.
  size = abs(conflict_averse.objective(problem.factor, weights, c))
  assert conflict_averse.gap(problem.factor, weights, c) < 1e-9 * size


def test_errors_see_errors(problem):
  best = problem.mgda() @ problem.matrix.astype(np.float64)
  assert problem.length(best) < 1e-12
  assert problem.length(1.5 * best) == pytest.approx(0.5)
  weights = bargaining.fairness(problem.factor, 2.0)
  assert problem.residual(3 * weights, 2.0) < 1e-9
  assert problem.residual(weights * [1, 1, 1, 1.1], 2.0) > 0.01
  assert problem.residual(weights * [1, 1, 1, -1], 2.0) == math.inf
  stationary = Problem(np.array([[1, 0], [-1, 0]], np.float32))
  assert not stationary.descent
  assert math.isnan(stationary.length(np.zeros(2)))
  assert math.isnan(stationary.residual(np.ones(2), 1.0))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
  """All methods at one size, run once."""
  path = tmp_path_factory.mktemp("aggregate")
  patch = pytest.MonkeyPatch()
  patch.setattr(contenders, "peer_version", lambda threads: None)
  options = ("--tasks=4", "--params=64", "--families=iid,scaled")
  assert run(path, *options) == 0
  patch.undo()
  return path, options


def test_all_methods_are_right(measured):
  path, _ = measured
  data = json.loads((path / "aggregate.json").read_text())
  assert data["complete"] and data["settings"]["peer"] is None
  cells = data["cells"].values()
  assert {cell["method"] for cell in cells} == set(contenders.METHODS)
  for cell in cells:
    limit = FLOAT32
    if (cell["method"], cell["family"]) == ("aligned_mtl", "scaled"):
      # Not invariant to the rows' scales: the condition number is up to 1e8.
      limit = math.inf
    assert cell["error_ours"] < limit, cell
    assert cell["ours"]["median"] > 0 and cell["floor"]["median"] > 0
    assert "theirs" not in cell
  assert (path / "aggregate.png").stat().st_size > 10_000


def test_a_run_goes_on_where_it_was(measured, no_peer, monkeypatch, capsys):
  path, options = measured
  before = json.loads((path / "aggregate.json").read_text())["cells"]
  monkeypatch.setattr(
    aggregate._Benchmark,
    "_cell",
    lambda *args, **kwargs: pytest.fail("measured again"),
  )
  assert run(path, *options) == 0
  assert json.loads((path / "aggregate.json").read_text())["cells"] == before
  printed = capsys.readouterr().out
  assert "pip install -e '.[bench,peers]'" in printed.replace("\n", "")


def test_ctrl_c_keeps_what_is_done(no_peer, monkeypatch, tmp_path):
  real = aggregate._Benchmark._cell

  def stop(self, name, *args):
    if name == "fixed_weighting":
      raise KeyboardInterrupt
    return real(self, name, *args)

  monkeypatch.setattr(aggregate._Benchmark, "_cell", stop)
  options = ("--methods=equal_weighting,fixed_weighting", "--params=64")
  assert run(tmp_path, *options, "--tasks=2", "--families=iid") == 0
  data = json.loads((tmp_path / "aggregate.json").read_text())
  assert not data["complete"]
  assert [c["method"] for c in data["cells"].values()] == ["equal_weighting"]


# -- the targets ---------------------------------------------------------------


def cell(**changes):
  seconds = {"ours": 1.0, "theirs": 20.0, "floor": 0.6, "empty": 0.5}
  seconds.update({k: changes.pop(k) for k in list(changes) if k in seconds})
  times = {
    k: dict.fromkeys(("median", "least", "cpu"), v) for k, v in seconds.items()
  }
  base = {"method": "upgrad", "tasks": 3, "params": 64}
  base |= {"error_ours": 1e-8, "error_theirs": 1e-4}
  return {**base, **times, **changes}


@pytest.mark.parametrize(
  "changes, target, verdict",
  [
    ({}, "speed", "met"),
    ({"theirs": 0.9}, "speed", "missed"),
    ({"theirs": 0.4}, "speed", "no room"),
    ({}, "small", "met"),
    ({"theirs": 9.0}, "small", "missed"),
    ({"theirs": 4.0}, "small", "no room"),
    ({"method": "mgda", "theirs": 99.0}, "small", "missed"),
    ({"method": "mgda", "tasks": 40}, "small", "met"),
    ({"method": "nash_mtl", "theirs": 999.0}, "small", "missed"),
    ({"params": 100_000}, "floor", "met"),
    ({"params": 100_000, "floor": 0.4}, "floor", "missed"),
    ({}, "error", "met"),
    ({"error_ours": 1e-3}, "error", "missed"),
    ({"error_ours": 1e-7, "error_theirs": 5e-8}, "error", "rounding"),
    ({"error_theirs": math.nan}, "error", "no solution"),
  ],
)
def test_verdicts(changes, target, verdict):
  assert aggregate_report.judge(cell(**changes))[target] == verdict


def test_misses_name_the_worst():
  cells = [
    cell(family="iid", theirs=t, tasks=n) for t, n in ((0.9, 2), (0.6, 3))
  ]
  lines = aggregate_report.misses(cells)
  assert any("upgrad misses 2; worst 0.60x" in line for line in lines)


def test_peers_times_are_extrapolated():
  assert aggregate._expected([(64, 1.0)], 10**6) == 0.0
  assert aggregate._expected([(100, 1.0), (200, 2.0)], 1000) == 10.0
  assert aggregate._expected([(100, 2.0), (200, 1.0)], 1000) == 1.0


def test_bad_options(capsys):
  for option in (
    "--methods=mdga",
    "--families=idd",
    "--trees=oak",
    "--tasks=1",
    "--threads=4096",
  ):
    with pytest.raises(SystemExit):
      aggregate.parse_args([option])
  assert "there are" in capsys.readouterr().err


def test_quick_keeps_what_was_asked_for():
  args = aggregate.parse_args(["--quick", "--tasks=2"])
  assert args.tasks == [2] and args.params == [64, 100_000]


# -- the other two -------------------------------------------------------------


def test_each_loss(tmp_path, capsys, monkeypatch):
  """Losses that share nothing cost no more FLOPs than their sum."""
  small = lambda num_tasks: each_loss.pinn(num_tasks, 8, 64)  # noqa: E731
  monkeypatch.setitem(each_loss.PROBLEMS, "pinn", small)
  options = ["--problems=pinn", "--tasks=2", "--repeats=1"]
  assert each_loss.main([*options, f"--out={tmp_path}"]) == 0
  rows = json.loads((tmp_path / "each_loss.json").read_text())["rows"]
  flops = {row["way"]: row["flops"] for row in rows}
  assert list(flops) == ["plain", "each", "together", "in turn"]
  # A norm and a weighted sum of two gradients of 200 numbers come on top.
  assert flops["each"] < 1.1 * flops["plain"] < flops["together"]
  assert "together" in capsys.readouterr().out


def test_decoders(tmp_path, capsys, monkeypatch):
  """At the representation they cost what they cost by hand."""
  small = lambda num_tasks: real(num_tasks, 8, 8, 2)  # noqa: E731
  real = decoders.network
  monkeypatch.setattr(decoders, "network", small)
  options = ["--tasks=2", "--repeats=1"]
  assert decoders.main([*options, f"--out={tmp_path}"]) == 0
  rows = json.loads((tmp_path / "decoders.json").read_text())["rows"]
  flops = {row["way"]: row["flops"] for row in rows}
  assert list(flops) == list(decoders.steps(2))
  by_hand, plain = flops["MGDA-UB by hand"], flops["plain"]
  assert flops["representation"] < 1.02 * by_hand < 1.05 * plain
  assert flops["stacked, shared="] > 1.1 * plain
  assert "representation" in capsys.readouterr().out


def test_compile_time(tmp_path, capsys):
  # The latter reads a second batch.
  options = ["--methods=equal_weighting,modo", "--tasks=2", "--leaves=5"]
  assert compile_time.main([*options, f"--out={tmp_path}"]) == 0
  rows = json.loads((tmp_path / "compile_time.json").read_text())["rows"]
  assert [row["method"] for row in rows] == ["equal_weighting", "modo"]
  for row in rows:
    assert row["compile"]["wall"] > 0
    assert row["first_call"]["wall"] >= row["compile"]["wall"]
  assert "modo" in capsys.readouterr().out


def test_solver_times(tmp_path):
  options = "--solvers=min_norm --tasks=2,3 --families=iid --batch-tasks=3"
  options += " --batch=5 --steps=20 --steps-tasks=4 --repeats=1 --seconds=0.01"
  assert solver_times.main([*options.split(), f"--out={tmp_path}"]) == 0
  data = json.loads((tmp_path / "solver_times.json").read_text())
  assert [row["tasks"] for row in data["against_tasks"]] == [2, 3]
  assert all(row["converged"] for row in data["against_tasks"])
  assert [row["converged"] for row in data["batches"]] == [5]
  for traces in data["convergence"].values():
    assert set(traces) == {"wolfe", "pairwise", "away", "vanilla"}
    assert traces["wolfe"][-1] <= traces["vanilla"][-1]
  assert len(list(tmp_path.glob("*.png"))) == 2


def test_threads_are_fixed_by_a_fresh_start():
  code = (
    "import os\n"
    "from benchmarks.common import timing\n"
    "cores = lambda: len(os.sched_getaffinity(0))\n"
    "os.execv = lambda *args: print(args[1][1:], cores())\n"
    "timing.restart_with_threads(1, 'm', ['--x'])\n"
    "timing.restart_with_threads(1, 'm', ['--x'])\n"
  )
  if not hasattr(__import__("os"), "sched_setaffinity"):
    pytest.skip("this platform cannot pin a process")
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout
  assert out == "['-m', 'm', '--x'] 1\n"


@pytest.mark.standard_promotion  # optax.adam mixes dtypes.
def test_tracking(tmp_path, capsys):
  """What is counted: a step without, and the ratios of the others."""
  argv = ["--networks=small", "--tasks=2", "--methods=gradnorm", "--repeats=1"]
  assert tracking.main([*argv, "--markdown", f"--out={tmp_path}"]) == 0
  rows = json.loads((tmp_path / "tracking.json").read_text())["rows"]
  assert [row["method"] for row in rows] == [
    "gradnorm",
    "refresh_every(gradnorm)",
  ]
  for row in rows:
    assert row["ms"] > 0
    assert list(row["ratios"]) == [
      "tracked",
      "tracked, read",
      "a second matrix",
    ]
    assert all(ratio > 0 for ratio in row["ratios"].values())
  assert "| small | stacked | gradnorm | 2 |" in capsys.readouterr().out
