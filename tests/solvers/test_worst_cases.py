"""The worst problems that `python -m benchmarks.faults.fuzz` has met.

Of 100,000 each: where a residual was largest, where an answer was least exact
for what its certificate says, where most iterations were taken. A problem that
a solver failed on is kept for good by adding it to `REGRESSIONS`.
"""

import jax
import numpy as np
import pytest

from benchmarks.faults import draws, fuzz
from benchmarks.faults.subjects import SUBJECTS

KEPT = fuzz.load(fuzz.WORST)

#: Solver -> numbers of problems, with seed 0, on which it once failed: rows of
#: 1e15 and 1e-15, whose products vanished or overflowed; two rows that are
#: nearly parallel; a negative coefficient that is cancelled; a weight that is
#: too small for float32. With a cap: zero rows a rounding above it; lengths of
#: which the squares vanish, so that weights did not sum to 1.
REGRESSIONS = {
  "min_norm": [84724, 35774, 21119, 66387],
  "min_norm, pairwise": [145, 409, 1157],
  "min_norm, away": [585, 1971],
  "min_norm, vanilla": [57, 453],
  "min_norm, cap": [1322, 745, 95, 695, 959, 1070, 1091, 1136, 1663, 2037, 717],
  "project_dual_cone": [7, 110, 158, 160, 1268, 3600],
  "cagrad_weights": [1333, 1047, 8968, 24942],
  "fairness": [13, 299, 344, 1201],
  "conflict_free_direction": [684, 706],
}


def cases_of(name):
  """Those kept and those that failed once, of the sizes of few programs."""
  cases = [draws.draw(0, number) for number in REGRESSIONS.get(name, [])]
  cases += KEPT.get(name, [])
  return [case for case in cases if len(case.active) <= 16] or cases


def test_there_are_some_for_each_solver():
  assert set(KEPT) == set(SUBJECTS)
  for name in SUBJECTS:
    assert cases_of(name), name


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_a_solver_says_is_true(name, monkeypatch):
  """Judged in float64, by what does not know how the solver works."""
  # Small calls, and one size of few tasks beside the closed form for two.
  monkeypatch.setattr(fuzz, "BATCHES", {2: 8, 16: 16, 40: 8})
  cases = cases_of(name)
  groups = fuzz.groups(cases)
  with jax.numpy_dtype_promotion("standard"):
    outcome = fuzz.outcomes(name, groups, len(cases))
  faulty = {
    f"{case.family} {case.grads.shape}": fault
    for case, fault in zip(cases, outcome.fault, strict=True)
    if fault
  }
  assert not faulty


def test_a_wrong_answer_is_found():
  """Weights off by a thousandth, and a certificate that is silent on it."""
  subject = SUBJECTS["min_norm"]
  case = draws.draw(0, 0)._replace(
    grads=np.float32([[1, 0, 0], [0, 2, 0], [0, 0, 3]]),
    active=np.ones(3, bool),
    bad=np.array([-1.0, -1.0, 0.0]),
    vectors=np.zeros((2, 3), np.float32),
    preference=np.zeros(3, np.float32),
    start=np.zeros(3, np.float32),
    gains=np.zeros(3, np.float32),
    constrained=np.ones(3, bool),
  )
  given = draws.filled([case], 6)
  [(answer, certificate)] = fuzz.solved(subject, [given])
  right = fuzz.judged(subject, given, answer, certificate)
  assert right.fault[0] == ""
  off = np.array([[1e-3, -1e-3, 0, 0, 0, 0]], np.float32)
  wrong = fuzz.judged(subject, given, answer + off, certificate)
  assert "less exact than it says" in wrong.fault[0]
  unsure = certificate._replace(status=np.array([4]))
  assert (
    "does not say so" in fuzz.judged(subject, given, answer, unsure).fault[0]
  )
  gone = fuzz.judged(subject, given, np.nan * answer, certificate)
  assert "is not finite" in gone.fault[0]
