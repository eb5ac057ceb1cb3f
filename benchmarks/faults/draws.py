"""Random problems for solvers, the degenerate ones above all.

A problem is drawn from its seed and number alone, so that one can be drawn
again. Gradients are float32 numbers, and what they are judged by is computed
from them in float64; the Gram matrix that a solver is given is theirs, rounded
to float32.

>>> case = draw(seed=0, number=3)
>>> case.grads.dtype, case.gram().dtype, len(case.active) == len(case.grads)
(dtype('float32'), dtype('float32'), True)
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.common import matrices

Rng = np.random.Generator

#: Radii of CAGrad, on both sides of 1, from where zero is within reach.
CS = (0.0, 0.1, 0.5, 0.9, 1.0, 1.5, 10.0)
#: Of ConicGrad's angles: from a half-space to the mean alone.
COSINES = (0.0, 0.25, 0.75, 0.9, 0.99, 0.9999, 1.0)
#: Exponents of the fair solutions.
ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0)
#: Largest number of tasks of a group -> its share of all problems. A group is
#: filled up with absent tasks to its size, and is one program.
SIZES: Mapping[int, float] = {2: 0.1, 6: 0.4, 16: 0.4, 40: 0.1}


class Case(NamedTuple):
  """A problem for every solver.

  Attributes:
    family: What kind of gradients they are.
    grads: `[T, P]`, float32.
    active: `[T]` bool.
    bad: Row and column of an entry of the Gram matrix that is not finite, and
      the entry; rows of -1 for none.
    c: CAGrad's radius.
    alpha: Of the fair solution.
    vectors: `[2, T]`, float32, to be projected on the dual cone.
    preference: `[T]`, float32, not negative.
    cap: On weights that sum to 1; below 1 over the active tasks, or above 1,
      now and then.
    cosine: Of an angle to the mean.
    start: `[T]`, float32, coefficients of a direction that lacks gains.
    gains: `[T]`, float32, those wanted of a direction.
    constrained: `[T]` bool, of which tasks they are.
  """

  family: str
  grads: np.ndarray
  active: np.ndarray
  bad: np.ndarray
  c: np.ndarray
  alpha: np.ndarray
  vectors: np.ndarray
  preference: np.ndarray
  cap: np.ndarray
  cosine: np.ndarray
  start: np.ndarray
  gains: np.ndarray
  constrained: np.ndarray

  def gram(self) -> np.ndarray:
    """What a solver is given: `[T, T]`, float32."""
    gram = matrices.gram32(self.grads.astype(np.float64))
    row, column, value = self.bad
    if row >= 0:
      gram[int(row), int(column)] = value
    return gram


def rank_one(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Multiples of one row, of both signs or of one."""
  factors = rng.standard_normal((num_tasks, 1))
  if rng.random() < 0.5:
    factors = np.abs(factors)
  return factors * rng.standard_normal(num_params)


