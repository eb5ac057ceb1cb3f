"""Whole training steps: `python -m benchmarks.speed.train_step --help`.

Times one step of Adam with each source of task gradients against the plain
summed loss, in one run: time ratio, temporary memory by XLA's analysis, and the
growth of the resident set while the step runs for the first time. Where TorchJD
is installed, its steps on the same network run beside.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import optax_mtl
from benchmarks.common import contenders, options, output, timing
from benchmarks.speed import step_networks

Row = dict[str, Any]
Advance = Callable[[], object]

#: Steps timed together, so that `refresh_every=10` refreshes once in each.
_BLOCK = 10
_REFRESH = 10


def _shared(params: Any) -> Any:
  return {"trunk": True, "heads": False} if isinstance(params, dict) else True


def _source(name: str, network: step_networks.Network) -> Callable[..., Any]:
  if name == "representation":
    return optax_mtl.value_and_representation_grads(
      network.trunk, network.heads, shared=_shared
    )
  return optax_mtl.value_and_task_grads(
    network.losses, source=name, shared=_shared
  )


def _variants(num_tasks: int) -> dict[str, tuple[str, Any]]:
  """Label -> the source and the method; the plain step is not among them."""
  mgda = optax_mtl.mgda(num_tasks)
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
    "upgrad, stacked": ("stacked", optax_mtl.upgrad(num_tasks)),
  }


def make_step(
  network: step_networks.Network,
  num_tasks: int,
  label: str,
  donate: bool = True,
) -> tuple[Any, Any, Any]:
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

  def step(
    params: Any, state: Any, x: jax.Array, y: jax.Array
  ) -> tuple[Any, Any, jax.Array]:
    losses, grads = value_and_grads(params, x, y)
    extra = {} if label == "plain" else {"losses": losses}
    updates, state = tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state, losses

  state = tx.init(params)
  lowered = jax.jit(step, donate_argnums=(0, 1) if donate else ()).lower(
    params, state, network.x, network.y
  )
  return lowered.compile(), params, state


class _Run:
  """A compiled step, its params and its state; a call makes a block of steps.

  Attributes:
    compile_seconds: To trace and compile it.
    temp_bytes: By XLA's analysis.
    num_params: Of the network.
  """

  def __init__(
    self,
    network: step_networks.Network,
    num_tasks: int,
    label: str,
    donate: bool,
  ):
    """Compiles."""
    start = time.perf_counter()
    self._step, self._params, self._state = make_step(
      network, num_tasks, label, donate
    )
    self.compile_seconds = time.perf_counter() - start
    self.temp_bytes = self._step.memory_analysis().temp_size_in_bytes
    self.num_params = sum(p.size for p in jax.tree.leaves(self._params))
    self._batch = jnp.asarray(network.x), jnp.asarray(network.y)

  def __call__(self) -> None:
    """Waits for the last of the steps."""
    losses = None
    for _ in range(_BLOCK):
      self._params, self._state, losses = self._step(
        self._params, self._state, *self._batch
      )
    jax.block_until_ready(losses)


def measure(
  name: str, num_tasks: int, repeats: int, donate: bool, advance: Advance
) -> list[Row]:
  """Rows of one network and number of tasks, the plain step first."""
  network = step_networks.build(name, num_tasks)
  runs: dict[str, _Run] = {}
  for label in ("plain", *_variants(num_tasks)):
    runs[label] = _Run(network, num_tasks, label, donate)
    advance()
  seconds = timing.in_turn(runs, repeats, after_round=advance)
  plain = runs["plain"]
  return [
    {
      "network": name,
      "tasks": num_tasks,
      "params": run.num_params,
      "step": label,
      "ms": 1e3 * statistics.median(seconds[label]) / _BLOCK,
      "ratio": timing.median_ratio(seconds[label], seconds["plain"]),
      "temp_mib": run.temp_bytes / 2**20,
      "extra_over_params": (run.temp_bytes - plain.temp_bytes)
      / (4 * run.num_params),
      "compile_seconds": run.compile_seconds,
    }
    for label, run in runs.items()
  ]


def resident_growth(
  name: str, num_tasks: int, label: str, donate: bool
) -> float:
  """MiB by which the resident set grows while a step first runs."""
  network = step_networks.build(name, num_tasks)
  x, y = jnp.asarray(network.x), jnp.asarray(network.y)
  compiled, params, state = make_step(network, num_tasks, label, donate)
  jax.block_until_ready((params, state))
  before = timing.resident_peak(reset=True)
  jax.block_until_ready(compiled(params, state, x, y))
  return timing.resident_peak() - before


def _add_resident(rows: list[Row], donate: bool, advance: Advance) -> None:
  """Measures each row's resident growth in a process of its own."""
  for row in rows:
    call = [row["network"], str(row["tasks"]), row["step"]]
    command = [sys.executable, "-m", "benchmarks.speed.train_step"]
    command += ["--resident", *call] + ([] if donate else ["--no-donate"])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row["resident_mib"] = float(done.stdout.split()[-1])
    advance()


