"""Whole training steps: `python -m benchmarks.speed.train_step --help`.

Times one step of Adam with each source of task gradients against the plain
summed loss, in one run: time ratio, temporary memory by XLA's analysis, and the
growth of the resident set while the step runs for the first time. Where TorchJD
is installed, its steps on the same network run beside.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import optax_mtl
from benchmarks.common.output import new_table
from benchmarks.speed import step_networks

#: Steps timed together, so that `refresh_every=10` refreshes once in each.
_BLOCK = 10
_REFRESH = 10


def _shared(params: Any) -> Any:
  return {"trunk": True, "heads": False} if isinstance(params, dict) else True


def _source(name: str, network: step_networks.Network) -> Callable:
  if name == "representation":
    return optax_mtl.value_and_representation_grads(
      network.trunk, network.heads
    )
  return optax_mtl.value_and_task_grads(network.losses, source=name)


def _variants(num_tasks: int) -> dict[str, tuple[str, Any]]:
  """Label -> the source and the method; the plain step is not among them."""
  mgda = optax_mtl.mgda(num_tasks, shared=_shared)
  return {
    "loss-only, implicit": (
      "implicit",
      optax_mtl.uncertainty_weighting(num_tasks),
    ),
    "mgda, stacked": ("stacked", mgda),
    "mgda, implicit": ("implicit", mgda),
    "mgda, representation": ("representation", mgda),
    "mgda, implicit, refresh 10": (
      "implicit",
      optax_mtl.refresh_every(mgda, _REFRESH),
    ),
    "upgrad, stacked": ("stacked", optax_mtl.upgrad(num_tasks, shared=_shared)),
  }


def make_step(
  network: step_networks.Network,
  num_tasks: int,
  label: str,
  donate: bool = True,
) -> tuple[Callable, Any, Any]:
  """The compiled step of one variant, and the params and state it starts from.

  Args:
    network: What is trained.
    num_tasks: The number of tasks.
    label: "plain" or a key of the variants.
    donate: Whether the step may write over the params and the state.

  Returns:
    `(compiled, params, state)`, with `compiled(params, state, x, y)`.
  """
  params = jax.jit(network.init)(jax.random.key(0))
  adam = optax.adam(1e-3)
  if label == "plain":
    tx = adam
    value_and_grads = jax.value_and_grad(
      lambda params, x, y: jnp.sum(network.losses(params, x, y))
    )
  else:
    source, method = _variants(num_tasks)[label]
    tx = optax.chain(method, adam)
    value_and_grads = _source(source, network)

  def step(params, state, x, y):
    losses, grads = value_and_grads(params, x, y)
    extra = {} if label == "plain" else {"losses": losses}
    updates, state = tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state, losses

  state = tx.init(params)
  lowered = jax.jit(step, donate_argnums=(0, 1) if donate else ()).lower(
    params, state, network.x, network.y
  )
  return lowered.compile(), params, state


def _time(compiled, params, state, x, y) -> tuple[float, Any, Any]:
  """Seconds per step over a block of steps."""
  start = time.perf_counter()
  for _ in range(_BLOCK):
    params, state, losses = compiled(params, state, x, y)
  jax.block_until_ready(losses)
  return (time.perf_counter() - start) / _BLOCK, params, state


def measure(
  name: str, num_tasks: int, repeats: int, donate: bool, advance: Callable
) -> list:
  """Rows of one network and number of tasks, the plain step first."""
  network = step_networks.build(name, num_tasks)
  x, y = jnp.asarray(network.x), jnp.asarray(network.y)
  cells = {}
  for label in ("plain", *_variants(num_tasks)):
    start = time.perf_counter()
    compiled, params, state = make_step(network, num_tasks, label, donate)
    cells[label] = {
      "compile_seconds": time.perf_counter() - start,
      "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
      "run": (compiled, params, state),
      "seconds": [],
    }
    advance()
  number = sum(p.size for p in jax.tree.leaves(cells["plain"]["run"][1]))
  # In turn, so that what slows the machine slows all of them.
  for repeat in range(repeats + 1):
    for cell in cells.values():
      compiled, params, state = cell["run"]
      seconds, params, state = _time(compiled, params, state, x, y)
      cell["run"] = compiled, params, state
      if repeat:
        cell["seconds"].append(seconds)
    advance()
  return _rows(name, num_tasks, number, cells)


def _rows(name, num_tasks, number, cells) -> list:
  plain = cells["plain"]
  rows = []
  for label, cell in cells.items():
    ratios = [
      a / b for a, b in zip(cell["seconds"], plain["seconds"], strict=True)
    ]
    extra = cell.get("temp_bytes", 0) - plain["temp_bytes"]
    rows.append(
      {
        "network": name,
        "tasks": num_tasks,
        "params": number,
        "step": label,
        "ms": 1e3 * statistics.median(cell["seconds"]),
        "ratio": statistics.median(ratios),
        "temp_mib": cell.get("temp_bytes", float("nan")) / 2**20,
        "extra_over_params": extra / (4 * number),
        "compile_seconds": cell.get("compile_seconds", float("nan")),
      }
    )
  return rows


def _resident_peak(reset: bool = False) -> float:
  """MiB of the largest resident set so far; from now on if `reset`.

  Only Linux can forget the peak. Elsewhere it is that of the whole process,
  which compiling may have set.
  """
  try:
    if reset:
      pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
  except (OSError, IndexError):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_growth(
  name: str, num_tasks: int, label: str, donate: bool
) -> float:
  """MiB by which the resident set grows while a step first runs."""
  network = step_networks.build(name, num_tasks)
  x, y = jnp.asarray(network.x), jnp.asarray(network.y)
  compiled, params, state = make_step(network, num_tasks, label, donate)
  jax.block_until_ready((params, state))
  before = _resident_peak(reset=True)
  jax.block_until_ready(compiled(params, state, x, y))
  return _resident_peak() - before


def _add_resident(rows: list, donate: bool, advance: Callable) -> None:
  """Measures each row's resident growth in a process of its own."""
  for row in rows:
    call = [row["network"], str(row["tasks"]), row["step"]]
    command = [sys.executable, "-m", "benchmarks.speed.train_step"]
    command += ["--resident", *call] + ([] if donate else ["--no-donate"])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row["resident_mib"] = float(done.stdout.split()[-1])
    advance()


