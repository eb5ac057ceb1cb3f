"""Times the Gram matrix and the weighted combination on a GPU.

Prints, for each dtype and number of tasks T, milliseconds of `gram`, `combine`
and `both` (one program), of a plain copy of the data, and what share of the
copy's bandwidth the Gram matrix and the combination reach, counting the bytes
that each must move: a copy reads and writes the data, `gram` reads them once,
`combine` reads them once and writes 1/T of them.

    python -m benchmarks.speed.gram_gpu --out gram_gpu.json

Without a GPU it says so and exits with status 2; `--allow-cpu` runs it anyway,
to try the script: `--allow-cpu --params 1e5`.
"""

import argparse
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import options, output, timing
from benchmarks.speed.gram_candidates import Leaves, candidates

_NAMES = ("copy", "gram", "combine", "both")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = options.new_parser("speed.gram_gpu", __doc__, as_it_is=True)
  add, dtypes = parser.add_argument, ["float32", "bfloat16"]
  add("--tasks", type=int, nargs="+", default=[2, 8, 32])
  add(
    "--params",
    type=options.number,
    default=100_000_000,
    help="parameters per task",
  )
  add("--dtypes", nargs="+", choices=dtypes, default=dtypes)
  add("--repeats", type=int, default=10)
  add(
    "--inner",
    type=int,
    default=5,
    help="calls per timing, which hides the cost of starting one",
  )
  add("--allow-cpu", action="store_true")
  add("--out", type=pathlib.Path, help="write the results as JSON")
  return parser.parse_args(argv)


def make_leaves(num_tasks: int, params: int, dtype: jnp.dtype) -> Leaves:
  """A matrix, a bias and a remainder of `params` parameters in all."""
  side = max(1, int((params // 2) ** 0.5))
  shapes: list[tuple[int, ...]] = [(side, side), (side,)]
  rest = params - side * side - side
  if rest > 0:
    shapes.append((rest,))
  keys = jax.random.split(jax.random.key(0), len(shapes))

  # Drawn task by task: a draw of the whole leaf needs several times its memory.
  @jax.jit
  def draw(keys: jax.Array) -> Leaves:
    return [
      jax.lax.map(
        lambda k, shape=shape: jax.random.normal(k, shape, dtype),
        jax.random.split(key, num_tasks),
      )
      for key, shape in zip(keys, shapes, strict=True)
    ]

  return jax.block_until_ready(draw(keys))


def moved(name: str, size: int, num_tasks: int) -> float:
  """Bytes that an operation on `size` bytes of leaves has to move."""
  return {
    "copy": 2 * size,
    "gram": size,
    "combine": size + size / num_tasks,
    "both": 2 * size + size / num_tasks,
  }[name]


def measure(
  num_tasks: int, params: int, dtype: str, repeats: int, inner: int
) -> dict[str, dict[str, float]]:
  """Medians in milliseconds, and bandwidths in GB/s."""
  leaves = make_leaves(num_tasks, params, jnp.dtype(dtype))
  size = sum(leaf.nbytes for leaf in leaves)
  functions = {
    # The negation is what makes it a copy: an identity would be elided.
    "copy": lambda leaves: [-leaf for leaf in leaves],
    **candidates(num_tasks),
  }
  runs = {
    name: jax.jit(functions[name]).lower(leaves).compile() for name in _NAMES
  }

  def block(run: Callable[[Leaves], Any]) -> Callable[[], None]:
    def calls() -> None:
      out = None
      for _ in range(inner):
        out = run(leaves)
      jax.block_until_ready(out)

    return calls

  seconds = timing.in_turn(
    {name: block(run) for name, run in runs.items()},
    repeats,
    before=lambda name: jax.block_until_ready(runs[name](leaves)),
  )
  times = {n: 1e3 * statistics.median(t) / inner for n, t in seconds.items()}
  speed = {
    name: moved(name, size, num_tasks) / ms / 1e6 for name, ms in times.items()
  }
  return {
    "milliseconds": times,
    "gigabytes_per_second": speed,
    "share_of_copy": {n: s / speed["copy"] for n, s in speed.items()},
    "temp_bytes": {
      name: run.memory_analysis().temp_size_in_bytes
      for name, run in runs.items()
    },
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs all cases; returns the exit status."""
  args = parse_args(argv)
  device = jax.devices()[0]
  if device.platform != "gpu" and not args.allow_cpu:
    print(
      f"No GPU: jax.devices() is {jax.devices()}. Install a GPU build of jax "
      "(for example jax[cuda13]), or pass --allow-cpu to try the script out.",
      file=sys.stderr,
    )
    return 2
  print(
    f"{'dtype':>9} {'T':>4} {'P':>11} "
    + " ".join(f"{name + ' ms':>11}" for name in _NAMES)
    + " ".join(f"{name + ' share':>14}" for name in _NAMES[1:])
  )
  results: list[dict[str, Any]] = []
  for dtype in args.dtypes:
    for num_tasks in args.tasks:
      case = {"dtype": dtype, "tasks": num_tasks, "params": args.params}
      label = f"{dtype:>9} {num_tasks:4d} {args.params:11d} "
      try:
        result = measure(
          num_tasks, args.params, dtype, args.repeats, args.inner
        )
      except jax.errors.JaxRuntimeError as error:
        # Most likely the memory: 32 tasks of 1e8 float32 and their copy take
        # 26 GB.
        print(f"{label}{error}"[:160])
        results.append(case | {"error": str(error)})
        continue
      print(
        label
        + " ".join(f"{result['milliseconds'][n]:11.3f}" for n in _NAMES)
        + " ".join(f"{result['share_of_copy'][n]:14.2f}" for n in _NAMES[1:]),
        flush=True,
      )
      results.append(case | result)
  if args.out:
    report = output.made_with() | {"results": results}
    output.write(args.out.parent, args.out.stem, report)
  return 0


if __name__ == "__main__":
  sys.exit(main())
