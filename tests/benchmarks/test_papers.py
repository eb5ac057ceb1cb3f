"""The papers' own experiments, small: known values, orders and fronts."""

import json

import jax
import numpy as np
import pytest
from pymoo.indicators.hv import HV
from scipy import optimize

from benchmarks.data import toys
from benchmarks.papers import gradnorm, pareto_mtl, uncertainty, valleys
from optax_mtl import pareto

# The experiments hand float32 data to optax and flax as users do.
pytestmark = pytest.mark.standard_promotion


@pytest.fixture(scope="module")
def noise():
  """Sigma of both ways, at the script's own length: it is where it settles."""
  return uncertainty.run()


def test_uncertainty_finds_the_least_squares_noise(noise):
  # The generator rounds its data to float32, relatively 6e-8; averaged over 100
  # residuals that moves sigma by less, and the optimum itself is exact.
  np.testing.assert_allclose(
    noise["least squares"], uncertainty.EXPECTED, rtol=6e-8
  )
  # What is left is how far Adam got, which six digits allow for.
  for name in ("transformation", "among the params"):
    np.testing.assert_allclose(
      noise[name][-1], uncertainty.EXPECTED, rtol=1e-6, err_msg=name
    )


def test_uncertainty_two_ways_take_the_same_path(noise):
  # The same sums in another order: float64 rounding, 2e-16, in each of 3000
  # steps, were none of it damped.
  np.testing.assert_allclose(
    noise["transformation"],
    noise["among the params"],
    rtol=3000 * np.finfo(np.float64).eps,
  )


@pytest.fixture(scope="module")
def balanced():
  """GradNorm and equal weights, two tasks whose scales differ by 100."""
  return gradnorm.run(
    gradnorm.PROBLEMS[2],
    steps=150,
    num_seeds=2,
    num_evaluations=5,
    names=("equal_weighting", "gradnorm"),
  )


def test_gradnorm_orders_the_weights_by_scale(balanced):
  # Squared errors of targets 100 times as large have gradients 100 to 10,000
  # times as large, so that equal norms need weights far on the two sides of 1.
  # Adam moves a weight by at most about 0.025 a step: 150 steps are enough to
  # cross from 1 to any weight between 0 and 2.
  weights = balanced["gradnorm"]["weights"]
  assert gradnorm.weights_are_ordered(balanced["gradnorm"])
  assert (weights[:, -1, 0] > 1.5).all()
  assert (weights[:, -1, 1] < 0.5).all()
  # They sum to T; float32 rounding of two numbers and of a mean of 30.
  np.testing.assert_allclose(weights.sum(axis=-1), 2, rtol=1e-5)


def test_gradnorm_serves_the_small_task(balanced):
  # The task of scale 1 is nearly ignored by equal weights.
  small = {name: run["ratios"][:, -1, 0] for name, run in balanced.items()}
  assert (small["gradnorm"] < small["equal_weighting"]).all()


def test_gradnorm_toy_has_a_seed_of_its_own_for_each_network(balanced):
  ratios = balanced["equal_weighting"]["ratios"]
  assert ratios.shape == (2, 5, 2)
  assert (ratios[0] != ratios[1]).all()


def test_points_on_the_rays_and_the_best_sets():
  for count, best in (
    (5, 0.2647527),
    (8, 0.2902806),
    (10, 0.2997842),
    (20, 0.3203108),
  ):
    directions = pareto.uniform_directions(count)
    points = pareto_mtl.best_points(count)
    # Half a unit of the last digit known.
    assert abs(pareto_mtl.hypervolume(points) - best) < 6e-8
    # A maximum: moving any point along the front loses.
    u = 1 - np.sqrt(-np.log1p(-points[:, 0]))
    for index in range(count):
      for change in (-1e-3, 1e-3):
        moved = u.copy()
        moved[index] += change
        other = -np.expm1(-np.stack([(moved - 1) ** 2, (moved + 1) ** 2], 1))
        assert pareto_mtl.hypervolume(other) < pareto_mtl.hypervolume(points)
    on_rays = pareto_mtl.front_at_rays(directions)
    assert not pareto_mtl.off_front(on_rays[1:-1]).any()
    # u is found to 1e-16 or so, and a ray is as far off as that.
    cosine = (on_rays * directions).sum(1) / np.linalg.norm(on_rays, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-14)
  on_rays = pareto_mtl.front_at_rays(pareto.uniform_directions(10))
  assert abs(pareto_mtl.hypervolume(on_rays) - 0.2948199) < 6e-8


def test_hypervolume_against_pymoo():
  rng = np.random.default_rng(0)
  judge = HV(ref_point=np.ones(2))
  front = toys.fonseca(20).front(200)
  for points in (front, rng.uniform(0, 1.2, size=(40, 2)), front[:1]):
    # Two orders of one sum of float64 numbers below 1.
    assert abs(pareto_mtl.hypervolume(points) - judge(points)) < 1e-13


@pytest.fixture(scope="module")
def fronts():
  """By case: ten seeds of K = 10, short and long, and the two baselines."""
  labels = {case.label: case for case in pareto_mtl.CASES[:4]}
  results = pareto_mtl.run(list(labels.values()), num_seeds=10)
  return dict(zip(labels, results, strict=True))


def _standard_error(values):
  return values.std(ddof=1) / np.sqrt(len(values))


