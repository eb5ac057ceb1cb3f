"""The questions: which rows of which problem each compares.

A row is a label of a problem, and how its learning rate is chosen.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

ProblemName = Literal["dense", "pinn"]
#: "own": the best of the grid for this row, by networks that are not in the
#: table. "equal's": the one that is best for equal weights. "middle": the
#: grid's middle, as it was before anybody tuned.
Rate = Literal["own", "equal's", "middle"]

EQUAL = "equal_weighting"
FROZEN = "frozen"
MUON = "muon"
SGD = "sgd"
REFRESHED = "refreshed"

#: Of each problem, those that decide something and are of different kinds.
DENSE_METHODS = ("uncertainty_weighting-weighted", "mgda-l2-ub", "upgrad")
PINN_METHODS = ("lr_annealing", "upgrad")
_ON_BOTH: Sequence[tuple[ProblemName, Sequence[str]]] = (
  ("dense", DENSE_METHODS),
  ("pinn", PINN_METHODS),
)
#: What is tuned: the sentence's words, and both rates.
_TUNINGS: Sequence[tuple[str, Rate, Rate]] = (
  ("neither tuned", "middle", "middle"),
  ("equal weights tuned", "equal's", "own"),
  ("both tuned", "own", "own"),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One line of a table.

  Attributes:
    group: What the question's sentence counts together.
    problem: "dense" or "pinn".
    label: The row.
    against: The row that it is compared with, at the same seeds.
    rate: How the row's learning rate is chosen.
    against_rate: How the other's is.
  """

  group: str
  problem: ProblemName
  label: str
  against: str
  rate: Rate = "own"
  against_rate: Rate = "own"


@dataclasses.dataclass(frozen=True)
class Question:
  """What is asked.

  Attributes:
    text: The question.
    comparisons: The lines of its table.
  """

  text: str
  comparisons: tuple[Comparison, ...]


def ended(label: str, ending: str) -> str:
  """The label with one more ending.

  Example:
    >>> ended("mgda-l2", "sgd")
    'mgda-l2-sgd'
  """
  return f"{label}-{ending}"


def _with_optimizer(
  problem: ProblemName, methods: Sequence[str], first: str, other: str
) -> tuple[Comparison, ...]:
  """Methods against equal weights, with Adam and with another optimizer."""
  return (
    *(Comparison(first, problem, label, EQUAL) for label in methods),
    *(
      Comparison(other, problem, ended(label, other), ended(EQUAL, other))
      for label in methods
    ),
  )


QUESTIONS: Mapping[str, Question] = {
  "adam": Question(
    "Does Adam after a method undo it?",
    _with_optimizer("dense", DENSE_METHODS, "adam", SGD),
  ),
  "muon": Question(
    "Do orthogonalised optimizers make methods unnecessary?",
    (
      Comparison("optimizer", "pinn", ended(EQUAL, MUON), EQUAL),
      *_with_optimizer("pinn", PINN_METHODS, "adam", MUON),
    ),
  ),
  "cheaper": Question(
    "Does the representation source or refresh_every cost quality?",
    tuple(
      Comparison(group, "dense", ended(label, ending), label)
      for group, ending in (
        ("representation", "ub"),
        ("refresh_every", REFRESHED),
      )
      for label in ("mgda-l2", "upgrad")
    ),
  ),
  "frozen": Question(
    "Do weights found by a method, frozen to their mean, do as well?",
    tuple(
      Comparison(
        group,
        problem,
        ended(label, FROZEN),
        EQUAL if group == "equal weights" else label,
      )
      for group in ("the method", "equal weights")
      for problem, labels in _ON_BOTH
      for label in labels
      # UPGrad's weights on images change as gradients do, and mean nothing.
      if (problem, label) != ("dense", "upgrad")
    ),
  ),
  "tuned": Question(
    "Does a method still help once the learning rate is tuned for equal "
    "weights?",
    (
      Comparison("tuning", "dense", EQUAL, EQUAL, "own", "middle"),
      Comparison("tuning", "pinn", EQUAL, EQUAL, "own", "middle"),
      *(
        Comparison(group, problem, label, EQUAL, rate, against)
        for group, rate, against in _TUNINGS
        for problem, labels in _ON_BOTH
        for label in labels
      ),
    ),
  ),
}


def needed(names: Sequence[str], problem: ProblemName) -> list[str]:
  """The labels that questions need of a problem.

  Each after what it is made from or compared with: equal weights are first.

  Args:
    names: Keys of `QUESTIONS`.
    problem: "dense" or "pinn".

  Returns:
    Labels, each once; none if the questions are not about this problem.

  Example:
    >>> needed(["cheaper"], "dense")[:3]
    ['equal_weighting', 'mgda-l2', 'mgda-l2-ub']
  """
  found = [
    label
    for name in names
    for one in QUESTIONS[name].comparisons
    if one.problem == problem
    for label in (
      EQUAL,
      one.against,
      one.label.removesuffix(f"-{FROZEN}"),
      one.label,
    )
  ]
  return list(dict.fromkeys(found))
