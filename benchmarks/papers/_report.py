"""What the reproductions share: options, a table, JSON and pictures."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import options, output

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def parse(
  name: str,
  description: str | None,
  argv: Sequence[str] | None,
  **integers: tuple[int, str],
) -> argparse.Namespace:
  """Reads the command line of one reproduction.

  Args:
    name: Of the module in `benchmarks.papers`, and of the default folder.
    description: What `--help` says first.
    argv: The arguments; None: those of the process.
    **integers: Name to default and help of an option that takes an integer of
      at least 1.

  Returns:
    The options, and `out`, the folder to write to.

  Example:
    >>> parse("toy", "A toy.", ["--seeds", "3"], seeds=(5, "starts")).seeds
    3
  """
  parser = options.new_parser(f"papers.{name}", description)
  for option, (default, text) in integers.items():
    parser.add_argument(f"--{option}", type=int, default=default, help=text)
  options.add_out(parser, "papers", name)
  args = parser.parse_args(argv)
  for option in integers:
    if getattr(args, option) < 1:
      parser.error(f"--{option} must be at least 1")
  return args


def print_table(
  title: str,
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  notes: Sequence[str] = (),
) -> None:
  """Prints a table of text, its first column to the left, and notes below."""
  table = output.new_table(title, columns)
  for row in rows:
    table.add_row(*row)
  console = output.new_console()
  console.print(table)
  for note in notes:
    console.print(note)


def plus_minus(values: Any, digits: int) -> str:
  """Mean and standard deviation of a vector, the latter if there are several.

  Example:
    >>> plus_minus([1.0, 2.0, 3.0], 2), plus_minus([1.0], 2)
    ('2.00 ± 1.00', '1.00')
  """
  values = np.asarray(values, np.float64)
  mean = f"{values.mean():.{digits}f}"
  if values.size == 1:
    return mean
  return f"{mean} ± {values.std(ddof=1):.{digits}f}"


def write(
  args: argparse.Namespace,
  name: str,
  result: Mapping[str, Any],
  figures: Mapping[str, "Figure"],
) -> list[pathlib.Path]:
  """Writes `<name>.json` and one PNG for each figure to `args.out`.

  Args:
    args: From `parse`.
    name: Of the JSON file.
    result: Numbers, strings and arrays, nested.
    figures: File name without suffix to figure.

  Returns:
    The files.
  """
  settings = {key: item for key, item in vars(args).items() if key != "out"}
  data = {"settings": settings, **output.made_with(), **result}
  paths = output.write(args.out, name, data, figures)
  output.say_wrote(paths)
  return paths