def test_pareto_mtl_covers_the_front(fronts):
  linear, mgda, short, long = fronts.values()
  # Linear weights find the ends, and MGDA from random starts the middle.
  assert linear["hypervolume"].max() < 0.1 < mgda["hypervolume"].min()
  assert mgda["hypervolume"].max() < 0.25 < short["hypervolume"].min()
  # `reference` below, over 100 seeds in place of 10: .2916 with spread .0043,
  # 9.31 points in their own region with spread .75. Three standard errors.
  error = np.hypot(0.0043 / 10, _standard_error(short["hypervolume"]))
  assert abs(short["hypervolume"].mean() - 0.2916) < 3 * error
  error = np.hypot(0.075, _standard_error(short["own"]))
  assert abs(short["own"].mean() - 9.31) < 3 * error


def test_longer_pareto_mtl_puts_the_points_into_their_regions(fronts):
  *_, short, long = fronts.values()
  # 97 % of all sets are complete, and the others lack one point.
  assert (long["own"] >= 9).all() and (long["own"] == 10).mean() >= 0.8
  assert long["own"].mean() > short["own"].mean()
  assert long["off"].sum() <= 1
  # No set of ten points of the front can have more, in float32 losses.
  assert long["hypervolume"].max() < long["best"] + 1e-6
  # The authors' mean.
  assert abs(long["hypervolume"].mean() - 0.2947) < 3 * _standard_error(
    long["hypervolume"]
  )


def _min_norm(rows):
  """Weights of the min-norm point of the rows' hull, as an NNLS problem.

  `min |Vᵀw|² + (1ᵀw - 1)²` over `w >= 0` has the same direction.
  """
  system = np.concatenate([rows.T, np.ones((1, len(rows)))])
  weights, _ = optimize.nnls(system, np.eye(len(system))[-1])
  return weights / weights.sum()


def reference(directions, index, x, steps, feasibility_steps):
  """Pareto MTL on the toy in NumPy, as in the paper, without a Gram matrix."""
  centre = np.array([[1.0], [-1.0]]) / np.sqrt(len(x))
  normals = directions - directions[index]
  optimizing = False
  for step in range(steps):
    bumps = np.exp(-((x - centre) ** 2).sum(axis=1))
    grads = 2 * (x - centre) * bumps[:, None]
    rows = normals[normals @ (1 - bumps) > 0]
    optimizing |= step >= feasibility_steps or len(rows) == 0
    if optimizing:
      rows = np.concatenate([np.eye(2), rows])
    x = x - _min_norm(rows @ grads) @ rows @ grads
  return 1 - np.exp(-((x - centre) ** 2).sum(axis=1))


def test_pareto_mtl_follows_the_reference():
  directions = pareto.uniform_directions(10)
  starts = np.random.default_rng(3).uniform(-0.5, 0.5, (10, 20))
  steps, budget = 60, 20
  with jax.enable_x64(True):
    solve = pareto_mtl.solver(pareto_mtl.Case(""), toys.fonseca(20))
    ours = jax.jit(jax.vmap(solve, (0, 0, None, None, None)))(
      starts, directions, steps, budget, 1.0
    )
    ours = np.asarray(ours)
  theirs = np.stack(
    [
      reference(directions, index, start, steps, budget)
      for index, start in enumerate(starts)
    ]
  )
  # A step is off by float64 rounding times what the small solves amplify, 1e4
  # or so where rows nearly agree; the front attracts, so that no error grows.
  np.testing.assert_allclose(ours, theirs, atol=1e4 * np.finfo(np.float64).eps)


def test_script_writes_table_json_and_picture(tmp_path, capsys):
  code = uncertainty.main(["--steps", "20", "--out", str(tmp_path)])
  # Twenty steps are too few, and the script says so.
  assert code == 1
  assert "least squares" in capsys.readouterr().out
  data = json.loads((tmp_path / "uncertainty.json").read_text())
  assert data["reproduced"] is False
  assert np.shape(data["transformation"]) == (20, 2)
  assert (tmp_path / "sigma.png").read_bytes().startswith(b"\x89PNG")


def test_options_are_checked(capsys):
  with pytest.raises(SystemExit):
    uncertainty.main(["--steps", "0"])
  assert "--steps must be at least 1" in capsys.readouterr().err


def test_valleys_ends_on_the_front():
  """Points of the front have reached it; others and NaN have not."""
  front = toys.valleys(0.1).front(2001)
  extent = front.max(axis=0) - front.min(axis=0)
  near = front[700] + 0.009 * extent
  far = front[700] + 0.02 * extent
  ends = np.stack([front[3], near, far, front[3] * np.nan])
  np.testing.assert_array_equal(
    valleys.reached(ends, front), [True, True, False, False]
  )


def test_valleys_twin_tells_families_apart():
  """Unit gradients are those of any monotone function of a loss."""
  assert valleys.keeps_direction("mgda-l2") > 1 - 1e-9
  assert valleys.keeps_direction("equal_weighting") < 0.99
  # Its first update is zero.
  assert valleys.keeps_direction("m_config") < 1


def test_valleys_paths_begin_at_the_starts_and_go_down():
  setting = valleys.SETTINGS["cagrad"]._replace(steps=1000)
  path = valleys.paths("mgda-l2", setting)
  toy = toys.valleys(1.0)
  assert path.shape == (3, 501, 2)
  want = [toy.losses(jax.numpy.asarray(s, "float32")) for s in toy.starts]
  np.testing.assert_allclose(path[:, 0], want, rtol=1e-5)
  # A thousand steps of 1e-3 at most.
  assert (path[:, -1].sum(axis=-1) < path[:, 0].sum(axis=-1)).all()
