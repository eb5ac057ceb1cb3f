"""What each paper claims of its update, on every family of matrices.

Everything here is float32, as users run it; what is found is judged in float64,
from the same float32 gradients. The unit of accuracy is a rounding of the
entries of the Gram matrix between unit gradients, `DELTA`: the products of an
update `d = sum w_j g_j` with unit gradients are known to `DELTA` times
`size = sum |w_j| n_j`, which exceeds `|d|` where gradients nearly cancel.
"""

import functools
import zlib
from typing import NamedTuple

import batches
import numpy as np
import pytest

from benchmarks.common import matrices
from benchmarks.reference.methods import pcgrad
from benchmarks.reference.solvers import dual_cone

EPS = float(np.finfo(np.float32).eps)
# 16 roundings are the solvers' tolerance; a sum of P <= 84 products is off by
# P / 2 of them at the very most, and a few are lost to scaling and combining.
DELTA = 64 * EPS
SIZES = (1, 2, 3, 10, 40)
sizes = pytest.mark.parametrize("num_tasks", SIZES)
# Zero is in the hull of the others, or all is zero.
STATIONARY = ("stationary", "all_zero")
# The rank is decided at T roundings: lost in float32, or in doubt.
DEPENDENT = (
  "duplicate_rows",
  "rank_deficient",
  "identical",
  "stationary",
  "ill_conditioned",
)


class Cases(NamedTuple):
  """Matrices of one number of tasks, and what is often asked of them.

  Attributes:
    names: Family of each matrix, [N].
    grads: Array [N, T, P] of float64 numbers that float32 holds.
    norms: Array [N, T].
    units: Array [N, T, P], unit gradients, zero where the gradient is.
    present: Array [N, T] of bool: gradients that are not zero.
  """

  names: np.ndarray
  grads: np.ndarray
  norms: np.ndarray
  units: np.ndarray
  present: np.ndarray

  def without(self, *families):
    """Which matrices are of none of these families, [N] of bool."""
    return ~np.isin(self.names, families)

  def size(self, weights):
    """Sum of the lengths of what is added up, [N]."""
    return np.sum(np.abs(weights) * self.norms, axis=1)

  def spread(self):
    """Largest eigenvalue of the unit gradients' Gram matrix, [N]; 1 to T.

    An eigendecomposition is as exact as if the matrix had been changed by
    roundings of it.
    """
    return np.maximum(np.linalg.norm(self.units, ord=2, axis=(1, 2)) ** 2, 1)

  def products(self, weights):
    """Unit gradients times the combined gradient, [N, T], in float64."""
    update = np.einsum("nt,ntp->np", weights, self.grads)
    return np.einsum("ntp,np->nt", self.units, update)


@functools.cache
def cases(num_tasks):
  names, grads = [], []
  num_params = 2 * num_tasks + 4
  for name, family in matrices.FAMILIES.items():
    for copy in range(2 if num_tasks < 40 else 1):
      rng = np.random.default_rng(
        zlib.crc32(f"{name}{num_tasks}{copy}".encode())
      )
      names.append(name)
      grads.append(family(rng, num_tasks, num_params))
  grads = np.stack(grads).astype(np.float32).astype(np.float64)
  norms = np.linalg.norm(grads, axis=2)
  present = norms > 0
  units = grads / np.where(present, norms, 1)[..., None]
  return Cases(np.array(names), grads, norms, units, present)


# Hyperparameters that are traced, so that a method is compiled once per size;
# `max_norm` is inf for none.
TRACED = {
  "cagrad": {"c": 0.5, "rescale": 0},
  "nash_mtl": {"max_norm": 1.0},
  "fairgrad": {"alpha": 1.0, "max_norm": 1.0},
}


@functools.cache
def solved(name, num_tasks, **options):
  """One step on all matrices; `options` are among those in `TRACED`."""
  grads = cases(num_tasks).grads
  traced = {
    key: np.full(len(grads), value)
    for key, value in (TRACED.get(name, {}) | options).items()
  }
  found = batches.run(name, grads, traced=traced)
  assert np.isfinite(found.weights).all() and np.isfinite(found.updates).all()
  return found


