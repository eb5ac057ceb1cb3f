"""CAGrad: no direction in the ball around the mean does more for the worst."""

import hypothesis
import numpy as np
import pytest
from families import (
  DELTA,
  SIZES,
  assert_at_most,
  cases,
  drawn,
  integers,
  solved_on,
)
from few_examples import few
from one_step import (
  CONFLICT,
  COUNT,
  RTOL,
  assert_oracles,
  assert_same,
  close,
  gradients,
  lengths,
  run,
)
from references import REFERENCES


def test_oracles():
  assert_oracles(
    "cagrad",
    [
      # The mean (0, 1/2) moved by c/2 = 1/4 along the first gradient: then both
      # gain 1/4.
      ({"rescale": 0}, CONFLICT, [0.25, 0.5]),
      ({"rescale": 1}, CONFLICT, [0.2, 0.4]),
      ({"rescale": 2}, CONFLICT, [1 / 6, 1 / 3]),
      # Nothing helps the worst task: the mean, and zero once it is in the ball.
      ({"rescale": 0}, [[1, 0], [-1, 0], [0, 3]], [0, 1]),
      ({"c": 2.0}, [[1, 0], [-2, 0]], [0, 0]),
      # A task without gradient counts in the mean only.
      ({"rescale": 0}, [[3, 0], [0, 0]], [2.25, 0]),
    ],
  )


RACO = np.array([[1.0, -4.0], [-1.0, 1.0]])


@pytest.mark.parametrize(
  "clip, expected",
  [
    (True, [-0.88299898, -0.09955689]),
    (False, [-0.70373542, -0.28149416]),
  ],
)
def test_preference_and_clip(clip, expected):
  """RACO's direction, whatever the preference's sum; p = (.356, .644)."""
  totals = np.array([[1], [3]])
  shares = totals * [0.2, 0.8]
  options = {"rescale": 0, "clip": True} if clip else {"rescale": 0}
  found = run("cagrad", [RACO, RACO], preference=shares, **options)
  # Half a unit of the last digit known.
  close(found.updates / totals, [expected] * 2, 1e-7)


def test_a_clip_that_leaves_nothing():
  """All weight is on a task that counts nothing: `Σ u_i g_i` is left."""
  grads = [[[1.0, 0.0], [0.1, 0.1]]]
  options = {"c": 1.5, "rescale": 0, "clip": True}
  found = run("cagrad", grads, preference=np.array([1.0, 0.0]), **options)
  close(found.updates, [[1.0, 0.0]])


def test_the_preference_is_shared():
  grads, mask = np.array([*RACO, [5.0, 5.0]]), np.array([True, True, False])
  shares = np.array([0.1, 0.4, 0.5])
  options = {"preference": shares, "rescale": 0, "clip": True}
  found = run("cagrad", [grads], mask, **options)
  close(found.updates, [[-0.88299898, -0.09955689]], 1e-7)


def test_rescale():
  """It is `d = mean + c |mean| g_w / |g_w|`, divided by what is asked for."""
  grads = gradients(3)
  expected = REFERENCES["cagrad"](3, grads, {}, rescale=0)
  mean = grads.mean(axis=1)
  for rescale, divisor in enumerate((1, 1.25, 1.5)):
    found = run("cagrad", grads, rescale=rescale)
    assert_same(found.weights * divisor, expected, 1e-7)
    moved = found.updates * divisor - mean
    np.testing.assert_allclose(
      lengths(moved), 0.5 * lengths(mean), rtol=RTOL, atol=0
    )


def test_c_zero_is_the_mean():
  grads = gradients(3)
  for rescale in (0, 1, 2):
    found = run("cagrad", grads, rescale=rescale, c=0.0)
    np.testing.assert_allclose(found.weights, 1 / 3, rtol=1e-15)


def test_the_mean_is_over_the_active_tasks():
  grads, mask = gradients(3), np.array([True, False, True])
  found = run("cagrad", grads, active=mask)
  alone = run("cagrad", grads[:, mask])
  assert (found.weights[:, 1] == 0).all()
  assert_same(found.updates, alone.updates, 1e-8)


def test_from_c_one_on_it_hurts_no_task():
  """Zero is in the ball, so that the worst task does not lose."""
  grads = gradients(3)
  found = run("cagrad", grads, rescale=0, c=np.linspace(1, 3, COUNT))
  gains = np.einsum("ntp,np->nt", grads, found.updates)
  assert (gains >= -RTOL * lengths(grads)[..., 0]).all()


def test_the_scale_does_not_matter():
  """Others return equal weights outside of scales from 1e-2 to 1e1."""
  grads = gradients(3)
  for scale in (1e-30, 1e-5, 1e5, 1e30):
    found = run("cagrad", scale * grads)
    assert_same(found.weights, run("cagrad", grads).weights, 1e-7)


