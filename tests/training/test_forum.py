"""FORUM against a loop in NumPy, and its multipliers against their dual."""

import functools

import jax
import numpy as np
import pytest
from training import quadratics as q

from optax_mtl.training import _barrier

#: With the default barrier the constraint would not bind here.
BARRIER, INNER_RATE, INNER_STEPS, LEARN, STEP = 1.0, 0.1, 3, 0.5, 0.1


def constraint_weight(multipliers, rows, slope, barrier):
  return max(barrier - multipliers @ rows @ slope / (slope @ slope), 0.0)


def gap(multipliers, rows, slope, barrier):
  """Primal less dual value of the direction that multipliers make.

  The primal is `max_i -F_i.d + 1/2 d.d` under `q.d >= ρ q.q`, the dual
  `-1/2 ‖Σ λ F + ν q‖² + ν ρ q.q`: no two feasible points have less than 0
  between them, and only the optimum has 0.
  """
  weight = constraint_weight(multipliers, rows, slope, barrier)
  along = multipliers @ rows + weight * slope
  bound = barrier * slope @ slope
  assert slope @ along >= bound - 1e-9 * (1 + bound)
  primal = np.max(-rows @ along) + along @ along / 2
  return primal - (weight * bound - along @ along / 2)


def some_multipliers(rows, slope, barrier):
  """`_barrier.multipliers` of one problem or, by vmap, of many."""
  lengths = np.linalg.norm(slope, axis=-1)
  products = np.einsum("nti,ni->nt", rows, slope) / lengths[:, None]
  cosines = np.einsum("nti,nsi->nts", rows, rows)
  return jax.jit(jax.vmap(_barrier.multipliers))(
    cosines, products, barrier * lengths
  )


def test_multipliers_close_the_gap():
  """Unit objectives, constraints of all lengths, with it and against it.

  The search stops at a gap of 6e-6, relative to 1 + the pressure; float32 adds
  some roundings. With four tasks in three dimensions many answers are optimal.
  """
  rng = np.random.default_rng(0)
  for num_tasks, width in ((2, 5), (4, 3), (7, 20)):
    rows = rng.standard_normal((200, num_tasks, width))
    # Half of them have much in common.
    rows[100:] += 3 * rng.standard_normal((100, 1, width))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    slope = rng.standard_normal((200, width))
    slope *= 10 ** rng.uniform(-3, 3, (200, 1))
    barrier = 10 ** rng.uniform(-2, 0.5, 200)
    found = np.asarray(some_multipliers(rows, slope, barrier), float)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    assert (found >= 0).all()
    for which in range(200):
      pressure = barrier[which] * np.linalg.norm(slope[which])
      left = gap(found[which], rows[which], slope[which], barrier[which])
      assert left <= 1e-5 * (1 + pressure)


def dual_by_search(rows, slope, barrier):
  """λ by projected gradients in float64, many of them."""
  multipliers = np.full(len(rows), 1 / len(rows))
  for _ in range(3000):
    weight = constraint_weight(multipliers, rows, slope, barrier)
    uphill = rows @ (multipliers @ rows + weight * slope)
    ordered = np.sort(multipliers - 0.3 * uphill)[::-1]
    sums = (np.cumsum(ordered) - 1) / np.arange(1, len(rows) + 1)
    edge = sums[np.nonzero(ordered > sums)[0][-1]]
    multipliers = np.maximum(multipliers - 0.3 * uphill - edge, 0)
  return multipliers


@functools.cache
def forum():
  found = []
  x, logits, average = q.X, np.zeros(q.T), np.zeros(q.T)
  for step, (batch, validation) in enumerate(
    zip(q.BATCHES, q.VALIDATION, strict=True)
  ):
    shares = q.softmax(logits)
    best = x
    for _ in range(INNER_STEPS):
      best = best - INNER_RATE * shares @ q.gradients_at(best, batch)

    # The gradient of f(a, θ) - f(a, θ*), θ* held fast.
    def excess(logits, x=x, best=best, batch=batch):
      apart = q.losses_at(x, batch) - q.losses_at(best, batch)
      return q.softmax(logits) @ apart

    slope = np.concatenate(
      [q.derivative(excess, logits), shares @ q.gradients_at(x, batch)]
    )
    rows = q.gradients_at(x, validation)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.concatenate([np.zeros((q.T, q.T)), rows], axis=1)
    now = dual_by_search(rows, slope, BARRIER)
    average = average + (1 + step // 2) ** -0.75 * (now - average)
    weight = constraint_weight(average, rows, slope, BARRIER)
    along = average @ rows + weight * slope
    logits, x = logits - LEARN * along[: q.T], x - STEP * along[q.T :]
    found.append((x, q.softmax(logits), average, weight))
  return found


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_as_its_reference(source):
  """λ is known to the root of the gap in float64, 1.3e-6, and so the rest."""
  with jax.enable_x64(True):
    x, state = q.trained(q.built("forum", source=source, barrier=BARRIER))
  for i, (point, weights, average, weight) in enumerate(forum()):
    np.testing.assert_allclose(state.multipliers[i], average, atol=1e-5)
    np.testing.assert_allclose(state.constraint_weight[i], weight, rtol=1e-5)
    np.testing.assert_allclose(state.weights[i], weights, rtol=1e-5)
    np.testing.assert_allclose(x[i], point, rtol=1e-5)
  assert (state.constraint_weight > 0).all()


def test_an_inner_rate_that_diverges_is_no_estimate():
  """Then no params are better than these, and the weights stand still."""
  _, state = q.trained(q.built("forum", inner_rate=1e3, inner_steps=4), steps=2)
  np.testing.assert_allclose(state.weights, 1 / q.T, rtol=1e-6)