def assert_at_most(value, bound, names, rows=True):
  """Where `rows` [N] holds, each entry of `value` is at most its bound."""
  bound = np.broadcast_to(
    np.reshape(
      bound, np.shape(bound) + (1,) * (np.ndim(value) - np.ndim(bound))
    ),
    np.shape(value),
  )
  bad = (value > bound) & np.reshape(
    np.broadcast_to(rows, names.shape), (-1,) + (1,) * (np.ndim(value) - 1)
  )
  where = bad if bad.ndim == 1 else bad.any(axis=tuple(range(1, bad.ndim)))
  assert not where.any(), [
    (n, np.max(value[i]), np.max(bound[i]))
    for i, n in enumerate(names)
    if where[i]
  ]


@sizes
@pytest.mark.parametrize(
  "name",
  [
    "pcgrad",
    "cagrad",
    "upgrad",
    "dual_proj",
    "nash_mtl",
    "fairgrad",
    "imtl_g",
    "aligned_mtl",
    "config",
  ],
)
def test_the_update_is_what_the_weights_say(name, num_tasks):
  data, found = cases(num_tasks), solved(name, num_tasks)
  expected = np.einsum("nt,ntp->np", found.weights, data.grads)
  error = np.linalg.norm(found.updates - expected, axis=1)
  assert_at_most(error, DELTA * data.size(found.weights), data.names)
  assert (found.updates[data.names == "all_zero"] == 0).all()


@sizes
def test_pcgrad_is_the_papers_loop(num_tasks):
  """Continuous in every product, so that rounding one sign does no harm."""
  data, found = cases(num_tasks), solved("pcgrad", num_tasks)
  orders = pcgrad.drawn_orders(1, num_tasks)[0]
  for name, grads, norms, w in zip(
    data.names, data.grads, data.norms, found.weights, strict=True
  ):
    # Each step turns the error of what is left of a gradient into one of its
    # coefficients, so that it is the loop's size that counts.
    parts = pcgrad.surgery(grads, orders)
    size = np.sum(np.abs(parts) @ norms)
    error = np.linalg.norm((w - parts.sum(axis=0)) @ grads)
    assert error <= DELTA * size, (name, error / size)
    assert (w >= 1).all()
  if num_tasks == 2:
    products = data.products(found.weights)
    assert_at_most(-products, DELTA * data.size(found.weights), data.names)


@sizes
@pytest.mark.parametrize("name", ["upgrad", "dual_proj"])
def test_projections_hurt_no_task(name, num_tasks):
  data, found = cases(num_tasks), solved(name, num_tasks)
  assert (found.weights >= np.float32(1 / num_tasks) * (1 - EPS)).all()
  products = data.products(found.weights)
  bound = DELTA * data.size(found.weights)
  # A condition number of 1e8 is beyond float32: the certificate says so.
  rows = data.without("ill_conditioned")
  assert found.converged[rows].all()
  assert_at_most(-products, bound, data.names, found.converged)
  if name == "dual_proj":
    # Optimality: what was added is orthogonal to the update.
    added = found.weights - 1 / num_tasks > 4 * EPS * found.weights
    assert_at_most(
      np.where(added, np.abs(products), 0), bound, data.names, found.converged
    )


@sizes
def test_upgrad_is_the_mean_of_the_exact_projections(num_tasks):
  """Against non-negative least squares, where `M` is benign for float32."""
  data, found = cases(num_tasks), solved("upgrad", num_tasks)
  rows = data.without("ill_conditioned", "conflicting", *STATIONARY)
  for i in np.flatnonzero(rows):
    grads = data.grads[i]
    exact = np.mean(
      [dual_cone.project_dual_cone(grads, e) for e in np.eye(num_tasks)], axis=0
    )
    error = found.updates[i] - exact @ grads
    # The error of |d|^2 is DELTA size^2, and of d its root at the worst, where
    # the active set is in doubt; elsewhere it is linear in DELTA.
    assert np.linalg.norm(error) <= 1e-4 * np.abs(exact) @ data.norms[i], (
      data.names[i]
    )


