"""Whether a method is better, or was lucky: ranks, wins and paired differences.

All of them compare networks with the same seed, which start from the same
params and see the same batches: what a seed does to all methods alike cancels.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from optax_mtl import metrics

#: Of the intervals.
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Standing:
  """How one method stands among the others.

  Attributes:
    rank: Its mean rank over seeds and metrics; 1 is the best.
    rank_spread: The standard deviation of these ranks.
    wins: Share of the pairs of seed and metric at which it is better than the
      reference, ties as halves; NaN without one.
    difference: Its Δm minus that of equal weights, percentage points, mean over
      seeds; negative is better.
    low: Lower end of the difference's 95 % interval, by Student's t over the
      seeds; infinite with one seed, which says nothing of the spread.
    high: Upper end.
  """

  rank: float
  rank_spread: float
  wins: float
  difference: float
  low: float
  high: float

  @property
  def verdict(self) -> str:
    """How it compares with equal weights: better, worse, or even."""
    if self.high < 0:
      return "better"
    return "worse" if self.low > 0 else "even"


def paired(differences: np.ndarray) -> tuple[float, float, float]:
  """Mean of differences [S] over seeds, and its 95 % interval.

  Args:
    differences: One a seed.

  Returns:
    Mean, lower and upper end.

  Example:
    >>> [round(value, 3) for value in paired(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
  """
  number = len(differences)
  mean = float(np.mean(differences))
  if number < 2:
    return mean, -np.inf, np.inf
  quantile = stats.t.ppf((1 + _CONFIDENCE) / 2, number - 1)
  half = float(quantile * np.std(differences, ddof=1) / np.sqrt(number))
  return mean, mean - half, mean + half


def ranks(values: np.ndarray, higher_is_better: Sequence[bool]) -> np.ndarray:
  """Each method's rank at each seed and metric.

  Args:
    values: Metrics [A, S, K], of A methods.
    higher_is_better: K bools.

  Returns:
    [A, S, K]; 1 is the best, ties share their mean rank, and NaN is the worst.

  Example:
    >>> ranks(np.array([[[0.9]], [[0.8]], [[0.9]]]), [True]).ravel().tolist()
    [1.5, 3.0, 1.5]
  """
  number, seeds, columns = values.shape
  result = np.empty((number, seeds, columns))
  for seed in range(seeds):
    for column, upward in enumerate(higher_is_better):
      one = values[:, seed, column : column + 1]
      result[:, seed, column] = metrics.mean_rank(one, [upward])
  return result


def wins(
  values: np.ndarray, others: np.ndarray, higher_is_better: Sequence[bool]
) -> float:
  """How often metrics [S, K] are better than others; ties are halves.

  Example:
    >>> wins(np.array([[2.0, 1.0]]), np.array([[1.0, 1.0]]), [True, True])
    0.75
  """
  sign = np.where(higher_is_better, 1.0, -1.0)
  # What has diverged is worse than anything.
  mine, theirs = (
    np.nan_to_num(sign * array, nan=-np.inf) for array in (values, others)
  )
  return float(np.mean((mine > theirs) + 0.5 * (mine == theirs)))


def standings(
  values: Mapping[str, np.ndarray],
  baseline: np.ndarray,
  higher_is_better: Sequence[bool],
  *,
  equal: str,
  reference: str | None = None,
) -> dict[str, Standing]:
  """How the methods stand to each other.

  Args:
    values: Label to test metrics [S, K]; the seeds are the same for all.
    baseline: [K], what Δm is relative to: the single-task networks' means.
    higher_is_better: K bools.
    equal: The label of equal weights.
    reference: The label that wins are counted against, as a rule the best fixed
      weights; None: no wins.

  Returns:
    Label to `Standing`.
  """
  up = list(higher_is_better)
  ranked = ranks(np.stack(list(values.values())), up)
  change = {
    label: np.asarray(metrics.delta_m(one, baseline, up), np.float64)
    for label, one in values.items()
  }
  result: dict[str, Standing] = {}
  for (label, one), rank in zip(values.items(), ranked, strict=True):
    rate = float("nan")
    if reference is not None and label != reference:
      rate = wins(one, values[reference], up)
    result[label] = Standing(
      float(rank.mean()),
      float(rank.std()),
      rate,
      *paired(change[label] - change[equal]),
    )
  return result


def best_first(
  labels: Iterable[str], score: Callable[[str], float], first: Collection[str]
) -> list[str]:
  """The order of a table's rows.

  Args:
    labels: All of them, in the order in which they were trained.
    score: Of a label; lower is better, and NaN is the worst.
    first: Those that the others are read against: they stay where they are.

  Returns:
    Those, and the others behind them.

  Example:
    >>> best_first(["a", "b", "c"], {"b": 2.0, "c": 1.0}.__getitem__, ["a"])
    ['a', 'c', 'b']
  """
  labels = list(labels)
  others = [label for label in labels if label not in first]
  return [label for label in labels if label in first] + sorted(
    others, key=lambda label: np.nan_to_num(score(label), nan=np.inf)
  )


def verdicts(of: Mapping[str, Standing]) -> str:
  """How many methods are better than equal weights, worse, and even.

  Example:
    >>> verdicts({"mgda": Standing(2.0, 0.5, 0.75, -1.0, -1.6, -0.4)})
    'Of 1 methods 1 are better than equal weights beyond the spread over \
seeds, 0 worse, and 0 even'
  """
  found = [standing.verdict for standing in of.values()]
  better, worse, even = map(found.count, ("better", "worse", "even"))
  return (
    f"Of {len(found)} methods {better} are better than equal weights beyond "
    f"the spread over seeds, {worse} worse, and {even} even"
  )


#: Titles of the columns that `cells` fills.
HEADER = (
  "mean\nrank ↓",
  "beats best\nfixed",
  "Δm − equal's,\n95 % interval",
  "verdict",
)


def cells(standing: Standing, is_equal: bool = False) -> list[str]:
  """A standing as text, in the order of `HEADER`.

  Args:
    standing: Of which row.
    is_equal: Whether it is that of equal weights, which has no difference.

  Returns:
    Four texts.

  Example:
    >>> cells(Standing(2.0, 0.5, 0.75, -1.0, -1.6, -0.4))
    ['2.0 ± 0.5', '75%', '-1.0 [-1.6, -0.4]', 'better']
    >>> cells(Standing(2.0, 0.5, 0.75, 0.051, 0.02, 0.082))[2]
    '+0.05 [+0.02, +0.08]'
  """
  difference, verdict = "–", ""
  if not is_equal and np.isfinite(standing.difference):
    digits, ends = 1, (standing.low, standing.high)
    if np.isfinite(ends).all() and ends[0] < ends[1]:
      # The first digit of half of the interval, of three at most.
      first = np.ceil(-np.log10((ends[1] - ends[0]) / 2))
      digits = int(np.clip(first, 1, 3))
    difference, verdict = f"{standing.difference:+.{digits}f}", standing.verdict
    if np.isfinite(standing.low):
      difference += f" [{ends[0]:+.{digits}f}, {ends[1]:+.{digits}f}]"
  return [
    f"{standing.rank:.1f} ± {standing.rank_spread:.1f}",
    "–" if np.isnan(standing.wins) else f"{standing.wins:.0%}",
    difference,
    verdict,
  ]
