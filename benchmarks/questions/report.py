"""What a question's answer is: a table, and one sentence from its numbers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.table import Table

from benchmarks.common import output, ranking
from benchmarks.questions.asked import QUESTIONS, Comparison, ProblemName
from benchmarks.questions.training import Rows, Trainer, chosen

HEADER = (
  "problem",
  "row",
  "rate",
  "ends at",
  "compared with",
  "its rate",
  "difference,\n95 % interval",
  "verdict",
)
#: What a problem's rows are measured by, and its differences.
UNITS: Mapping[ProblemName, str] = {
  "dense": "dense: the mean relative change of the test metrics against equal "
  "weights at the middle rate, in percent, lower is better; differences in "
  "percentage points.",
  "pinn": "pinn: the relative L2 error in percent, the median over seeds; "
  "differences as a factor of the error, below 1 is better.",
}


@dataclasses.dataclass(frozen=True)
class Line:
  """One line of a table.

  Attributes:
    comparison: What is compared.
    rate: The row's learning rate.
    against_rate: The other's.
    ends_at: [S], the row's scores.
    mean: Of the differences of scores at the same seeds.
    low: Lower end of their 95 % interval.
    high: Upper end.
  """

  comparison: Comparison
  rate: float
  against_rate: float
  ends_at: np.ndarray
  mean: float
  low: float
  high: float

  @property
  def verdict(self) -> str:
    """Better, worse, or even within the spread; or that it has diverged."""
    if not np.isfinite(self.ends_at).all():
      return "diverged"
    if self.high < 0:
      return "better"
    return "worse" if self.low > 0 else "even"


def lines(
  name: str, trainers: Mapping[str, Trainer], rows: Mapping[str, Rows]
) -> list[Line]:
  """The lines of a question's table.

  Args:
    name: A key of `QUESTIONS`.
    trainers: By problem.
    rows: By problem, then by label.

  Returns:
    Those whose rows are there.
  """
  found: list[Line] = []
  for one in QUESTIONS[name].comparisons:
    trainer, mine = trainers[one.problem], rows[one.problem]
    if one.label not in mine or one.against not in mine:
      continue
    first = chosen(trainer, mine, one.label, one.rate)
    other = chosen(trainer, mine, one.against, one.against_rate)
    score, its = (
      trainer.score(mine, mine[label].test[index])
      for label, index in ((one.label, first), (one.against, other))
    )
    # What has diverged twice has no difference.
    with np.errstate(invalid="ignore"):
      difference = ranking.paired(score - its)
    found.append(
      Line(
        one,
        float(mine[one.label].rates[first]),
        float(mine[one.against].rates[other]),
        score,
        *difference,
      )
    )
  return found


def _cells(line: Line) -> list[str]:
  """One line as text, in the order of `HEADER`."""
  one = line.comparison
  three = line.mean, line.low, line.high
  if one.problem == "dense":
    with np.errstate(invalid="ignore"):
      spread = line.ends_at.std(ddof=1 if len(line.ends_at) > 1 else 0)
    ends_at = f"{line.ends_at.mean():+.1f} ± {spread:.1f} %"
    mean, low, high = (f"{value:+.1f}" for value in three)
  else:
    ends_at = f"{100 * np.exp(np.median(line.ends_at)):.3g} %"
    with np.errstate(over="ignore"):
      mean, low, high = (f"{np.exp(value):.3g}" for value in three)
    mean = f"× {mean}"
  return [
    one.problem,
    one.label,
    f"{line.rate:g}",
    ends_at,
    one.against,
    f"{line.against_rate:g}",
    f"{mean} [{low}, {high}]" if np.isfinite(line.mean) else "–",
    line.verdict,
  ]


def markdown(found: Sequence[Line]) -> str:
  """The table for the docs."""
  return output.markdown(HEADER, [_cells(line) for line in found])


def table(name: str, found: Sequence[Line]) -> Table:
  """The table for a terminal."""
  result = output.new_table(QUESTIONS[name].text, HEADER, left=2)
  for line in found:
    # A bracket begins markup.
    result.add_row(*(cell.replace(" [", " \\[") for cell in _cells(line)))
  return result


def _of(found: Sequence[Line], group: str) -> list[Line]:
  return [line for line in found if line.comparison.group == group]


def _count(found: Sequence[Line], verdict: str) -> int:
  return [line.verdict for line in found].count(verdict)


def _mean(found: Sequence[Line]) -> float:
  return float(np.mean([line.mean for line in found]))


def _better(found: Sequence[Line]) -> str:
  return f"{_count(found, 'better')} of {len(found)}"


def _even(found: Sequence[Line]) -> str:
  counts = [
    f"{_count(found, verdict)} {verdict}"
    for verdict in ("better", "even", "worse", "diverged")
    if _count(found, verdict)
  ]
  return f"of {len(found)}, {', '.join(counts)}"


def _adam(found: Sequence[Line]) -> str:
  adam, sgd = (_of(found, group) for group in ("adam", "sgd"))
  with_adam, with_sgd = -_mean(adam), -_mean(sgd)
  if with_sgd <= 0:
    end = "SGD shows no gain that Adam could undo"
  elif with_adam < with_sgd / 2:
    end = "Adam takes away half of it or more"
  else:
    end = "Adam does not undo it"
  return (
    f"With Adam {_better(adam)} methods are better than equal weights beyond "
    f"the spread over seeds, with SGD {_better(sgd)}; in the mean they gain "
    f"{with_adam:.1f} points with Adam and {with_sgd:.1f} with SGD: {end}."
  )


def _muon(found: Sequence[Line]) -> str:
  (alone,) = _of(found, "optimizer")
  adam, muon = (_of(found, group) for group in ("adam", "muon"))
  factors = [np.exp(_mean(group)) for group in (adam, muon)]
  needed = "not " if _count(muon, "better") else ""
  return (
    f"Muon multiplies equal weights' error by {np.exp(alone.mean):.2g} "
    f"({alone.verdict}). With Adam {_better(adam)} methods are better than "
    f"equal weights, in the mean by a factor of {factors[0]:.2g}, with Muon "
    f"{_better(muon)}, by {factors[1]:.2g}: it does {needed}make them "
    "unnecessary."
  )


def _cheaper(found: Sequence[Line]) -> str:
  parts = [
    f"{group}: {_even(_of(found, group))}, in the mean "
    f"{_mean(_of(found, group)):+.1f} points"
    for group in ("representation", "refresh_every")
  ]
  costs = "a cost" if _count(found, "worse") else "no cost"
  return f"{'; '.join(parts)}: {costs} beyond the spread over seeds."


def _frozen(found: Sequence[Line]) -> str:
  same, equal = (_of(found, group) for group in ("the method", "equal weights"))
  return (
    f"Frozen weights against the method that found them: {_even(same)}; "
    f"against equal weights: {_even(equal)}."
  )


def _tuned(found: Sequence[Line]) -> str:
  moved = ", ".join(
    f"by {line.mean:+.1f} points (dense)"
    if line.comparison.problem == "dense"
    else f"by a factor of {np.exp(line.mean):.2g} (pinn)"
    for line in _of(found, "tuning")
  )
  counts = ", ".join(
    f"{group}: {_better(_of(found, group))}"
    for group in ("neither tuned", "equal weights tuned", "both tuned")
  )
  return (
    f"Tuning moved equal weights {moved}. Methods better than equal weights, "
    f"{counts}."
  )


_SENTENCES: Mapping[str, Callable[[Sequence[Line]], str]] = {
  "adam": _adam,
  "muon": _muon,
  "cheaper": _cheaper,
  "frozen": _frozen,
  "tuned": _tuned,
}


def sentence(name: str, found: Sequence[Line]) -> str:
  """The answer, from the table's numbers.

  Args:
    name: A key of `QUESTIONS`.
    found: All of its lines; with fewer there is no answer yet.

  Returns:
    A sentence.
  """
  if len(found) < len(QUESTIONS[name].comparisons):
    return "Not all rows are trained yet."
  return _SENTENCES[name](found)
