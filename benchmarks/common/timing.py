"""Threads, clocks, the memory's floor, and the machine that it all ran on."""

import dataclasses
import os
import pathlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MARK = "BENCHMARKS_THREADS"
_POOLS = (
  "OMP_NUM_THREADS",
  "OPENBLAS_NUM_THREADS",
  "MKL_NUM_THREADS",
  "VECLIB_MAXIMUM_THREADS",
)
#: A timed block lasts about this long, so that the clock and a single
#: interruption do not matter.
_BLOCK_SECONDS = 1e-3
_MAX_CALLS = 200


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds per call.

  Attributes:
    median: Over the blocks.
    least: The fastest block: what a quiet machine would show.
    cpu: Median of the processor time, of all threads together. On one thread it
      is the time less what other processes took of the core.
    blocks: How many.
  """

  median: float
  least: float
  cpu: float
  blocks: int

  def as_json(self) -> dict[str, float]:
    """As plain numbers."""
    return dataclasses.asdict(self)


def available_cores() -> int:
  """The cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def restart_with_threads(
  threads: int, module: str, argv: Sequence[str]
) -> None:
  """Starts the module afresh, on so many cores and with pools of that size.

  XLA sizes its pool by the cores that the process may use, BLAS libraries read
  the environment when they are loaded: both are decided before `main` runs,
  hence the fresh start. Returns if this is it.

  Args:
    threads: How many.
    module: Name of the running module, as for `python -m`.
    argv: Its command line arguments.
  """
  if os.environ.get(_MARK) == str(threads):
    return
  if hasattr(os, "sched_setaffinity"):
    # From the last one on: interrupts tend to be served by the first.
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
  os.environ.update(dict.fromkeys(_POOLS, str(threads)))
  os.environ[_MARK] = str(threads)
  os.execv(sys.executable, [sys.executable, "-m", module, *argv])


def interleave(
  contenders: Mapping[str, Callable[[], Any]],
  *,
  repeats: int,
  seconds: float,
) -> dict[str, Timing]:
  """Times functions in turn, so that a busy machine is unkind to all alike.

  Every function is called once before the clock starts. Fast ones are timed in
  blocks of several calls. Every round runs one block of each, in an order that
  turns round from one to the next.

  Args:
    contenders: Name to a function that returns when its work is done.
    repeats: Blocks of each, at most.
    seconds: A function that has used up this much time gets no further block,
      but one it gets.

  Returns:
    Name to `Timing`.
  """
  calls: dict[str, int] = {}
  spent: dict[str, float] = {}
  samples: dict[str, list[tuple[float, float]]] = {}
  for name, run in contenders.items():
    run()
    once = _block(run, 1)
    calls[name] = max(
      1, min(_MAX_CALLS, int(_BLOCK_SECONDS / max(once[0], 1e-9)))
    )
    # A call that alone takes the whole time is its only sample.
    whole = once[0] > seconds
    spent[name] = once[0] if whole else 0.0
    samples[name] = [once] if whole else []
  for turn in range(repeats):
    names = list(contenders)[:: 1 if turn % 2 == 0 else -1]
    for name in names:
      if samples[name] and spent[name] > seconds:
        continue
      samples[name].append(_block(contenders[name], calls[name]))
      spent[name] += samples[name][-1][0] * calls[name]
  timings = {}
  for name, blocks in samples.items():
    wall, cpu = zip(*blocks, strict=True)
    timings[name] = Timing(
      statistics.median(wall), min(wall), statistics.median(cpu), len(wall)
    )
  return timings


def _block(run: Callable[[], Any], number: int) -> tuple[float, float]:
  """Wall and processor time per call of so many calls."""
  cpu, wall = time.process_time(), time.perf_counter()
  for _ in range(number):
    run()
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  return wall / number, cpu / number


def in_turn(
  blocks: Mapping[str, Callable[[], object]],
  repeats: int,
  *,
  before: Callable[[str], object] = lambda name: None,
  after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
  """Times blocks of a fixed size in turn, one of each in every round.

  For what is too long, or has too much of a state, for `interleave`. The first
  round warms up and does not count.

  Args:
    blocks: Name to a function that returns when its work is done.
    repeats: Rounds that count.
    before: Called with the name before each block, with the clock stopped.
    after_round: Called after every round.

  Returns:
    Name to the seconds of each round.
  """
  seconds: dict[str, list[float]] = {name: [] for name in blocks}
  for turn in range(repeats + 1):
    for name, run in blocks.items():
      before(name)
      start = time.perf_counter()
      run()
      if turn:
        seconds[name].append(time.perf_counter() - start)
    after_round()
  return seconds


def median_ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
  """Median over rounds of the ratio within a round."""
  pairs = zip(seconds, others, strict=True)
  return statistics.median(a / b for a, b in pairs)


def memory_floor(matrix: np.ndarray) -> Callable[[], None]:
  """A function that reads a matrix twice and writes one of its rows.

  What any method must cost that weighs gradients by their Gram matrix: one pass
  for the Gram matrix, one for the combination, one result. Of several ways to
  read, the one that is fastest here is taken.

  Args:
    matrix: NumPy array [T, P] of float32.

  Returns:
    The function.
  """
  flat = matrix.reshape(-1)
  on_device = jnp.asarray(flat)
  total = jax.jit(jnp.sum)
  readers = (
    lambda: np.dot(flat, flat),
    lambda: flat.max(),
    lambda: total(on_device).block_until_ready(),
  )
  named = {str(index): reader for index, reader in enumerate(readers)}
  timings = interleave(named, repeats=5, seconds=0.2)
  read = named[min(timings, key=lambda name: timings[name].least)]
  row = np.empty(matrix.shape[1], matrix.dtype)

  def floor() -> None:
    read()
    read()
    row.fill(1.0)

  return floor


def empty_call(update: Callable[..., Any], *args: Any) -> Callable[[], None]:
  """The cost of dispatch alone: a jitted call that computes nothing.

  It takes the same arguments as `update` and returns zeros of the shapes that
  `update` returns.

  Args:
    update: A function of pytrees.
    *args: What to call it with.

  Returns:
    A function of nothing that makes the call and waits for it.
  """
  shapes = jax.eval_shape(update, *args)

  @jax.jit
  def empty(*args: Any) -> Any:
    del args
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  return lambda: jax.block_until_ready(empty(*args))


def machine() -> dict[str, Any]:
  """What the figures were measured on."""
  name = platform.processor() or platform.machine()
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      lines = [line for line in file if line.startswith("model name")]
    name = lines[0].split(":", 1)[1].strip() if lines else name
  except OSError:
    pass
  load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
  return {
    "processor": name,
    "cores": available_cores(),
    "load_at_start": load,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "numpy": np.__version__,
  }


def resident_peak(reset: bool = False) -> float:
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
