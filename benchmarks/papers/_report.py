"""What the reproductions share: options, a table, JSON and pictures."""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console

from benchmarks.common.output import made_with, new_table

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def parse(
  name: str,
  description: str,
  argv: Sequence[str] | None,
  **options: tuple[int, str],
) -> argparse.Namespace:
  """Reads the command line of one reproduction.

  Args:
    name: Of the module in `benchmarks.papers`, and of the default folder.
    description: What `--help` says first.
    argv: The arguments; None: those of the process.
    **options: Name to default and help of an option that takes an integer of at
      least 1.

  Returns:
    The options, and `out`, the folder to write to.

  Example:
    >>> parse("toy", "A toy.", ["--seeds", "3"], seeds=(5, "starts")).seeds
    3
  """
  parser = argparse.ArgumentParser(
    prog=f"python -m benchmarks.papers.{name}",
    description=description,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  for option, (default, text) in options.items():
    parser.add_argument(f"--{option}", type=int, default=default, help=text)
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("out/papers") / name,
    help="folder for JSON and pictures",
  )
  args = parser.parse_args(argv)
  for option in options:
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
  table = new_table(title)
  for index, column in enumerate(columns):
    table.add_column(column, justify="right" if index else "left", no_wrap=True)
  for row in rows:
    table.add_row(*row)
  console = Console(highlight=False)
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


def _plain(value: Any) -> Any:
  """`value` without arrays."""
  if isinstance(value, Mapping):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    return np.asarray(value).tolist()
  return value


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
  args.out.mkdir(parents=True, exist_ok=True)
  settings = {key: item for key, item in vars(args).items() if key != "out"}
  data = {
    "settings": settings,
    **made_with(),
    **_plain(result),
  }
  paths = [args.out / f"{name}.json"]
  paths[0].write_text(json.dumps(data))
  for stem, figure in figures.items():
    paths.append(args.out / f"{stem}.png")
    figure.savefig(paths[-1], dpi=150)
  Console(highlight=False, soft_wrap=True).print(
    "Wrote " + ", ".join(str(path) for path in paths)
  )
  return paths
