"""Several comparisons in one table: `python -m benchmarks.quality.across -h`.

Reads what `quality.compare` and `dense.compare` wrote, and says for each method
on how many of these problems it is better than equal weights, even, or worse,
beyond the spread over seeds. What is better on one problem alone was lucky in
it, or is made for it. Prints a table.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

from benchmarks.common import options, output, ranking

#: Problem -> label -> how it stands there.
Standings = Mapping[str, Mapping[str, ranking.Standing]]


def read(path: pathlib.Path) -> dict[str, ranking.Standing]:
  """Label -> how the row stands, of a comparison's JSON.

  Args:
    path: Of `compare.json` or `dense.json`.

  Returns:
    The rows that were compared with equal weights at several seeds.

  Raises:
    ValueError: It is not a comparison's.
  """
  rows = json.loads(path.read_text(encoding="utf-8")).get("rows")
  if isinstance(rows, list):
    rows = {row.get("label"): row for row in rows}
  if not rows or any("standing" not in row for row in rows.values()):
    raise ValueError(
      f"{path} does not hold a comparison: give what quality.compare or "
      "dense.compare wrote, compare.json or dense.json."
    )
  return {
    label: ranking.Standing(**row["standing"])
    for label, row in rows.items()
    if row["standing"] is not None and label != "equal_weighting"
  }


def _cell(standing: ranking.Standing) -> str:
  """The difference in two digits, or without decimals, and the verdict."""
  by = standing.difference
  return f"{by:+.{'0f' if abs(by) >= 10 else '2g'}} {standing.verdict}"


def table(problems: Standings) -> list[list[str]]:
  """The rows: a method's difference to equal weights on each problem.

  Args:
    problems: Name -> what `read` returned.

  Returns:
    Label, a cell for each problem, and how often it is better, even and worse.
    Those that are better the most often and worse the least come first. What is
    a row of one problem alone, of several, is left out.
  """
  labels = dict.fromkeys(label for rows in problems.values() for label in rows)
  counted: list[tuple[int, int, list[str]]] = []
  for label in labels:
    found = [rows.get(label) for rows in problems.values()]
    verdicts = [one.verdict for one in found if one is not None]
    if len(verdicts) < min(2, len(problems)):
      continue
    cells = ["–" if one is None else _cell(one) for one in found]
    better, even, worse = (
      verdicts.count(word) for word in ("better", "even", "worse")
    )
    line = [label, *cells, f"{better} / {even} / {worse}"]
    counted.append((worse - better, -len(verdicts), line))
  return [line for *_, line in sorted(counted, key=lambda row: row[:2])]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = options.new_parser("quality.across", __doc__)
  parser.add_argument(
    "files",
    nargs="+",
    type=pathlib.Path,
    help="compare.json or dense.json; a problem is called as its folder",
  )
  parser.add_argument(
    "--markdown", action="store_true", help="print the table for the docs"
  )
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; returns the exit status."""
  args = parse(argv)
  console = output.new_console(160)
  names = [path.resolve().parent.name for path in args.files]
  try:
    if len(set(names)) < len(names):
      raise ValueError(f"Folders must have names of their own, got {names}.")
    problems = dict(zip(names, map(read, args.files), strict=True))
  except (OSError, ValueError) as error:
    console.print(str(error), style="red", markup=False)
    return 2
  header = ["method", *problems, "better / even / worse"]
  rows = table(problems)
  if args.markdown:
    text = output.markdown(header, rows)
    console.print(text, markup=False, soft_wrap=True)
  else:
    shown = output.new_table(
      "Δm minus equal weights', percentage points, and what that says", header
    )
    for row in rows:
      shown.add_row(*row)
    console.print(shown)
  return 0


if __name__ == "__main__":
  sys.exit(main())
