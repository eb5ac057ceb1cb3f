"""What the benchmarks' output shares: its tables, and what it was made with."""

import platform
from typing import Any

import jax
import optax
from rich import box
from rich.table import Table

import optax_mtl


def new_table(title: str | None = None) -> Table:
  """An empty table in the one style, its title to the left."""
  return Table(
    title=title,
    title_justify="left",
    box=box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
  )


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
