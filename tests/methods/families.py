"""What each paper claims of its update, on every family of matrices: tools.

Everything here is float32, as users run it; what is found is judged in float64,
from the same float32 gradients. The unit of accuracy is a rounding of the
entries of the Gram matrix between unit gradients, `DELTA`: the products of an
update `d = sum w_j g_j` with unit gradients are known to `DELTA` times
`size = sum |w_j| n_j`, which exceeds `|d|` where gradients nearly cancel.
"""

import functools
import zlib
from typing import NamedTuple

import numpy as np
import pytest
from one_step import run_batch
from references import FAMILIES

EPS = float(np.finfo(np.float32).eps)
# 16 roundings are the solvers' tolerance; a sum of P <= 84 products is off by
# P / 2 of them at the very most, and a few are lost to scaling and combining.
DELTA = 64 * EPS
SIZES = (1, 2, 3, 10)
# Fewer than ten tasks are run as ten of which the others are absent: one
# program for all, and the mask is tried on all families. That two tasks, and
# many, take another way in some solvers is tested with the solvers.
AMONG = {1: 10, 2: 10, 3: 10}
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
  """Two matrices of each family, one for 40 tasks."""
  names, grads = [], []
  num_params = 2 * num_tasks + 4
  for name, family in FAMILIES.items():
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


class Solved(NamedTuple):
  """What a method did with the cases.

  Attributes:
    updates: Array [N, P], float64.
    weights: Array [N, T], float64.
    converged: Array [N] of bool; None for a method without a certificate.
    status: Array [N] of int, how the solves ended; None likewise.
  """

  updates: np.ndarray
  weights: np.ndarray
  converged: np.ndarray | None
  status: np.ndarray | None


# Numbers that are traced, so that a method is compiled once per size.
_TRACED = {
  "gradvac": {"initial_cosine": 0.0},
  "cagrad": {"c": 0.5, "rescale": 0},
  # `inf` is no limit.
  "nash_mtl": {"max_norm": np.inf},
  "fairgrad": {"alpha": 1.0, "max_norm": np.inf},
}


@functools.cache
def solved(name, num_tasks, **options):
  """One step on all matrices; `options` are among those in `_TRACED`.

  What every method has to do is checked here: its numbers are finite, the
  update is what the weights say, and nothing comes of nothing.
  """
  data, among = cases(num_tasks), AMONG.get(num_tasks, num_tasks)
  shape = (len(data.grads), among, 2 * among + 4)
  grads, active = np.full(shape, 1e3), np.zeros(shape[:2], bool)
  grads[:, :num_tasks], active[:, :num_tasks] = 0, True
  num_params = data.grads.shape[2]
  grads[:, :num_tasks, :num_params] = data.grads
  traced = {
    key: np.full(len(data.grads), value)
    for key, value in (_TRACED.get(name, {}) | options).items()
  }
  found = run_batch(name, grads, traced=traced, extra={"active": active})
  assert np.isfinite(found.weights).all() and np.isfinite(found.updates).all()
  assert (found.weights[:, num_tasks:] == 0).all()
  assert (found.updates[:, num_params:] == 0).all()
  found = found._replace(
    updates=found.updates[:, :num_params],
    weights=found.weights[:, :num_tasks],
  )
  expected = np.einsum("nt,ntp->np", found.weights, data.grads)
  limit = options.get("max_norm", np.inf)
  norm = np.linalg.norm(expected, axis=1, keepdims=True)
  safe = np.where(norm > 0, norm, 1)
  expected = expected * np.minimum(1, limit / safe)
  error = np.linalg.norm(found.updates - expected, axis=1)
  # A limited update is as uncertain as the norm that it is divided by.
  bound = DELTA * data.size(found.weights)
  if limit < np.inf:
    bound = DELTA * limit * (1 + data.size(found.weights) / safe[:, 0])
  assert_at_most(error, bound, data.names, norm[:, 0] > 0)
  assert (found.updates[data.names == "all_zero"] == 0).all()
  certificate = getattr(found.memory, "certificate", found.memory)
  status = getattr(certificate, "status", None)
  if status is None:
    return Solved(found.updates, found.weights, None, None)
  return Solved(
    found.updates,
    found.weights,
    np.asarray(certificate.converged),
    np.asarray(status),
  )


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
