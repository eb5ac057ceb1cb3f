"""Solvers on random and degenerate Gram matrices: do they say the truth?

    python -m benchmarks.faults.fuzz
    python -m benchmarks.faults.fuzz --count 1e4 --solvers min_norm --seed 7

For each solver, so many problems of 1 to 40 tasks: tasks are absent, zero,
duplicate, nearly parallel, as far apart as 1e-15 and 1e15, or not finite. Each
answer is judged in float64, from the gradients (`benchmarks/faults/judges.py`).
Prints what came out of them, the worst of them, and the faults; with a fault it
ends with status 1. `--keep` writes the worst ones to `worst.npz`, which a test
solves again.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.common import options, output
from benchmarks.faults import draws
from benchmarks.faults.subjects import SUBJECTS, Subject
from optax_mtl.solvers import Certificate, Status

WORST = pathlib.Path(__file__).with_name("worst.npz")
#: How many problems of so many tasks a call takes.
BATCHES = {2: 512, 6: 512, 16: 256, 40: 64}
#: How many of each kind of worst case are shown and kept, for each solver.
EACH = 2


class Outcome(NamedTuple):
  """What came out, for each of `N` problems.

  Attributes:
    said: `[N]`, the certificate's residual.
    status: `[N]`, a `Status`.
    iterations: `[N]`.
    true: `[N]`, the residual in float64.
    share: `[N]`, what `true` is above `said`, of what it may be: a fault
      above 1.
    fault: `[N]` of str, what is wrong, "" for nothing.
  """

  said: np.ndarray
  status: np.ndarray
  iterations: np.ndarray
  true: np.ndarray
  share: np.ndarray
  fault: np.ndarray


def judged(
  subject: Subject,
  given: draws.Filled,
  answer: np.ndarray,
  certificate: Certificate,
) -> Outcome:
  """What is to be said of answers `[N, ..., T]` and their certificates."""
  status, said = certificate.status, certificate.residual.astype(float)
  finite = given.finite
  every = tuple(range(1, answer.ndim))
  good = np.isfinite(answer).all(every)
  # NaN at the active tasks and 0 at the others, where an entry is not finite.
  active = given.active.reshape(len(answer), *[1] * (answer.ndim - 2), -1)
  poisoned = np.where(active, np.isnan(answer), answer == 0).all(every)
  fine = (finite & good).reshape(-1, *[1] * (answer.ndim - 1))
  verdict = subject.judge(
    given, np.where(fine, answer.astype(float), 0.0), said
  )
  share = (verdict.true - said) / verdict.slack
  solved, ran_out = status == Status.SOLVED, status == Status.OUT_OF_ITERATIONS
  faults = {
    "hides what is not finite": ~finite
    & ((status != Status.NOT_FINITE) | ~poisoned),
    "is not finite": finite & (~good | (status == Status.NOT_FINITE)),
    "has a residual that is not finite": finite & ~np.isfinite(said),
    "is no answer": finite & good & ~verdict.formed,
    "is less exact than it says": finite & good & (share > 1),
    "is not solved and says so": finite & solved & (said > subject.tol),
    "is solved and does not say so": finite & ~solved & (said <= subject.tol),
    "says in vain that nothing solves it": finite
    & (status == Status.STATIONARY)
    & ~verdict.stationary,
    "came to the limit": finite & ran_out & (not subject.may_run_out),
  }
  named = [
    np.where(where, f"{what}; ", "").astype(object)
    for what, where in faults.items()
  ]
  return Outcome(
    said=np.where(finite, said, 0.0),
    status=status,
    iterations=certificate.iterations,
    true=np.where(finite, verdict.true, 0.0),
    share=np.where(finite & good, share, 0.0),
    fault=np.sum(named, axis=0),
  )


class Group(NamedTuple):
  """Problems of one size, in calls of one size.

  Attributes:
    numbers: Of the problems.
    given: The problems.
  """

  numbers: np.ndarray
  given: draws.Filled


def groups(cases: Sequence[draws.Case]) -> list[Group]:
  """The problems by size, those of a family side by side.

  A call runs until the last of its problems is solved, and what a family has
  in common is how long that takes.
  """
  found = []
  smaller = 0
  for size, batch in BATCHES.items():
    mine = [
      i for i, case in enumerate(cases) if smaller < len(case.active) <= size
    ]
    mine.sort(key=lambda i: cases[i].family)
    smaller = size
    for start in range(0, len(mine), batch):
      numbers = np.array(mine[start : start + batch])
      some = [cases[i] for i in numbers]
      found.append(Group(numbers, draws.filled(some, size)))
  return found


def solved(
  subject: Subject, given: Sequence[draws.Filled]
) -> list[tuple[np.ndarray, Certificate]]:
  """Answers and certificates, a program for each size and no more."""
  solve = jax.jit(jax.vmap(subject.solve))
  found = []
  for some in given:
    count, size = some.active.shape
    chosen = np.arange(BATCHES[size]) % count
    inputs = some._replace(grads=some.finite, lengths=some.finite)
    inputs = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], inputs)
    found.append(
      jax.tree.map(lambda leaf, n=count: np.asarray(leaf)[:n], solve(inputs))
    )
  return found


def outcomes(name: str, all_groups: Sequence[Group], count: int) -> Outcome:
  """What came out of a solver, in the order of the problems."""
  subject = SUBJECTS[name]
  parts = [
    judged(subject, group.given, *found)
    for group, found in zip(
      all_groups,
      solved(subject, [group.given for group in all_groups]),
      strict=True,
    )
  ]
  numbers = np.concatenate([group.numbers for group in all_groups])
  order = np.argsort(numbers)
  assert len(order) == count
  return Outcome(
    *(np.concatenate(leaf)[order] for leaf in zip(*parts, strict=True))
  )


def worst(outcome: Outcome) -> dict[int, str]:
  """Number of a problem -> why it is among the worst."""
  unsolved = np.where(outcome.status == Status.STATIONARY, 0.0, outcome.said)
  found: dict[int, str] = {}
  faulty = np.flatnonzero(outcome.fault != "")[: 2 * EACH]
  found |= {int(i): f"fault: {outcome.fault[i]}" for i in faulty}
  for why, values in (
    ("largest residual", unsolved),
    ("least exact for what it says", outcome.share),
    ("most iterations", outcome.iterations),
  ):
    for i in np.argsort(-values, kind="stable")[:EACH]:
      if values[i] > 0:
        found.setdefault(int(i), why)
  return found


def row_of(name: str, outcome: Outcome, seconds: float) -> list[str]:
  """A line of the table."""

  def share(status: Status) -> str:
    return f"{100 * np.mean(outcome.status == status):.2f}"

  unsolved = outcome.status == Status.AT_ROUNDING
  return [
    name,
    f"{len(outcome.said):,}",
    share(Status.SOLVED),
    share(Status.STATIONARY),
    share(Status.AT_ROUNDING),
    share(Status.OUT_OF_ITERATIONS),
    share(Status.NOT_FINITE),
    f"{np.max(outcome.said[unsolved], initial=0.0):.0e}",
    f"{np.max(outcome.share):.2f}",
    f"{outcome.iterations.max()}",
    f"{np.sum(outcome.fault != ''):,}",
    f"{seconds:.0f}",
  ]


COLUMNS = [
  "solver",
  "matrices",
  "solved\n%",
  "no\nsolution\n%",
  "at\nrounding\n%",
  "out of\niterations\n%",
  "not\nfinite\n%",
  "largest\nresidual\nat rounding",
  "error above\nwhat it says,\nof the bound",
  "most\niterations",
  "faults",
  "s",
]


def line_of(outcome: Outcome, case: draws.Case, number: int, why: str) -> str:
  """A worst case in words."""
  rows, columns = case.grads.shape
  status = Status(int(outcome.status[number])).name
  return (
    f"  {number:>6} {case.family}, {int(case.active.sum())} of {rows} tasks, "
    f"{columns} params: {status}, residual {outcome.said[number]:.1e}, in "
    f"float64 {outcome.true[number]:.1e}, {outcome.iterations[number]} "
    f"iterations ({why.rstrip('; ')})"
  )


def keep(path: pathlib.Path, kept: dict[str, list[draws.Case]]) -> None:
  """Writes problems by solver, for `load`."""
  arrays: dict[str, Any] = {}
  for name, cases in kept.items():
    for index, case in enumerate(cases):
      for field, value in case._asdict().items():
        arrays[f"{name}/{index}/{field}"] = value
  np.savez_compressed(path, **arrays)


def load(path: pathlib.Path) -> dict[str, list[draws.Case]]:
  """What `keep` has written."""
  found: dict[str, list[dict[str, Any]]] = {}
  with np.load(path) as arrays:
    for key, value in arrays.items():
      name, index, field = key.split("/")
      cases = found.setdefault(name, [])
      if int(index) == len(cases):
        cases.append({})
      cases[int(index)][field] = value
  return {
    name: [
      draws.Case(**case | {"family": str(case["family"])}) for case in cases
    ]
    for name, cases in found.items()
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Fuzzes and prints; returns the exit status."""
  parser = options.new_parser("faults.fuzz", __doc__, as_it_is=True)
  parser.add_argument("--count", type=options.number, default=100_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--solvers", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS)
  )
  parser.add_argument(
    "--keep", action="store_true", help=f"write the worst ones to {WORST.name}"
  )
  args = parser.parse_args(argv)
  console = output.new_console(160)
  start = time.perf_counter()
  cases = [draws.draw(args.seed, number) for number in range(args.count)]
  all_groups = groups(cases)
  console.print(
    f"Drew {args.count:,} problems with seed {args.seed} in "
    f"{time.perf_counter() - start:.0f} s."
  )
  table = output.new_table("Solvers on random Gram matrices", COLUMNS)
  kept: dict[str, list[draws.Case]] = {}
  faults = 0
  for name in args.solvers:
    start = time.perf_counter()
    outcome = outcomes(name, all_groups, args.count)
    table.add_row(*row_of(name, outcome, time.perf_counter() - start))
    faults += int(np.sum(outcome.fault != ""))
    found = worst(outcome)
    kept[name] = [cases[number] for number in found]
    console.print(f"{name}, the worst:")
    for number, why in found.items():
      console.print(line_of(outcome, cases[number], number, why))
  console.print(table)
  if args.keep:
    # Those of other solvers stay.
    keep(WORST, (load(WORST) if WORST.exists() else {}) | kept)
    output.say_wrote([WORST])
  return 1 if faults else 0


if __name__ == "__main__":
  raise SystemExit(main())