@sizes
def test_nash_gives_equal_gains(num_tasks):
  """alpha_i (M alpha)_i = 1 for tasks with a gradient, and |d| = sqrt(T)."""
  data = cases(num_tasks)
  found = solved("nash_mtl", num_tasks, max_norm=np.inf)
  lengths = found.weights * data.norms
  gains = lengths * data.products(found.weights)
  solvable = data.without(*STATIONARY)
  assert (found.weights[~data.present] == 0).all()
  assert (found.weights[data.present] > 0).all()
  error = np.where(data.present, np.abs(gains - 1), 0)
  bound = DELTA * lengths * (1 + data.size(found.weights)[:, None])
  bound = bound + DELTA
  assert_at_most(error, bound, data.names, solvable)
  # The bound says something on most matrices.
  benign = data.without("ill_conditioned", "conflicting", *STATIONARY)
  assert bound[benign].max() < 0.1
  assert found.converged[benign].all()
  count = data.present.sum(axis=1)
  norm = np.linalg.norm(found.updates, axis=1)
  assert_at_most(
    np.abs(norm - np.sqrt(count)), bound.sum(axis=1), data.names, solvable
  )
  if num_tasks > 1:
    assert not found.converged[data.names == "stationary"].any()


@sizes
def test_fairgrad_balances_gains(num_tasks):
  """M w = w^(-1/alpha) at the authors' alpha = 2."""
  data = cases(num_tasks)
  found = solved("fairgrad", num_tasks, alpha=2.0, max_norm=np.inf)
  present = data.present
  assert (found.weights[~present] == 0).all()
  assert (found.weights[present] > 0).all()
  safe = np.where(present, found.weights, 1)
  gains = data.norms * data.products(found.weights)
  wanted = safe**-0.5
  error = np.where(present, np.abs(gains - wanted), 0)
  bound = DELTA * (data.norms * data.size(found.weights)[:, None] + wanted)
  assert_at_most(error, bound, data.names, data.without(*STATIONARY))
  # The smallest gain is small against its terms where lengths differ so much.
  hard = ("ill_conditioned", "conflicting", "scaled_1e6")
  assert found.converged[data.without(*hard, *STATIONARY)].all()


@sizes
def test_nash_and_fairgrad_keep_to_the_limit(num_tasks):
  data = cases(num_tasks)
  for name in ("nash_mtl", "fairgrad"):
    found = solved(name, num_tasks)
    norm = np.linalg.norm(found.updates, axis=1)
    bound = 1 + DELTA * (1 + data.size(found.weights) ** 2)
    assert_at_most(norm, bound, data.names)


@sizes
def test_imtl_gives_equal_projections(num_tasks):
  data, found = cases(num_tasks), solved("imtl_g", num_tasks)
  some = data.present.any(axis=1)
  total = np.abs(found.weights).sum(axis=1)
  error = np.abs(found.weights.sum(axis=1) - some)
  assert_at_most(error, DELTA * total, data.names)
  assert (found.weights[~data.present] == 0).all()
  products = data.products(found.weights)
  count = np.maximum(data.present.sum(axis=1), 1)
  middle = np.sum(products, axis=1) / count
  error = np.where(data.present, np.abs(products - middle[:, None]), 0)
  rows = data.without(*DEPENDENT)
  bound = DELTA * data.spread() * data.size(found.weights)
  assert_at_most(error, bound, data.names, rows)


