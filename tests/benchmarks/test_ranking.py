"""Ranks, wins and paired differences: what a table of methods is judged by."""

import numpy as np
import pytest

from benchmarks.common import ranking

#: Accuracy and error, of two seeds.
EQUAL = np.array([[0.80, 0.50], [0.70, 0.60]])
VALUES = {
  "equal": EQUAL,
  # Better in both metrics by nearly the same at both seeds.
  "better": EQUAL * np.array([1.10, 0.90]) + np.array([[1e-4, 0], [0, 0]]),
  # Better at one seed, worse at the other.
  "lucky": EQUAL * np.array([[1.10, 0.90], [0.90, 1.10]]),
  "diverged": np.full((2, 2), np.nan),
}
UP = [True, False]


def standings(**kwargs):
  baseline = EQUAL.mean(axis=0)
  return ranking.standings(VALUES, baseline, UP, equal="equal", **kwargs)


def test_a_difference_within_the_spread_is_none():
  found = standings(reference="equal")
  assert found["better"].verdict == "better"
  assert found["better"].high < 0
  assert found["lucky"].verdict == "even"
  assert found["equal"].difference == 0 and found["equal"].verdict == "even"
  assert found["diverged"].verdict == "even"
  assert np.isnan(found["diverged"].difference)


def test_wins_and_ranks_are_over_seeds_and_metrics():
  found = standings(reference="equal")
  assert found["better"].wins == 1
  assert found["lucky"].wins == 0.5
  assert found["diverged"].wins == 0
  assert np.isnan(found["equal"].wins)
  # At the first seed lucky ties with better, or is just behind in accuracy; at
  # the second it is third.
  assert found["lucky"].rank == pytest.approx((2 + 1.5 + 3 + 3) / 4)
  assert found["diverged"].rank == 4 and found["diverged"].rank_spread == 0


def test_intervals_are_students():
  """Of two seeds t is 12.706: half of the interval is t times half the gap."""
  mean, low, high = ranking.paired(np.array([1.0, 3.0]))
  assert mean == 2
  assert high - 2 == pytest.approx(12.7062, abs=1e-3)
  assert 2 - low == pytest.approx(12.7062, abs=1e-3)
  assert ranking.paired(np.array([1.0])) == (1.0, -np.inf, np.inf)


def test_without_a_reference_nothing_is_won():
  found = standings()
  assert np.isnan(found["better"].wins)
  assert ranking.cells(found["better"])[1] == "–"
  assert ranking.cells(found["equal"], is_equal=True)[2:] == ["–", ""]
