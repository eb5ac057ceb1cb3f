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
from hypothesis import strategies as st
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
AMONG = {1: 10, 2: 10, 3: 10, 5: 10}
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


# Gradients of small integers, drawn by hypothesis: zero rows, equal ones and
# opposite ones, all ranks, and products that are zero exactly. As many as a
# family test has, so that they take no program of their own; an example is a
# batch.
integers = st.lists(
  st.lists(
    st.lists(st.integers(-2, 2), min_size=4, max_size=4),
    min_size=5,
    max_size=5,
  ),
  min_size=2 * len(FAMILIES),
  max_size=2 * len(FAMILIES),
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
  return judged(names, np.stack(grads))


def drawn(grads, num_tasks=5):
  """The first rows of matrices of `integers`."""
  grads = np.array(grads, float)[:, :num_tasks]
  return judged(["integers"] * len(grads), grads)


def judged(names, grads):
  """Matrices [N, T, P] as float32 holds them, and what is asked of them."""
  grads = grads.astype(np.float32).astype(np.float64)
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


# Numbers that are traced, so that a method is compiled once per size; of those
# with a value for each task the same for all.
_TRACED = {
  "gradvac": {"initial_cosine": 0.0},
  "cagrad": {"c": 0.5, "rescale": 0, "preference": lambda n: (1 / n,) * n},
  # `inf` is no limit.
  "nash_mtl": {"max_norm": np.inf},
  "fairgrad": {
    "alpha": 1.0,
    "max_norm": np.inf,
    "preference": lambda n: (1.0,) * n,
  },
}
_STATIC = ("clip", "num_byzantine", "num_selected", "variant")


@functools.cache
def solved(name, num_tasks, **options):
  """One step on all matrices; of `options` all numbers are traced.

  A tuple has a value for each task.

  Args:
    name: The method's.
    num_tasks: Of the matrices of `cases`.
    **options: The method's arguments.
  """
  return solved_on(cases(num_tasks), name, **options)


def raw_on(data, name, second=None, absent=1e3, **options):
  """One step on matrices that a test made, as it comes: all rows and columns.

  As many matrices as a family test has of up to ten tasks take no program of
  their own.

  Args:
    data: The matrices.
    name: The method's.
    second: Array [N, T, P], gradients of another batch, or None.
    absent: The entries of the tasks that are filled up with.
    **options: The method's arguments.
  """
  count, num_tasks, num_params = data.grads.shape
  among = AMONG.get(num_tasks, num_tasks)
  shape = (count, among, 2 * among + 4)

  def fill(values):
    filled = np.full(shape, absent)
    filled[:, :num_tasks] = 0
    filled[:, :num_tasks, :num_params] = values
    return filled

  active = np.zeros(shape[:2], bool)
  active[:, :num_tasks] = True
  extra = {"active": active}
  if second is not None:
    extra["second_grads"] = fill(second)
  numbers = _TRACED.get(name, {}) | options
  static = {k: v for k, v in numbers.items() if k in _STATIC}
  traced = {}
  for key, value in numbers.items():
    value = value(num_tasks) if callable(value) else value
    if isinstance(value, tuple):
      traced[key] = np.zeros(shape[:2])
      traced[key][:, :num_tasks] = value
    elif key not in static:
      traced[key] = np.full(count, value)
  # Another order of the arguments would be another program.
  traced = dict(sorted(traced.items()))
  return run_batch(name, fill(data.grads), traced=traced, extra=extra, **static)


def solved_on(data, name, second=None, **options):
  """The same, of the tasks alone and not remembered.

  What every method has to do is checked here: its numbers are finite, the
  update is what the weights say, and nothing comes of nothing.
  """
  num_tasks, num_params = data.grads.shape[1:]
  found = raw_on(data, name, second, **options)
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
  assert (found.updates[~data.present.any(axis=1)] == 0).all()
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
