"""What the benchmarks' output shares: the terminal, tables, JSON, pictures."""

import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)
from rich.table import Table

import optax_mtl
from benchmarks.common import curves

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def new_console(width: int = 120) -> Console:
  """The terminal; a file, which has no edge to wrap at, is so wide."""
  console = Console(highlight=False)
  if not console.is_terminal:
    console.width = width
  return console


def new_progress(console: Console) -> Progress:
  """Bars with a name, a count, and the times gone and left."""
  return Progress(
    TextColumn("{task.description:<28}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    console=console,
  )


def new_table(
  title: str | None = None, columns: Sequence[str] = (), left: int = 1
) -> Table:
  """An empty table in the one style, its title to the left.

  Args:
    title: Above it.
    columns: Their titles.
    left: So many columns are names, to the left; the others are numbers.

  Returns:
    The table.
  """
  table = Table(
    title=title,
    title_justify="left",
    box=box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
  )
  for index, column in enumerate(columns):
    justify = "left" if index < left else "right"
    table.add_column(column, justify=justify, no_wrap=True)
  return table


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  r"""A table for the docs, in the style of `new_table`.

  Example:
    >>> print(markdown(["method", "error\n%"], [["mgda", "1.5"]]))
    | method | error % |
    | --- | ---: |
    | mgda | 1.5 |
  """
  lines = [
    [title.replace("\n", " ") for title in columns],
    ["---", *["---:"] * (len(columns) - 1)],
    *rows,
  ]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def kept(
  path: pathlib.Path, settings: Mapping[str, Any], *, fresh: bool = False
) -> dict[str, Any]:
  """The runs that an earlier command with the same settings has left.

  Args:
    path: What `keep` wrote.
    settings: All that the runs depend on.
    fresh: Whether to forget them.

  Returns:
    Label to run, as plain data.
  """
  if fresh or not path.exists():
    return {}
  data = json.loads(path.read_text())
  return data["runs"] if data["settings"] == plain(settings) else {}


def keep(
  path: pathlib.Path, settings: Mapping[str, Any], runs: Mapping[str, Any]
) -> None:
  """Writes runs, plain data by label, for `kept` to find."""
  write(path.parent, path.stem, {"settings": settings, "runs": runs})


def made_with() -> dict[str, Any]:
  """The entries "versions" and "device" of a JSON file."""
  return {
    "versions": {
      "optax_mtl": optax_mtl.__version__,
      "jax": jax.__version__,
      "optax": optax.__version__,
      "python": platform.python_version(),
    },
    "device": jax.devices()[0].device_kind,
  }


def plain(value: Any) -> Any:
  """`value` as what JSON has: no arrays, no tuples.

  Example:
    >>> plain({"a": (np.arange(2), np.float32(0.5))})
    {'a': [[0, 1], 0.5]}
  """
  if isinstance(value, Mapping):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    return np.asarray(value).tolist()
  return value


def write(
  folder: pathlib.Path,
  name: str,
  data: Any,
  figures: Mapping[str, "Figure"] | None = None,
) -> list[pathlib.Path]:
  """Writes `<name>.json`, and for each figure a PNG, if it has curves an SVG.

  Args:
    folder: Where to; it is made if it is not there.
    name: Of the JSON file.
    data: Numbers, strings and arrays, nested.
    figures: File name without suffix to figure.

  Returns:
    The files.
  """
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / f"{name}.json"]
  # In one piece, whenever the run is stopped.
  partial = paths[0].with_suffix(".partial")
  partial.write_text(json.dumps(plain(data)))
  partial.replace(paths[0])
  for stem, figure in (figures or {}).items():
    paths.append(folder / f"{stem}.png")
    figure.savefig(paths[-1], dpi=150)
    svg = paths[-1].with_suffix(".svg")
    # One of an earlier run must not stand beside the new picture.
    svg.unlink(missing_ok=True)
    if (drawn := curves.as_svg(figure)) is not None:
      svg.write_text(drawn, encoding="utf-8")
  return paths


def say_wrote(paths: Sequence[pathlib.Path]) -> None:
  """Names the files, each path in one piece."""
  Console(highlight=False, soft_wrap=True).print(
    "Wrote " + ", ".join(str(path) for path in paths)
  )
