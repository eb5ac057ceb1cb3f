"""Families of task-gradient matrices that solvers are tested and timed on.

A family is a function `(rng, num_tasks, num_params) -> G`, with `G` a
`[num_tasks, num_params]` float64 array whose row `i` is the gradient of task
`i`. `FAMILIES` maps names to families; `gram32` forms what a solver is given.
Those of `TIMED` take `dtype=` too, and draw in it.

>>> matrix = FAMILIES["iid"](np.random.default_rng(0), 3, 8)
>>> matrix.shape, gram32(matrix).dtype
((3, 8), dtype('float32'))
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import DTypeLike

Family = Callable[..., np.ndarray]
Rng = np.random.Generator


def iid(
  rng: Rng, num_tasks: int, num_params: int, dtype: DTypeLike = np.float64
) -> np.ndarray:
  """Independent standard normal entries."""
  return rng.standard_normal((num_tasks, num_params), np.dtype(dtype))


def conflicting(
  rng: Rng, num_tasks: int, num_params: int, dtype: DTypeLike = np.float64
) -> np.ndarray:
  """Rows that nearly cancel: their mean is shrunk tenfold."""
  grads = iid(rng, num_tasks, num_params, dtype)
  grads -= np.asarray(0.9, dtype) * grads.mean(axis=0)
  return grads


def scaled_1e2(
  rng: Rng, num_tasks: int, num_params: int, dtype: DTypeLike = np.float64
) -> np.ndarray:
  """Row lengths spread evenly, in the logarithm, over 1e-2 to 1e2."""
  scales = 10.0 ** rng.uniform(-2, 2, (num_tasks, 1))
  return iid(rng, num_tasks, num_params, dtype) * scales.astype(dtype)


def aligned(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Rows that share most of their direction; many constraints are nearly tight.

  The difference between two rows is 3 % of their length.
  """
  common = rng.standard_normal(num_params)
  return common + 0.02 * iid(rng, num_tasks, num_params)


def duplicate_rows(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """About half as many distinct rows as tasks."""
  grads = iid(rng, (num_tasks + 1) // 2, num_params)
  return grads[rng.permutation(np.arange(num_tasks) % len(grads))]


def rank_deficient(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Rank about `num_tasks / 2`, zero not in the hull."""
  rank = max(1, min(num_tasks // 2, num_params))
  factors = 0.5 + iid(rng, num_tasks, rank) / np.sqrt(rank)
  factors[:, 0] = 0.5 + np.abs(factors[:, 0])
  return factors @ iid(rng, rank, num_params)


def ill_conditioned(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Singular values spread evenly, in the logarithm, from 1 to 1e-4."""
  rank = min(num_tasks, num_params)
  left, _ = np.linalg.qr(iid(rng, num_tasks, rank))
  right, _ = np.linalg.qr(iid(rng, num_params, rank))
  return (left * np.logspace(0, -4, rank)) @ right.T


def scaled_1e6(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Row lengths spread evenly, in the logarithm, over 1e-6 to 1e6."""
  scales = 10.0 ** rng.uniform(-6, 6, (num_tasks, 1))
  return iid(rng, num_tasks, num_params) * scales


def stationary(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Zero is in the hull: the last row balances the others."""
  grads = iid(rng, num_tasks, num_params)
  mix = rng.uniform(0.5, 1.5, num_tasks - 1)
  grads[-1] = -(mix @ grads[:-1]) / np.sqrt(max(1, num_tasks - 1))
  return grads


def zero_rows(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """About a quarter of the rows, and at least one, are zero."""
  grads = iid(rng, num_tasks, num_params)
  grads[rng.permutation(num_tasks)[: max(1, num_tasks // 4)]] = 0.0
  return grads


def all_zero(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Nothing but zeros."""
  del rng
  return np.zeros((num_tasks, num_params))


def identical(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """One row, repeated."""
  return np.tile(rng.standard_normal(num_params), (num_tasks, 1))


FAMILIES: Mapping[str, Family] = {
  family.__name__: family
  for family in (
    iid,
    conflicting,
    aligned,
    duplicate_rows,
    rank_deficient,
    ill_conditioned,
    scaled_1e2,
    scaled_1e6,
    stationary,
    zero_rows,
    all_zero,
    identical,
  )
}

#: Name in the tables of `benchmarks.speed.aggregate` -> family.
TIMED: Mapping[str, Family] = {
  "iid": iid,
  "conflicting": conflicting,
  "scaled": scaled_1e2,
}

# Row lengths within a factor of ten or so of each other, and a conditioning
# that lets a first-order method finish.
WELL_SCALED = ("iid", "conflicting", "duplicate_rows", "identical")


def gram32(grads: np.ndarray) -> np.ndarray:
  """The Gram matrix of `grads`, formed in float64 and rounded to float32."""
  return (grads @ grads.T).astype(np.float32)
