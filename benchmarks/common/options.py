"""What the command lines of the benchmarks share.

>>> numbers("2,1e5"), words("mgda, upgrad")
([2, 100000], ['mgda', 'upgrad'])
"""

import argparse
import pathlib
from collections.abc import Collection


def number(text: str) -> int:
  """An integer, which may be written as 1e5."""
  return int(float(text))


def numbers(text: str) -> list[int]:
  """Integers, separated by commas."""
  return [number(word) for word in text.split(",")]


def words(text: str) -> list[str]:
  """Words, separated by commas."""
  return [word.strip() for word in text.split(",") if word.strip()]


def rates(text: str) -> list[float]:
  """Learning rates, separated by commas.

  Example:
    >>> rates("1e-3,3e-3")
    [0.001, 0.003]
  """
  found = [float(word) for word in words(text)]
  if not found or min(found) <= 0:
    raise argparse.ArgumentTypeError("there must be one, and all positive")
  return found


def new_parser(
  module: str, description: str | None, *, as_it_is: bool = False
) -> argparse.ArgumentParser:
  """A parser that says how the module is run.

  Args:
    module: Its name below `benchmarks`.
    description: Its docstring.
    as_it_is: Whether `--help` keeps the docstring's lines, as where it holds
      examples. Else it is filled, and defaults are shown.

  Returns:
    The parser, without options.
  """
  formatter = (
    argparse.RawDescriptionHelpFormatter
    if as_it_is
    else argparse.ArgumentDefaultsHelpFormatter
  )
  return argparse.ArgumentParser(
    prog=f"python -m benchmarks.{module}",
    description=description,
    formatter_class=formatter,
  )


def add_out(parser: argparse.ArgumentParser, *folders: str) -> None:
  """The option `--out`, by default the folder of that name under `out`."""
  parser.add_argument(
    "--out",
    type=pathlib.Path,
    default=pathlib.Path("out", *folders),
    help="folder to write to",
  )


def check_known(
  parser: argparse.ArgumentParser,
  what: str,
  chosen: Collection[str],
  known: Collection[str],
) -> None:
  """Ends with an error that names what is not known."""
  if unknown := sorted(set(chosen) - set(known)):
    parser.error(
      f"unknown {what} {', '.join(unknown)}; there are {', '.join(known)}"
    )
