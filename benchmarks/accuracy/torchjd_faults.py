"""Why TorchJD 0.18 and this package differ where they do.

For most of TorchJD's faults there is the reference with the fault in it, so
that a sentence explains what it says and no more.
"""

from collections.abc import Mapping

import numpy as np

from benchmarks.accuracy.parity import ROUNDING, Known
from benchmarks.accuracy.torchjd_pairs import (
  EXCESS_RATE,
  PAIRS,
  Right,
  Run,
  liars,
  selected,
  weighted,
)
from benchmarks.reference.methods import REFERENCES

#: Kinds of gradients.
_SHORT, _LONG = "iid x 1e-04", "iid x 1e+04"

#: docs/torchjd.md has the same sentences.
KNOWN: tuple[Known, ...] = (
  Known(
    ("MGDA",),
    "theirs",
    "Frank-Wolfe stops after 100 steps, or at a short one, before it has "
    "arrived.",
  ),
  Known(
    ("UPGrad", "DualProj"),
    "theirs",
    "the Gram matrix is divided by its trace, taken for zero where that is "
    "below 1e-4, and gets 1e-4 on its diagonal, which outweighs gradients that "
    "are short beside the others, or short at all.",
    proved=ROUNDING,
  ),
  Known(
    ("CAGrad", "CAGrad(norm_eps=0)"),
    "theirs",
    "the interior-point solver of its convex program leaves 1e-5 to 1e-3, and "
    "now and then more where lengths differ.",
    at_most=1e-2,
  ),
  Known(
    ("CAGrad",),
    "theirs",
    "gradients whose squares sum to less than `norm_eps`, 1e-4, give a zero "
    "update.",
    where=(_SHORT,),
    proved=ROUNDING,
  ),
  Known(
    ("NashMTL",),
    "theirs",
    "its convex programs are not scaled: with short gradients, or lengths that "
    "differ, and now and then with others, their solver gives up or finds no "
    "bound, and with long ones an absolute test stops it early.",
  ),
  Known(
    ("FairGrad",),
    "theirs",
    "the least-squares solver stops where the slope of its squares is below "
    "1e-8, which for short gradients is far from the solution.",
    where=(_SHORT,),
  ),
  Known(
    ("IMTLG",),
    "theirs",
    "the pseudo-inverse of the Gram matrix takes gradients for zero that are "
    "short beside the others; here it is taken between unit gradients.",
    where=("scaled_1e2",),
  ),
  Known(
    ("IMTLG", "ConFIG"),
    "both",
    "between gradients that nearly agree float32 keeps fewer digits of what "
    "tells them apart.",
    where=("aligned",),
    at_most=1e-4,
  ),
  Known(
    ("ConFIG",),
    "ours",
    "of gradients that nearly cancel the float32 Gram matrix keeps a digit "
    "less than the pseudo-inverse of the gradients themselves.",
    where=("conflicting",),
    at_most=1e-4,
  ),
  Known(
    ("AlignedMTL",),
    "both",
    "the update is as long as the smallest singular value, of which the Gram "
    "matrix in float32 keeps few digits where gradients nearly agree.",
    where=("aligned",),
    at_most=1e-2,
  ),
  Known(
    ("AlignedMTL",),
    "theirs",
    "an eigensolver knows the small eigenvalues to roundings of the largest; "
    "here the tasks are sorted by length first, which keeps their digits.",
    where=("scaled_1e2",),
    at_most=1e-1,
  ),
  Known(
    ("ExcessMTL",),
    "theirs",
    "1e-7 is added to the sums of squares and to the first excess risk, which "
    "short gradients do not outweigh.",
    proved=ROUNDING,
  ),
  Known(
    ("GradVac",),
    "theirs",
    "`eps`, 1e-8, is added to products of lengths; with `eps=0` it agrees.",
    where=(_SHORT,),
  ),
  Known(
    ("PCD",),
    "theirs",
    "`eps`, 1e-8, is added to averages of squared lengths; with `eps=0` it "
    "agrees.",
    where=(_SHORT,),
  ),
  Known(
    ("Krum",),
    "theirs",
    "the scores are sums of distances; the paper's are of their squares, which "
    "at times selects other gradients.",
    proved=ROUNDING,
  ),
  Known(
    ("Krum",),
    "theirs",
    "of equal scores rounding chooses; here the first rows win, as in the "
    "paper.",
    where=("duplicate_rows",),
  ),
  Known(
    ("MoDoWeighting",),
    "theirs",
    "the projection on the simplex subtracts numbers as large as the products "
    "of gradients, so that with long ones the weights are rounding, and do not "
    "sum to 1.",
    where=(_LONG,),
  ),
  Known(
    ("SDMGradWeighting", "SDMGradWeighting(lr=1/T)"),
    "theirs",
    "1e-8 is added to the square that the products are divided by, which short "
    "gradients do not outweigh.",
    where=(_SHORT,),
  ),
  Known(
    ("SDMGradWeighting",),
    "both",
    "twenty steps at the authors' rate of 10 are far from converging, and "
    "multiply roundings until they decide which tasks weigh; with a rate of "
    "1/T the two agree.",
    # Two updates of weights that sum to 1.
    at_most=3.0,
  ),
)


def _regularized(name: str) -> Right:
  """With 1e-4 on the diagonal of the Gram matrix, divided by its trace."""

  def right(run: Run) -> np.ndarray:
    grads = run.grads.astype(np.float64)
    traces = np.sum(grads**2, axis=(1, 2))[:, None, None]
    factors = np.where(traces < 1e-4, 0.0, grads / np.sqrt(traces))
    more = np.broadcast_to(
      1e-2 * np.eye(run.num_tasks), (len(grads),) + 2 * (run.num_tasks,)
    )
    longer = np.concatenate([factors, more], axis=2)
    return weighted(run, REFERENCES[name](run.num_tasks, longer, {}))

  return right


def _cagrad(run: Run) -> np.ndarray:
  """Zero where the squares' sum is below 1e-4."""
  traces = np.sum(run.grads.astype(np.float64) ** 2, axis=(1, 2))
  return np.where(traces[:, None] < 1e-4, 0.0, PAIRS["CAGrad"].right(run))


def _excess(run: Run) -> np.ndarray:
  """With 1e-7 beside the squares and beside the first risk."""
  squares, shares = 0.0, np.full(run.num_tasks, 1 / run.num_tasks)
  first, out = None, []
  for g in run.grads.astype(np.float64):
    squares = squares + g**2
    risk = np.sum(g**2 / np.sqrt(squares + 1e-7), axis=1)
    if first is None:
      first = risk
    else:
      shares = shares * np.exp(EXCESS_RATE * risk / (first + 1e-7))
      shares = shares / shares.sum()
    out.append(shares)
  return weighted(run, np.stack(out))


def _krum(run: Run) -> np.ndarray:
  """By distances and not by their squares."""
  neighbours = run.num_tasks - liars(run.num_tasks) - 2
  many, out = selected(run.num_tasks), []
  for g in run.grads.astype(np.float64):
    apart = np.linalg.norm(g[:, None] - g, axis=2)
    scores = np.sort(apart, axis=1)[:, 1 : neighbours + 1].sum(axis=1)
    out.append(g[np.argsort(scores, kind="stable")[:many]].mean(axis=0))
  return np.stack(out)


#: Row -> the reference with TorchJD's fault in it.
FORMS: Mapping[str, Right] = {
  "UPGrad": _regularized("upgrad"),
  "DualProj": _regularized("dual_proj"),
  "CAGrad": _cagrad,
  "ExcessMTL": _excess,
  "Krum": _krum,
}
