"""How exactly TorchJD and this package solve the same problems.

Prints, per method and family of gradients, the relative error of either side
against a float64 solution, the worst over the matrices. What is measured for
which method is said in `benchmarks/accuracy/judge.py`; matrices for which a
problem has no solution are left out. Speed is measured elsewhere.

    python -m benchmarks.accuracy.agree_with_torchjd
    python -m benchmarks.accuracy.agree_with_torchjd --tasks 3 --methods mgda

Needs the `peers` extra. Takes a few minutes.
"""

import json
import pathlib
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy import judge
from benchmarks.common import contenders, matrices, options, output

#: Scales of all gradients, beside the families at scale 1.
SCALES = (1e-4, 1e4)
FAMILIES = ("iid", "conflicting", "aligned", "scaled_1e2", "duplicate_rows")


def cases(num_tasks: int, count: int) -> dict[str, list[np.ndarray]]:
  """Label -> matrices [T, 2 T + 4] of float32."""
  result = {}
  for name in FAMILIES:
    seed = zlib.crc32(f"{name}{num_tasks}".encode())
    rng = np.random.default_rng(seed)
    family = matrices.FAMILIES[name]
    result[name] = [
      family(rng, num_tasks, 2 * num_tasks + 4).astype(np.float32)
      for _ in range(count)
    ]
  for scale in SCALES:
    result[f"iid x {scale:.0e}"] = [
      matrix * np.float32(scale) for matrix in result["iid"]
    ]
  return result


def errors(
  name: str, given: Sequence[np.ndarray], jitted: dict[Any, Any]
) -> dict[str, list[float]]:
  """Side -> relative error for each matrix."""
  result: dict[str, list[float]] = {"ours": [], "theirs": []}
  for matrix in given:
    problem = judge.Problem(matrix)
    shapes = [(matrix.shape[1],)]
    ours = contenders.Ours(name, [matrix], shapes, jitted)
    result["ours"].append(judge.error(name, problem, ours.answer()))
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      theirs = contenders.Theirs(name, [matrix])
    result["theirs"].append(judge.error(name, problem, theirs.answer()))
  return result


def measure(
  methods: Sequence[str], sizes: Sequence[int], count: int
) -> list[dict[str, Any]]:
  """One row for each method and number of tasks.

  Under `errors` it maps the gradients' label to the worst error of either side,
  None where no matrix has a solution. NaN from a side counts as inf.
  """
  rows: list[dict[str, Any]] = []
  jitted: dict[Any, Any] = {}
  for name in methods:
    for num_tasks in sizes:
      row = {"method": name, "tasks": num_tasks, "errors": {}}
      for label, given in cases(num_tasks, count).items():
        found = errors(name, given, jitted)
        row["errors"][label] = {side: _worst(found[side]) for side in found}
      rows.append(row)
  return rows


def _worst(values: Sequence[float]) -> float | None:
  values = [value for value in values if not np.isnan(value)]
  return max(values) if values else None


def _cell(pair: dict[str, float | None]) -> str:
  return " / ".join(
    "-" if pair[side] is None else f"{pair[side]:.0e}"
    for side in ("ours", "theirs")
  )


def cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
  """Head and body of the table."""
  head = ["method", "T", *rows[0]["errors"]]
  body = [
    [row["method"], str(row["tasks"]), *map(_cell, row["errors"].values())]
    for row in rows
  ]
  return head, body


def markdown(rows: Sequence[dict[str, Any]]) -> str:
  """The table as a page has it."""
  head, body = cells(rows)
  lines = [head, ["---"] * len(head), *body]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Measures and prints; returns the exit status."""
  parser = options.new_parser(
    "accuracy.agree_with_torchjd", __doc__, as_it_is=True
  )
  names = [n for n in contenders.METHODS if not n.endswith("_weighting")]
  parser.add_argument("--methods", nargs="+", choices=names, default=names)
  parser.add_argument("--tasks", nargs="+", type=int, default=[3, 10])
  parser.add_argument("--count", type=int, default=3, help="matrices a family")
  parser.add_argument("--markdown", action="store_true", help="for a page")
  parser.add_argument("--json", type=pathlib.Path, help="write the rows here")
  args = parser.parse_args(argv)
  version = contenders.peer_version(threads=1)
  if version is None:
    parser.exit(1, contenders.INSTALL + "\n")
  rows = measure(args.methods, args.tasks, args.count)
  if args.markdown:
    print(f"TorchJD {version}\n\n{markdown(rows)}")
  else:
    head, body = cells(rows)
    table = output.new_table(
      "Worst relative error, optax_mtl / TorchJD", head, left=len(head)
    )
    for line in body:
      table.add_row(*line)
    console = output.new_console(160)
    console.print(f"TorchJD {version}")
    console.print(table)
  if args.json:
    args.json.write_text(json.dumps({"peer": version, "rows": rows}, indent=1))
  return 0


if __name__ == "__main__":
  raise SystemExit(main())