def objective(data, mean, w, c):
  """CAGrad's `g_w . mean + c |mean| |g_w|`, [N]: bounds what d can do."""
  combined = np.einsum("nt,ntp->np", w, data.grads)
  radius = c * np.linalg.norm(mean, axis=1)
  return np.sum(combined * mean, axis=1) + radius * np.linalg.norm(
    combined, axis=1
  )


def assert_best_in_the_ball(data, c, shares):
  """Weak duality: for any w on the simplex, `objective` bounds the worst gain.

  The weights beyond the mean are such a w, up to scale, and the bound that it
  gives is met by the update.

  Returns:
    Whether there is something beyond the mean, [N], and w.
  """
  found = solved_on(data, "cagrad", c=c, preference=tuple(shares))
  mean = np.einsum("t,ntp->np", shares, data.grads)
  radius = c * np.linalg.norm(mean, axis=1)
  extra = np.maximum(found.weights - np.float32(shares), 0)
  total = extra.sum(axis=1)
  # Else only the mean, or zero, was left: there is nothing to show.
  moved = total > 1e-5
  # The ball: |g_w| is known to the root of DELTA size^2.
  size = data.size(extra)
  away = np.linalg.norm(found.updates - mean, axis=1)
  bound = np.sqrt(radius**2 + DELTA * size**2)
  slack = DELTA * data.size(found.weights)
  assert_at_most(away, bound + slack, data.names, moved)
  # The certificate, over the tasks that have a gradient.
  assert found.converged[data.without("ill_conditioned")].all()
  w = extra / np.where(moved, total, 1)[:, None]
  gains = data.norms * data.products(found.weights)
  gains = np.where(data.present, gains, np.inf)
  worst = np.argmin(gains, axis=1)[:, None]
  best = np.take_along_axis(gains, worst, axis=1)[:, 0]
  gap = objective(data, mean, w, c) - np.where(moved, best, 0)
  # Each gain is known to DELTA times its own length and the size.
  reach = np.take_along_axis(data.norms, worst, axis=1)[:, 0]
  reach = reach + np.sum(w * data.norms, axis=1)
  bound = DELTA * reach * data.size(found.weights)
  assert_at_most(gap, bound, data.names, moved & found.converged)
  if c > 1:
    worst = np.where(data.present, -data.products(found.weights), 0)
    bound = DELTA * data.size(found.weights)
    assert_at_most(worst, bound, data.names, found.converged)
  return moved, w


#: Of any sum, one of them zero.
COUNTS = np.array([0.3, 0.5, 0.0, 1.0, 0.2, 0.7, 0.1, 0.4, 2.0, 0.3])


@pytest.mark.parametrize(
  "num_tasks, c", [(t, c) for t in SIZES for c in (0.4, 2.0)]
)
def test_no_direction_in_the_ball_does_better(num_tasks, c):
  """Around the mean, and around the tasks' sum as a preference counts them."""
  data = cases(num_tasks)
  some = data.present.any(axis=1) & data.without("stationary", "identical")
  moved, _ = assert_best_in_the_ball(data, c, np.ones(num_tasks) / num_tasks)
  assert moved[some & data.without("ill_conditioned")].all()
  assert_best_in_the_ball(data, c, COUNTS[:num_tasks])


def assert_clipped(data, c, shares):
  """`d = g_u + c |g_u| g_p / |g_p|` with `p = min(w, u / sum u)`."""
  moved, w = assert_best_in_the_ball(data, c, shares)
  found = solved_on(data, "cagrad", c=c, preference=tuple(shares), clip=True)
  mean = np.einsum("t,ntp->np", shares, data.grads)
  radius = c * np.linalg.norm(mean, axis=1)
  extra = found.weights - np.float32(shares)
  p = np.minimum(w, shares / shares.sum())
  inner = np.linalg.norm(np.einsum("nt,ntp->np", p, data.grads), axis=1)
  # What is left of `p` is no rounding, as is said of `g_w` in the method.
  rows = moved & (inner > 2**-6 * data.size(p)) & (radius > 0)
  factor = radius / np.where(rows, inner, 1)
  # Of `w`, the rounding of the weights it is read off; of `|g_p|`, the root of
  # DELTA size^2 before it is squared.
  ratio = data.size(p) / np.where(rows, inner, 1)
  lost = (DELTA * (1 + factor * ratio**2))[:, None]
  weight = np.abs(extra - factor[:, None] * p)
  assert_at_most(weight, lost, data.names, rows)
  return rows


@pytest.mark.parametrize("num_tasks", SIZES)
def test_what_is_clipped(num_tasks):
  rows = assert_clipped(cases(num_tasks), 0.4, COUNTS[:num_tasks])
  assert rows.mean() > 0.3


@few
@hypothesis.given(integers)
def test_small_integers(grads):
  data = drawn(grads)
  for c in (0.4, 2.0):
    assert_best_in_the_ball(data, c, np.ones(5) / 5)
  assert_clipped(data, 0.4, COUNTS[:5])
