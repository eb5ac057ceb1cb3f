"""Times the Gram matrix and the weighted combination against the memory.

Prints, for each number of tasks T and of parameters P, milliseconds of

* `gram`, `combine` and `both`: ours, `both` being one program with a weight
  computed from the Gram matrix in between;
* `plain`: XLA's own product of the `[T, P]` matrix with its transpose;
* `torch gram`, `torch combine`: `G @ G.T` and `w @ G`, if torch is installed;
* `read`: the best read of the data that we know of, a sum;
* `write`: filling a fresh array of the result's size;
* `ratio`: `both` over twice `read` plus `write`, the least that a Gram matrix
  followed by a combination can cost.

The runs of the candidates are interleaved and the medians are reported, so
that a busy machine is unkind to all of them alike.

    python -m benchmarks.speed.gram_cpu --tasks 2 10 --params 1e5 1e7
    python -m benchmarks.speed.gram_cpu --tree mlp cnn
"""

import argparse
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import options, output, timing, trees
from benchmarks.speed.gram_candidates import Candidate, Leaves, candidates

TREES: dict[str, trees.Shapes] = {
  "mlp": [(784, 512), (512,), (512, 512), (512,), (512, 10), (10,)],
  "cnn": [(3, 3, 3, 64), (64,)] + [(3, 3, 64, 64), (64,)] * 8 + [(64, 10)],
  "transformer": (
    [(8000, 256)]
    + [(256, 256), (256,)] * 48
    + [(256, 1024), (1024,), (1024, 256), (256,)] * 12
    + [(256,)] * 48
  ),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = options.new_parser("speed.gram_cpu", __doc__, as_it_is=True)
  add, number = parser.add_argument, options.number
  add("--tasks", type=int, nargs="+", default=[2, 3, 10, 40, 128])
  add("--params", type=number, nargs="+", default=[100_000, 10**6, 10**7])
  add("--tree", nargs="*", choices=list(TREES), default=[])
  add(
    "--max-floats",
    type=number,
    default=50_000_000,
    help="skip cases with more entries T * P than this",
  )
  add("--repeats", type=int, default=15)
  add("--out", type=pathlib.Path, help="write the results as JSON")
  return parser.parse_args(argv)


def plain_gram(leaves: Leaves) -> jax.Array:
  """What one gets by writing the product down."""
  total = jnp.zeros(())
  for leaf in leaves:
    rows = leaf.reshape(leaf.shape[0], -1)
    total = total + jax.lax.dot_general(
      rows, rows, (((1,), (1,)), ((), ())), precision="highest"
    )
  return total


def jax_candidates(num_tasks: int) -> dict[str, Candidate]:
  """Name to function of the leaves."""

  def read(leaves: Leaves) -> jax.Array:
    return sum((jnp.sum(leaf) for leaf in leaves), jnp.zeros(()))

  def write(leaves: Leaves) -> Leaves:
    value = leaves[0].reshape(-1)[0]
    return [jnp.full(leaf.shape[1:], value) for leaf in leaves]

  ours = candidates(num_tasks)
  return ours | {"plain": plain_gram, "read": read, "write": write}


def torch_candidates(
  host: Sequence[np.ndarray],
) -> dict[str, Callable[[], Any]]:
  """The same in torch, on one flat matrix; empty without torch."""
  try:
    import torch
  except ImportError:
    return {}
  rows = [x.reshape(x.shape[0], -1) for x in host]
  matrix = torch.from_numpy(np.concatenate(rows, axis=1))
  weights = torch.arange(1.0, matrix.shape[0] + 1)
  return {
    "torch gram": lambda: matrix @ matrix.T,
    "torch combine": lambda: weights @ matrix,
  }


def measure(
  shapes: trees.Shapes, num_tasks: int, repeats: int
) -> dict[str, dict[str, float]]:
  """Medians and least times in milliseconds, compile times in seconds."""
  rng = np.random.default_rng(0)
  host = [
    rng.standard_normal((num_tasks, *shape), dtype=np.float32)
    for shape in shapes
  ]
  leaves = [jnp.asarray(x) for x in host]
  runs: dict[str, Callable[[], Any]] = {}
  compile_s: dict[str, float] = {}
  for name, function in jax_candidates(num_tasks).items():
    start = time.perf_counter()
    compiled = jax.jit(function).lower(leaves).compile()
    compile_s[name] = time.perf_counter() - start
    runs[name] = lambda compiled=compiled: jax.block_until_ready(
      compiled(leaves)
    )
  runs.update(torch_candidates(host))
  times = timing.in_turn(runs, repeats)
  result = {name: 1e3 * statistics.median(t) for name, t in times.items()}
  result["ratio"] = result["both"] / (2 * result["read"] + result["write"])
  return {
    "milliseconds": result,
    "least_milliseconds": {name: 1e3 * min(t) for name, t in times.items()},
    "compile_seconds": compile_s,
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs all cases; returns the exit status."""
  args = parse_args(argv)
  cases: list[tuple[str | None, trees.Shapes, int]] = []
  if args.tree:
    cases += [(name, TREES[name], t) for name in args.tree for t in args.tasks]
  else:
    cases += [(None, [(p,)], t) for t in args.tasks for p in args.params]
  columns = ["gram", "combine", "both", "plain", "torch gram", "torch combine"]
  columns += ["read", "write", "ratio"]
  print(f"{'T':>4} {'P':>11} " + " ".join(f"{c:>13}" for c in columns))
  results: list[dict[str, Any]] = []
  for name, shapes, num_tasks in cases:
    params = sum(int(np.prod(shape)) for shape in shapes)
    if num_tasks * params > args.max_floats:
      continue
    found = measure(shapes, num_tasks, args.repeats)
    label = params if name is None else name
    times = found["milliseconds"]
    cells = [f"{times[c]:13.3f}" if c in times else 13 * " " for c in columns]
    print(f"{num_tasks:4d} {label:>11} " + " ".join(cells), flush=True)
    case = {"tasks": num_tasks, "params": params, "tree": name}
    results.append(case | found)
  if args.out:
    report = output.made_with() | {
      "processor": platform.processor() or platform.machine(),
      "repeats": args.repeats,
      "results": results,
    }
    output.write(args.out.parent, args.out.stem, report)
  return 0


if __name__ == "__main__":
  raise SystemExit(main())