def _table(rows: list[Row]) -> Table:
  table = output.new_table()
  # Column -> what it holds, and its digits; None: text.
  columns: dict[str, tuple[str, int | None]] = {
    "network": ("network", None),
    "T": ("tasks", 0),
    "step": ("step", None),
    "ms": ("ms", 2),
    "× plain": ("ratio", 2),
    "temp MiB": ("temp_mib", 1),
    "extra / params": ("extra_over_params", 2),
    "resident MiB": ("resident_mib", 0),
    "compile s": ("compile_seconds", 1),
  }
  for title, (_, digits) in columns.items():
    justify = "left" if digits is None else "right"
    table.add_column(title, justify=justify, no_wrap=True)
  for row, following in zip(rows, [*rows[1:], None], strict=True):
    table.add_row(
      *(
        ""
        if key not in row
        else row[key]
        if digits is None
        else f"{row[key]:.{digits}f}"
        for key, digits in columns.values()
      ),
      end_section=following is not None
      and any(following[key] != row[key] for key in ("network", "tasks")),
    )
  return table


def _peer(console: Console) -> ModuleType | None:
  """The module with TorchJD's steps, or None where it is not installed."""
  try:
    from benchmarks.speed import train_step_torch
  except ImportError:
    console.print(contenders.INSTALL, style="yellow", markup=False)
    return None
  return train_step_torch


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  parser = options.new_parser("speed.train_step", __doc__)
  add, names = parser.add_argument, ",".join(step_networks.SIZES)
  add("--networks", type=options.words, default=names, help="of these")
  add("--tasks", type=options.numbers, default="2,8,32", help="T")
  add("--repeats", type=int, default=5, help=f"blocks of {_BLOCK} steps")
  add("--no-torch", action="store_true", help="leave TorchJD's steps out")
  add("--no-resident", action="store_true", help="leave out resident MiB")
  add(
    "--no-donate",
    action="store_true",
    help="do not let a step write over the params and the state",
  )
  add("--resident", nargs=3, help=argparse.SUPPRESS)
  options.add_out(parser, "train_step")
  args = parser.parse_args(argv)
  options.check_known(parser, "networks", args.networks, step_networks.SIZES)
  if args.resident:
    name, num_tasks, label = args.resident
    growth = resident_growth(name, int(num_tasks), label, not args.no_donate)
    print(growth)
    return 0
  console = output.new_console()
  peer = None if args.no_torch else _peer(console)
  rows: list[Row] = []
  pairs = [(name, t) for name in args.networks for t in args.tasks]
  try:
    with Progress(console=console) as progress:
      total = len(pairs) * (2 * 7 + args.repeats + 1)
      bar = progress.add_task("training steps", total=total)
      advance = functools.partial(progress.advance, bar)
      for name, num_tasks in pairs:
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
  output.say_wrote(output.write(args.out, "train_step", rows))
  return 0


if __name__ == "__main__":
  sys.exit(main())