@sizes
def test_config_gives_equal_cosines(num_tasks):
  """Equal and not negative, and the length that the paper asks for."""
  data, found = cases(num_tasks), solved("config", num_tasks)
  assert (found.weights[~data.present] == 0).all()
  products = data.products(found.weights)
  size = data.spread() * data.size(found.weights)
  count = np.maximum(data.present.sum(axis=1), 1)
  middle = np.sum(products, axis=1) / count
  error = np.where(data.present, np.abs(products - middle[:, None]), 0)
  rows = data.without(*DEPENDENT)
  assert_at_most(error, DELTA * size, data.names, rows)
  assert_at_most(-products, DELTA * size, data.names, rows)
  # |d| is the sum of the gradients' projections on d / |d|.
  norm = np.linalg.norm(found.updates, axis=1)
  along = np.sum(data.norms * products, axis=1)
  error = np.abs(along - norm**2)
  bound = DELTA * size * data.norms.sum(axis=1) + 2 * DELTA * size * norm
  assert_at_most(error, bound, data.names, rows)


def objective(data, w, c):
  """CAGrad's `g_w . mean + c |mean| |g_w|`, [N]: bounds what d can do."""
  mean = data.grads.mean(axis=1)
  combined = np.einsum("nt,ntp->np", w, data.grads)
  radius = c * np.linalg.norm(mean, axis=1)
  return np.sum(combined * mean, axis=1) + radius * np.linalg.norm(
    combined, axis=1
  )


@pytest.mark.parametrize(
  "num_tasks, c", [(t, 0.4) for t in SIZES] + [(t, 2.0) for t in SIZES[:-1]]
)
def test_no_direction_in_the_ball_does_better_than_cagrad(num_tasks, c):
  """Weak duality: for any w on the simplex, `objective` bounds the worst gain.

  The weights beyond the mean are such a w, up to scale, and the bound that it
  gives is met by the update.
  """
  data, found = cases(num_tasks), solved("cagrad", num_tasks, c=c)
  mean = data.grads.mean(axis=1)
  radius = c * np.linalg.norm(mean, axis=1)
  extra = np.maximum(found.weights - 1 / num_tasks, 0)
  total = extra.sum(axis=1)
  # Else only the mean, or zero, was left: there is nothing to show.
  moved = total > 1e-5
  some = data.present.any(axis=1) & data.without("stationary", "identical")
  assert moved[some & data.without("ill_conditioned")].all()
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
  gap = objective(data, w, c) - np.where(moved, best, 0)
  # Each gain is known to DELTA times its own length and the size.
  reach = np.take_along_axis(data.norms, worst, axis=1)[:, 0]
  reach = reach + np.sum(w * data.norms, axis=1)
  bound = DELTA * reach * data.size(found.weights)
  assert_at_most(gap, bound, data.names, moved & found.converged)
  if c > 1:
    worst = np.where(data.present, -data.products(found.weights), 0)
    bound = DELTA * data.size(found.weights)
    assert_at_most(worst, bound, data.names, found.converged)


@sizes
def test_aligned_has_the_least_singular_value_for_its_length(num_tasks):
  """|d|^2 = lambda_min p . p, where all eigenvalues are kept."""
  data, found = cases(num_tasks), solved("aligned_mtl", num_tasks)
  rows = data.without(
    *DEPENDENT, "scaled_1e2", "scaled_1e6", "zero_rows"
  ) & data.present.all(axis=1)
  values = np.linalg.svd(data.grads, compute_uv=False)
  expected = values[:, -1] / np.sqrt(num_tasks)
  error = np.abs(np.linalg.norm(found.updates, axis=1) - expected)
  # Eigenvalues are known to roundings of the largest, their roots to half that.
  condition = (values[:, 0] / np.maximum(values[:, -1], 1e-30)) ** 2
  bound = 0.5 * DELTA * condition * expected
  assert_at_most(error, bound, data.names, rows)
  # The rank never makes it long: the frame is no longer than the gradients.
  bound = values[:, 0] * (1 + DELTA * num_tasks)
  assert_at_most(np.linalg.norm(found.updates, axis=1), bound, data.names)
