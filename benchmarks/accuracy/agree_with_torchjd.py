"""How exactly TorchJD and this package do the same.

Every method that both have runs for some steps on the same gradients, of
several kinds and scales, with the same settings and the same draws. Prints for
each the largest relative error of either side against a float64 reference, and
the largest difference between the two; below the table, why a side is off where
it is by more than rounding. A difference without a reason is exit status 1.

    python -m benchmarks.accuracy.agree_with_torchjd
    python -m benchmarks.accuracy.agree_with_torchjd --tasks 3 --methods MGDA

Needs the `peers` extra. Takes a few minutes. Speed is measured elsewhere.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from benchmarks.accuracy import parity
from benchmarks.accuracy.torchjd_faults import FORMS, KNOWN
from benchmarks.accuracy.torchjd_pairs import PAIRS, Run
from benchmarks.common import contenders, matrices, options

#: Scales of all gradients, beside the families at scale 1.
SCALES = (1e-4, 1e4)
FAMILIES = ("iid", "conflicting", "aligned", "scaled_1e2", "duplicate_rows")


def runs(num_tasks: int, steps: int) -> dict[str, Run]:
  """Label -> gradients [steps, T, 2 T + 4] of float32."""
  result = {}
  for name in FAMILIES:
    rng = np.random.default_rng(zlib.crc32(f"{name}{num_tasks}".encode()))
    drawn = [
      matrices.FAMILIES[name](rng, num_tasks, 2 * num_tasks + 4)
      for _ in range(steps)
    ]
    grads = np.stack(drawn).astype(np.float32)
    noise = 1 + 0.3 * rng.standard_normal(grads.shape)
    result[name] = Run(grads, (grads * noise).astype(np.float32))
  for scale in np.float32(SCALES):
    first = result["iid"]
    result[f"iid x {scale:.0e}"] = Run(
      scale * first.grads, scale * first.second
    )
  return result


def measure(
  methods: Sequence[str], sizes: Sequence[int], steps: int
) -> list[parity.Cell]:
  """A cell for each method, number of tasks and kind of gradients."""
  cells, jitted = [], {}
  for name in methods:
    pair = PAIRS[name]
    for num_tasks in sizes:
      if num_tasks < pair.fewest:
        continue
      for label, run in runs(num_tasks, steps).items():
        found = parity.cell(
          name,
          label,
          ours=pair.run_ours(run, jitted),
          theirs=pair.run_theirs(run),
          right=pair.right(run),
          as_known=FORMS[name](run) if name in FORMS else None,
        )
        cells.append(dataclasses.replace(found, tasks=num_tasks))
  return cells


def main(argv: Sequence[str] | None = None) -> int:
  """Measures and prints; returns the exit status."""
  parser = parity.add_options(
    options.new_parser("accuracy.agree_with_torchjd", __doc__, as_it_is=True),
    PAIRS,
  )
  parser.add_argument("--tasks", nargs="+", type=int, default=[2, 3, 10])
  parser.add_argument("--steps", type=int, default=4, help="of each run")
  args = parser.parse_args(argv)
  version = contenders.peer_version(threads=1)
  if version is None:
    parser.exit(1, contenders.INSTALL + "\n")
  cells = measure(args.methods, args.tasks, args.steps)
  return parity.finish(parity.Report(("TorchJD", version), cells, KNOWN), args)


if __name__ == "__main__":
  raise SystemExit(main())
