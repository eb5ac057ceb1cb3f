"""One step in several ways, beside the plain step: time, FLOPs and memory."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
from rich.table import Table

from benchmarks.common import output, timing

#: The way that the others are compared with; its row comes first.
PLAIN = "plain"


def measure(
  steps: Mapping[str, Callable[..., Any]],
  args: tuple[Any, ...],
  *,
  repeats: int,
  seconds: float,
  **facts: Any,
) -> list[dict[str, Any]]:
  """Compiles each way, and times them in turn.

  Args:
    steps: Way to step, the plain one first.
    args: Of the steps.
    repeats: Timed blocks.
    seconds: That the timing may take.
    **facts: What else stands in each row.

  Returns:
    One row for each way.
  """
  programs: dict[str, Any] = {}
  rows: list[dict[str, Any]] = []
  for way, step in steps.items():
    # No way may profit from what was traced for the one before.
    jax.clear_caches()
    start = time.perf_counter()
    programs[way] = jax.jit(step).lower(*args).compile()
    rows.append(
      {
        **facts,
        "way": way,
        "first_call": time.perf_counter() - start,
        # Of a loop, one turn.
        "flops": programs[way].cost_analysis()["flops"],
        "memory": programs[way].memory_analysis().temp_size_in_bytes,
      }
    )
  timings = timing.interleave(
    {
      way: lambda p=program: jax.block_until_ready(p(*args))
      for way, program in programs.items()
    },
    repeats=repeats,
    seconds=seconds,
  )
  for row in rows:
    row["seconds"] = timings[row["way"]].median
  return rows


def table(
  rows: Sequence[dict[str, Any]],
  facts: Mapping[str, str],
  loops: Collection[str],
) -> Table:
  """One line for each row.

  Args:
    rows: Of `measure`, several calls' one after the other. A "resident" in
      them, the growth of the resident set, has a column.
    facts: Column title to the fact that it shows.
    loops: Ways whose program has a loop, of which XLA counts one turn: their
      FLOPs are left out.

  Returns:
    The table.
  """
  resident = all("resident" in row for row in rows)
  result = output.new_table(
    "times, FLOPs and memory of the plain summed step; seconds to compile",
    [*facts, "way", "time", "FLOPs", "memory"]
    + ["resident"] * resident
    + ["trace and compile"],
  )
  plain: dict[str, Any] = {}
  for row in rows:
    if row["way"] == PLAIN:
      plain = row
    flops = f"{row['flops'] / plain['flops']:.2f}"
    result.add_row(
      *(str(row[fact]) for fact in facts.values()),
      row["way"],
      f"{row['seconds'] / plain['seconds']:.2f}",
      "" if row["way"] in loops else flops,
      f"{row['memory'] / plain['memory']:.2f}",
      *([f"{row['resident'] / plain['resident']:.2f}"] if resident else []),
      f"{row['first_call']:.2f}",
    )
  return result