def scaled_1e15(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Row lengths spread evenly, in the logarithm, over 1e-15 to 1e15."""
  scales = 10.0 ** rng.uniform(-15, 15, (num_tasks, 1))
  return matrices.iid(rng, num_tasks, num_params) * scales


def one_far_off(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """One row is 1e-15 or 1e15 times as long as the others."""
  grads = matrices.iid(rng, num_tasks, num_params)
  grads[rng.integers(num_tasks)] *= 10.0 ** rng.choice([-15, 15])
  return grads


def near_parallel(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Rows that differ by 1e-8 to 1e-1 of their length."""
  common = rng.standard_normal(num_params)
  noise = matrices.iid(rng, num_tasks, num_params)
  return common + 10.0 ** rng.uniform(-8, -1) * noise


def near_opposite(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Rows along one line or nearly so, both ways, of several lengths."""
  lengths = 10.0 ** rng.uniform(-2, 2, (num_tasks, 1))
  signs = rng.choice([-1.0, 1.0], (num_tasks, 1))
  return lengths * signs * near_parallel(rng, num_tasks, num_params)


def near_dependent(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """The last row is nearly a combination of the others, of either sign."""
  grads = matrices.iid(rng, num_tasks, num_params)
  if num_tasks > 1:
    mix = rng.uniform(-1, 1, num_tasks - 1) @ grads[:-1]
    grads[-1] = mix + 10.0 ** rng.uniform(-8, -1) * grads[-1]
  return grads


def scaled_duplicates(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Few directions, each in several lengths, from 1e-3 to 1e3."""
  grads = matrices.duplicate_rows(rng, num_tasks, num_params)
  return grads * 10.0 ** rng.uniform(-3, 3, (num_tasks, 1))


def small_integers(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Entries of -1, 0 and 1: ties everywhere, and zero rows."""
  return rng.integers(-1, 2, (num_tasks, num_params)).astype(np.float64)


def orthogonal(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Each row has a param of its own, as far as there are enough."""
  grads = np.zeros((num_tasks, num_params))
  columns = np.arange(num_tasks) % num_params
  grads[np.arange(num_tasks), columns] = rng.standard_normal(num_tasks)
  return grads


def heavy_tails(rng: Rng, num_tasks: int, num_params: int) -> np.ndarray:
  """Entries without a mean: a few of them are most of a row."""
  return np.clip(rng.standard_cauchy((num_tasks, num_params)), -1e6, 1e6)


FAMILIES: Mapping[str, matrices.Family] = dict(matrices.FAMILIES) | {
  family.__name__: family
  for family in (
    rank_one,
    scaled_1e15,
    one_far_off,
    near_parallel,
    near_opposite,
    near_dependent,
    scaled_duplicates,
    small_integers,
    orthogonal,
    heavy_tails,
  )
}
_NAMES = tuple(FAMILIES)
# Those whose rows may be scaled by 1e±12 all together without leaving, with
# their squares, what float32 can hold.
_SCALABLE = frozenset(_NAMES) - {"scaled_1e15", "one_far_off", "scaled_1e6"}


def _cap(rng: Rng, count: int) -> float:
  """One of so many weights, of a whole number of which 1 is made or not."""
  kinds = (
    1.0,
    1 / count,
    (1 + 1e-6) / count,
    1 / rng.integers(1, count + 1),
    np.exp(rng.uniform(-np.log(count), 0)),
    rng.uniform(0, 1.5),
  )
  return float(kinds[rng.integers(len(kinds))])


def _gains(rng: Rng, grads: np.ndarray, start: np.ndarray) -> np.ndarray:
  """Gains of a size that the direction may have, within reach or not."""
  lengths = np.linalg.norm(grads, axis=1)
  safe = np.where(lengths > 0, lengths, 1.0)
  unit = grads / safe[:, None]
  size = np.max(np.abs(start) * lengths)
  some = np.array([0.01, 0.1, 1.0, 10.0])[rng.integers(4)]
  kind = rng.integers(4)
  # Those of another direction, which are within reach all together; a share of
  # each task's own descent; some, of any sign; and none.
  other = unit.T @ rng.standard_normal(len(unit))
  other = other / max(float(np.linalg.norm(other)), 1e-30)
  gains = (
    unit @ other,
    np.ones(len(unit)),
    rng.standard_normal(len(unit)),
    np.zeros(len(unit)),
  )[kind]
  return some * gains * lengths * size


def draw(seed: int, number: int) -> Case:
  """The problem of this number."""
  rng = np.random.default_rng([seed, number])
  family = _NAMES[number % len(_NAMES)]
  sizes = (0, *SIZES)
  group = rng.choice(len(SIZES), p=list(SIZES.values()))
  num_tasks = int(rng.integers(sizes[group] + 1, sizes[group + 1] + 1))
  widths = (1, 2, max(1, num_tasks // 2), num_tasks + 1, 2 * num_tasks)
  num_params = widths[rng.integers(len(widths))]
  grads = FAMILIES[family](rng, num_tasks, num_params)
  if rng.random() < 0.1:
    grads[rng.random(num_tasks) < 0.3] = 0.0
  if family in _SCALABLE and rng.random() < 0.3:
    grads = grads * 10.0 ** rng.uniform(-12, 12)
  active = np.ones(num_tasks, bool)
  if rng.random() < 0.3:
    active = rng.random(num_tasks) < 0.7
  bad = np.array([-1.0, -1.0, 0.0])
  if rng.random() < 0.02:
    bad[:2] = rng.integers(num_tasks, size=2)
    bad[2] = rng.choice([np.nan, np.inf, -np.inf])
  vectors = np.zeros((2, num_tasks))
  vectors[0, rng.integers(num_tasks)] = 1.0
  vectors[1] = rng.standard_normal(num_tasks)
  if rng.random() < 0.7:
    vectors[1] = np.abs(vectors[1])
  preference = rng.random(num_tasks) * (rng.random(num_tasks) < 0.9)
  # What is drawn from here on came later, and changes nothing above.
  cap = _cap(rng, max(int(active.sum()), 1))
  start = vectors[rng.integers(2)].astype(np.float32)
  constrained = np.ones(num_tasks, bool)
  if rng.random() < 0.5:
    constrained = rng.random(num_tasks) < 0.7
  # Of absent tasks they do not matter, and may be of any size.
  gains = _gains(rng, grads.astype(np.float32).astype(float), start * active)
  return Case(
    family=family,
    grads=grads.astype(np.float32),
    active=active,
    bad=bad,
    c=np.float32(rng.choice(CS)),
    alpha=np.float32(rng.choice(ALPHAS)),
    vectors=vectors.astype(np.float32),
    preference=preference.astype(np.float32),
    cap=np.float32(cap),
    cosine=np.float32(rng.choice(COSINES)),
    start=start,
    gains=gains.astype(np.float32),
    constrained=constrained,
  )


class Filled(NamedTuple):
  """Problems side by side, filled up with absent tasks, whose rows are NaN.

  Attributes:
    grams: `[N, T, T]`, float32.
    active: `[N, T]` bool.
    c: `[N]`, float32.
    alpha: `[N]`, float32.
    vectors: `[N, 2, T]`, float32.
    preference: `[N, T]`, float32.
    cap: `[N]`, float32.
    cosine: `[N]`, float32.
    start: `[N, T]`, float32, NaN where nothing is.
    gains: `[N, T]`, float32, NaN where nothing is.
    constrained: `[N, T]` bool, True where nothing is.
    grads: `[N, T, P]`, float64, 0 where nothing is; for the judges alone.
    lengths: `[N, T]`, float64, 0 for tasks that take no part.
    finite: `[N]` bool, whether the entries between active tasks are finite.
  """

  grams: np.ndarray
  active: np.ndarray
  c: np.ndarray
  alpha: np.ndarray
  vectors: np.ndarray
  preference: np.ndarray
  cap: np.ndarray
  cosine: np.ndarray
  start: np.ndarray
  gains: np.ndarray
  constrained: np.ndarray
  grads: np.ndarray
  lengths: np.ndarray
  finite: np.ndarray


def filled(cases: list[Case], size: int) -> Filled:
  """The problems, each with `size` tasks."""
  count = len(cases)
  width = max(case.grads.shape[1] for case in cases)
  grams = np.full((count, size, size), np.nan, np.float32)
  active = np.zeros((count, size), bool)
  vectors = np.zeros((count, 2, size), np.float32)
  preference = np.zeros((count, size), np.float32)
  start = np.full((count, size), np.nan, np.float32)
  gains = np.full((count, size), np.nan, np.float32)
  constrained = np.ones((count, size), bool)
  grads = np.zeros((count, size, width))
  for index, case in enumerate(cases):
    rows, columns = case.grads.shape
    grams[index, :rows, :rows] = case.gram()
    active[index, :rows] = case.active
    vectors[index, :, :rows] = case.vectors
    preference[index, :rows] = case.preference
    start[index, :rows] = case.start
    gains[index, :rows] = case.gains
    constrained[index, :rows] = case.constrained
    grads[index, :rows, :columns] = case.grads * case.active[:, None]
  pair = active[:, :, None] & active[:, None, :]
  return Filled(
    grams=grams,
    active=active,
    c=np.stack([case.c for case in cases]),
    alpha=np.stack([case.alpha for case in cases]),
    vectors=vectors,
    preference=preference,
    cap=np.stack([case.cap for case in cases]),
    cosine=np.stack([case.cosine for case in cases]),
    start=start,
    gains=gains,
    constrained=constrained,
    grads=grads,
    lengths=np.linalg.norm(grads, axis=2),
    finite=(np.isfinite(grams) | ~pair).all((1, 2)),
  )
