"""ConicGrad: no direction in the cone does more for the worst task."""

import numpy as np
import pytest
from families import DELTA, assert_at_most, cases, solved
from one_step import (
  assert_oracles,
  assert_parallel,
  assert_same,
  gradients,
  lengths,
  run,
)
from references import REFERENCES

import optax_mtl

SHEET = [[2, 0], [-1, 1]]


def test_oracles():
  assert_oracles(
    "conic_grad",
    [
      # The mean; and MGDA's direction (.2, .6), as long as the mean.
      ({"c": 1.0}, SHEET, [0.5, 0.5]),
      ({"c": 0.894}, SHEET, np.sqrt(0.05) * np.array([1, 3])),
      ({"c": 0.0}, SHEET, np.sqrt(0.05) * np.array([1, 3])),
      # One task, and one of two that has no gradient: it counts in the mean.
      ({}, [[3, 4]], [3, 4]),
      ({}, [[3, 4], [0, 0]], [1.5, 2]),
      # The mean is zero: so is a direction as long.
      ({}, [[3, 4], [-3, -4]], [0, 0]),
    ],
  )
  # Two opposite ones: there is one direction alone. The weights, which cancel,
  # are millions of times what is left, with as many times its rounding.
  found = run("conic_grad", [[[3, 0], [-1, 0]]])
  lost = np.finfo(float).eps * np.abs(found.weights[0]) @ [3, 1]
  np.testing.assert_allclose(found.updates[0], [1, 0], atol=4 * lost)
  # The sheet's, of eight digits.
  found = run("conic_grad", [SHEET], c=0.95).updates[0]
  np.testing.assert_allclose(found, [0.31887505, 0.63112495], atol=5e-9)


def test_against_all_supports():
  grads = gradients(3)
  c = np.random.default_rng(0).uniform(0.2, 1.0, len(grads))
  found = run("conic_grad", grads, c=c)
  expected = [
    REFERENCES["conic_grad"](3, g[None], {}, c=one)[0]
    for g, one in zip(grads, c, strict=True)
  ]
  assert_same(found.updates, np.einsum("nt,ntp->np", expected, grads), 1e-8)
  inside = np.einsum("np,np->n", found.updates, grads.mean(axis=1))
  inside /= lengths(grads.mean(axis=1))[:, 0] ** 2
  # Both happen, and the boundary is met.
  free = inside > c + 1e-8
  assert 0 < free.sum() < len(free)
  np.testing.assert_allclose(inside[~free], c[~free], atol=1e-9)
  mgda = run("mgda", grads).updates
  assert_parallel(found.updates[free], mgda[free], 1e-8)


def test_it_is_cagrads_direction_for_some_radius():
  """Between those of the radii at which that leaves the cone."""
  grads = gradients(3)[:8]
  found = run("conic_grad", grads, c=0.95).updates
  norms = lengths(found)
  for g, d, n in zip(grads, found, norms, strict=True):
    low, high = 0.0, 50.0
    for _ in range(60):
      middle = (low + high) / 2
      near = REFERENCES["cagrad"](3, g[None], {}, c=middle, rescale=0)[0] @ g
      cosine = near @ g.mean(axis=0)
      cosine /= np.linalg.norm(near) * np.linalg.norm(g.mean(axis=0))
      low, high = (middle, high) if cosine > 0.95 else (low, middle)
    assert_same(d / n, near / np.linalg.norm(near), 1e-6)


def test_errors():
  with pytest.raises(ValueError, match=r"c must lie in \[0, 1\]"):
    optax_mtl.conic_grad(2, c=1.1)


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_no_direction_in_the_cone_does_better(num_tasks):
  """By a bound from the weights themselves, on every family.

  With `d = a ḡ + g_x`, `x` and `a` not negative, and any `e` in the cone as
  long as `d`: `Σ x_i (g_i · e) = d·e - a ḡ·e <= ‖d‖² - a c ‖ḡ‖‖d‖`, so that the
  least gain of `e` is at most that over `Σ x_i`; of `d` itself, on the boundary
  or with `a = 0`, it has to be as large.
  """
  c = 0.75
  data, found = cases(num_tasks), solved("conic_grad", num_tasks)
  mean = data.grads.mean(axis=1)
  length = np.linalg.norm(mean, axis=1)
  size = data.size(found.weights)
  rows = data.without("stationary", "ill_conditioned", "all_zero")
  assert found.converged[rows].all()
  # A length is known to the root of DELTA, of what it is summed from.
  own = np.linalg.norm(found.updates, axis=1)
  assert_at_most(abs(own**2 - length**2), DELTA * size**2, data.names, rows)
  cosine = np.sum(mean * found.updates, axis=1)
  loss = DELTA * size * (length + np.mean(data.norms, axis=1))
  assert_at_most(c * length * own - cosine, loss, data.names, rows)
  # The mean has its share of every weight, where there is one of it.
  share = np.where(data.present, found.weights, np.inf).min(axis=1)
  a = np.where(np.isfinite(share), share, 0) * num_tasks
  x = np.where(data.present, found.weights - a[:, None] / num_tasks, 0)
  free = cosine > c * length * own + loss
  a = np.where(free, 0, a)
  x = np.where(free[:, None], found.weights, x)
  gains = np.where(
    data.present, data.norms * data.products(found.weights), np.inf
  )
  worst = np.where(data.present.any(axis=1), gains.min(axis=1), 0)
  # Else it is the mean itself.
  some = rows & (x.sum(axis=1) > 1e-3 * found.weights.sum(axis=1))
  best = own**2 - a * c * length * own
  # The worst gain is known to a rounding of the products of its own gradient,
  # which may be far longer than those whose weights multiply it.
  norm = np.take_along_axis(data.norms, gains.argmin(axis=1)[:, None], axis=1)[
    :, 0
  ]
  allowed = DELTA * size * (size + x.sum(axis=1) * norm)
  assert_at_most(best - x.sum(axis=1) * worst, allowed, data.names, some)