def _table(rows: list) -> Table:
  table = new_table()
  titles = (
    ("network", "left"),
    ("T", "right"),
    ("step", "left"),
    ("ms", "right"),
    ("× plain", "right"),
    ("temp MiB", "right"),
    ("extra / params", "right"),
    ("resident MiB", "right"),
    ("compile s", "right"),
  )
  for title, justify in titles:
    table.add_column(title, justify=justify, no_wrap=True)
  for index, row in enumerate(rows):
    following = rows[index + 1 : index + 2]
    torch = "temp_mib" not in row
    number = lambda key, digits=1, row=row: (  # noqa: E731
      f"{row[key]:.{digits}f}" if key in row else ""
    )
    table.add_row(
      row["network"],
      str(row["tasks"]),
      row["step"],
      number("ms", 2),
      number("ratio", 2),
      number("temp_mib"),
      "" if torch else number("extra_over_params", 2),
      number("resident_mib", 0),
      number("compile_seconds"),
      end_section=bool(following)
      and (following[0]["network"], following[0]["tasks"])
      != (row["network"], row["tasks"]),
    )
  return table


def _peer(console: Console) -> Any:
  """The module with TorchJD's steps, or None where it is not installed."""
  try:
    from benchmarks.speed import train_step_torch
  except ImportError:
    console.print(
      "TorchJD is not installed: `pip install 'optax-mtl[peers]'` (a CPU build "
      "of torch first) adds its steps to the table.",
      markup=False,
      highlight=False,
    )
    return None
  return train_step_torch


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed.train_step",
    description=__doc__,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  split = lambda text: text.split(",")  # noqa: E731
  parser.add_argument(
    "--networks", type=split, default=list(step_networks.SIZES)
  )
  parser.add_argument("--tasks", type=split, default=["2", "8", "32"])
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--no-torch", action="store_true")
  parser.add_argument("--no-resident", action="store_true")
  parser.add_argument(
    "--no-donate",
    action="store_true",
    help="do not let a step write over the params and the state",
  )
  parser.add_argument("--resident", nargs=3, help=argparse.SUPPRESS)
  parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path("out/train_step")
  )
  args = parser.parse_args(argv)
  if args.resident:
    name, num_tasks, label = args.resident
    growth = resident_growth(name, int(num_tasks), label, not args.no_donate)
    print(growth)
    return 0
  console = Console()
  if not console.is_terminal:
    console.width = 120
  peer = None if args.no_torch else _peer(console)
  rows = []
  pairs = [(name, int(t)) for name in args.networks for t in args.tasks]
  try:
    with Progress(console=console) as progress:
      total = len(pairs) * (2 * 7 + args.repeats + 1)
      bar = progress.add_task("training steps", total=total)
      for name, num_tasks in pairs:
        advance = lambda: progress.advance(bar)  # noqa: E731
        new = measure(
          name, num_tasks, args.repeats, not args.no_donate, advance
        )
        if not args.no_resident:
          _add_resident(new, not args.no_donate, advance)
        rows += new
        if peer is not None:
          rows += peer.measure(name, num_tasks, args.repeats, _BLOCK)
      progress.update(bar, completed=total)
  except KeyboardInterrupt:
    console.print("[yellow]Stopped; what is done is kept.")
  console.print(_table(rows))
  args.out.mkdir(parents=True, exist_ok=True)
  path = args.out / "train_step.json"
  path.write_text(json.dumps(rows, indent=1))
  console.print("Wrote", path)
  return 0


if __name__ == "__main__":
  sys.exit(main())
