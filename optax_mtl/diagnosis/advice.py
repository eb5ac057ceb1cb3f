"""What follows from the figures: symptoms, and the methods for each.

The rules are those of the page "How to choose"; each threshold has its reason
beside it, and each piece of advice the figures that it comes from.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from optax_mtl.diagnosis.costs import PLAIN, Cost
from optax_mtl.diagnosis.gradients import Leaf
from optax_mtl.diagnosis.statistics import Statistics

#: Beyond one order of magnitude between two gradients, the shorter one turns
#: their sum by less than six degrees: it is hardly trained.
_DIFFERENT_LENGTHS = 10.0
#: Between gradients of one length, each task's progress along their sum is `1 +
#: cosine` of what it would be if they were orthogonal: above this cosine, less
#: than a tenth is lost.
_CONFLICT = -0.1
#: A gradient whose noise is twice its signal: a step on one batch goes more
#: than 60 degrees from the way it would with all the data.
_NOISY = 2.0
#: From here on a step with task gradients is the larger half of the cost.
_EXPENSIVE = 2.0


@dataclasses.dataclass(frozen=True)
class Advice:
  """One symptom, and what there is for it.

  Attributes:
    symptom: As a user would say it.
    evidence: The figures that show it.
    methods: Names of at most three methods or wrappers, best first.
    remark: What to mind.
  """

  symptom: str
  evidence: str
  methods: tuple[str, ...]
  remark: str


@dataclasses.dataclass(frozen=True)
class Figures:
  """What advice is computed from."""

  names: Sequence[str]
  losses: np.ndarray
  counts: np.ndarray
  statistics: Statistics
  leaves: Sequence[Leaf]
  costs: Sequence[Cost]


def _listed(names: Sequence[str]) -> str:
  return ", ".join(names)


def _not_finite(figures: Figures) -> Advice | None:
  missing = [
    f"{name} in {int((~column).sum())} of {len(column)} batches"
    for name, column in zip(figures.names, figures.counts.T, strict=True)
    if not column.all()
  ]
  if not missing:
    return None
  return Advice(
    "Some tasks are absent, or their loss or gradient is not finite:",
    f"{_listed(missing)}.",
    ("drop_nonfinite",),
    "Pass active= where a batch has no label of a task, and average each loss "
    "over the labels that are there; drop_nonfinite leaves out what overflows.",
  )


def _without_gradient(figures: Figures) -> Advice | None:
  norms = figures.statistics.norms
  still = [
    name
    for name, column in zip(figures.names, norms.T, strict=True)
    if np.nanmax(np.append(column, 0)) == 0
  ]
  if not still:
    return None
  return Advice(
    "A task has no gradient on the trunk:",
    f"{_listed(still)} is zero in every batch.",
    (),
    "mgda stands still for it, and gradnorm drives the other weights down. "
    "Look for a stop_gradient or a dead activation; if the task is done, mgda "
    "has drop_stationary=.",
  )


def _lengths_differ(figures: Figures) -> Advice | None:
  norms = figures.statistics.norms
  typical = np.sqrt(
    np.nansum(norms**2, axis=0) / np.maximum(figures.counts.sum(axis=0), 1)
  )
  alive = np.flatnonzero(typical > 0)
  if len(alive) < 2:
    return None
  longest = int(alive[typical[alive].argmax()])
  shortest = int(alive[typical[alive].argmin()])
  ratio = typical[longest] / typical[shortest]
  if ratio < _DIFFERENT_LENGTHS:
    return None
  if np.nanmin(figures.losses) < 0:
    first = "imtl_g"
    remark = (
      "imtl_g makes the update's projections onto all gradients equal; "
      "uncertainty_weighting is not for losses below zero. "
    )
  else:
    first = "uncertainty_weighting"
    remark = (
      "uncertainty_weighting needs one backward pass, and losses none of which "
      "can be zero while the others are not. "
    )
  return Advice(
    "The losses' gradients differ in length, so that one drowns another:",
    f"{figures.names[longest]}'s is {ratio:.3g} times as long as "
    f"{figures.names[shortest]}'s.",
    (first, "lr_annealing", "db_pinn"),
    f"{remark}The other two read gradients' entries, and are for the terms of "
    "a differential equation. Weights of your own, fixed_weighting, are as "
    "good where you know the scales.",
  )


def _pairs(figures: Figures) -> list[str]:
  statistics = figures.statistics
  found: list[str] = []
  for i, j in statistics.conflicts:
    if statistics.mean_cosines[i, j] > _CONFLICT:
      continue
    error = statistics.cosine_errors[i, j]
    spread = "" if np.isnan(error) else f" ± {error:.2f}"
    cosine = f"{statistics.mean_cosines[i, j]:+.2f}{spread}"
    found.append(f"{figures.names[i]} and {figures.names[j]} {cosine}")
  return found


def _conflict(figures: Figures) -> Advice | None:
  pairs = _pairs(figures)
  rate = figures.statistics.conflict_rate
  if not pairs:
    return None
  more = f", and {len(pairs) - 4} pairs more" if len(pairs) > 4 else ""
  return Advice(
    "Gradients conflict, so that a step that helps one task hurts another:",
    f"cosines of {_listed(pairs[:4])}{more}; {100 * rate:.0f} % of all pairs "
    "and batches are below zero.",
    ("upgrad", "conflict_free", "mgda"),
    'mgda with normalize="l2" where lengths differ. Each reads the Gram '
    "matrix: see what the sources cost.",
  )


def _noise(figures: Figures) -> Advice | None:
  statistics = figures.statistics
  noisy = [
    f"{name} {noise / signal:.1f}" if signal > 0 else f"{name} all noise"
    for name, signal, noise in zip(
      figures.names, statistics.signal, statistics.noise, strict=True
    )
    if noise > _NOISY * signal
  ]
  if not noisy:
    return None
  conflicts = statistics.conflicts
  if statistics.conflict_rate > 0 and not conflicts:
    remark = (
      f"{100 * statistics.conflict_rate:.0f} % of the pairs have a negative "
      "cosine, but none beyond its noise: that is no conflict, and a method "
      "against conflicts would follow the batches. "
    )
  else:
    remark = "A method that reads one batch's gradients reads their noise. "
  return Advice(
    "The gradients of one batch are mostly noise:",
    f"noise over signal is {_listed(noisy)}.",
    ("ema_weights", "accumulate"),
    f"{remark}Average the weights (ema_weights around the method), take larger "
    "batches, or stay with equal weights.",
  )


def _expensive(figures: Figures) -> Advice | None:
  costs = figures.costs
  if len(costs) < 2 or costs[0].source != PLAIN:
    return None
  best = min(costs[1:], key=lambda cost: cost.seconds)
  if best.times_plain < _EXPENSIVE:
    return None
  return Advice(
    "A step that reads task gradients is expensive here:",
    f"{best.times_plain:.1f} times the summed loss with the cheapest source, "
    f"{best.source}.",
    ("refresh_every", "uncertainty_weighting", "dwa"),
    "refresh_every(method, 10) keeps the weights between; the others read the "
    "losses alone. value_and_representation_grads pulls the trunk back once: "
    "give diagnose the pair (trunk_fn, heads_fn) to see its cost.",
  )


_RULES: tuple[Callable[[Figures], Advice | None], ...] = (
  _not_finite,
  _without_gradient,
  _lengths_differ,
  _conflict,
  _noise,
  _expensive,
)


def advise(figures: Figures) -> tuple[Advice, ...]:
  """All that the figures give reason for; if nothing, equal weights."""
  by_rule = {rule: rule(figures) for rule in _RULES}
  found = tuple(advice for advice in by_rule.values() if advice is not None)
  if by_rule[_lengths_differ] or by_rule[_conflict]:
    return found
  return (
    Advice(
      "No reason for a method:",
      "lengths within a factor of ten, and no conflict beyond noise that costs "
      "a tenth of a task's progress.",
      ("equal_weighting",),
      "Measure each task against a network of its own before anything else.",
    ),
    *found,
  )
