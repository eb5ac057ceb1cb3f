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
import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from optax_mtl import linalg

TREES = {
  "mlp": [(784, 512), (512,), (512, 512), (512,), (512, 10), (10,)],
  "cnn": [(3, 3, 3, 64), (64,)] + [(3, 3, 64, 64), (64,)] * 8 + [(64, 10)],
  "transformer": (
    [(8000, 256)]
    + [(256, 256), (256,)] * 48
    + [(256, 1024), (1024,), (1024, 256), (256,)] * 12
    + [(256,)] * 48
  ),
}


def parse_args(argv=None):
  """Command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--tasks", type=int, nargs="+", default=[2, 3, 10, 40, 128]
  )
  parser.add_argument(
    "--params",
    type=lambda x: int(float(x)),
    nargs="+",
    default=[100_000, 1_000_000, 10_000_000],
  )
  parser.add_argument("--tree", nargs="*", choices=list(TREES), default=[])
  parser.add_argument(
    "--max-floats",
    type=lambda x: int(float(x)),
    default=50_000_000,
    help="skip cases with more entries T * P than this",
  )
  parser.add_argument("--repeats", type=int, default=15)
  parser.add_argument("--out", help="write the results as JSON")
  return parser.parse_args(argv)


def plain_gram(leaves):
  """What one gets by writing the product down."""
  total = 0.0
  for leaf in leaves:
    rows = leaf.reshape(leaf.shape[0], -1)
    total = total + jax.lax.dot_general(
      rows, rows, (((1,), (1,)), ((), ())), precision="highest"
    )
  return total


def jax_candidates(num_tasks):
  """Name to function of the leaves."""

  def combine(leaves):
    return linalg.combine(leaves, jnp.arange(1.0, num_tasks + 1))

  def both(leaves):
    gram = linalg.gram(leaves, num_tasks)
    # A weight that needs the whole matrix, in place of a solver.
    weights = 1 / (1 + jnp.sum(jnp.abs(gram), axis=1))
    return linalg.combine(leaves, weights / jnp.sum(weights))

  def read(leaves):
    return sum(jnp.sum(leaf) for leaf in leaves)

  def write(leaves):
    value = leaves[0].reshape(-1)[0]
    return [jnp.full(leaf.shape[1:], value) for leaf in leaves]

  return {
    "gram": lambda leaves: linalg.gram(leaves, num_tasks),
    "combine": combine,
    "both": both,
    "plain": plain_gram,
    "read": read,
    "write": write,
  }


def torch_candidates(host):
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


def measure(shapes, num_tasks, repeats):
  """Medians in milliseconds and compile times in seconds."""
  rng = np.random.default_rng(0)
  host = [
    rng.standard_normal((num_tasks, *shape), dtype=np.float32)
    for shape in shapes
  ]
  leaves = [jnp.asarray(x) for x in host]
  runs, compile_s = {}, {}
  for name, function in jax_candidates(num_tasks).items():
    start = time.perf_counter()
    compiled = jax.jit(function).lower(leaves).compile()
    compile_s[name] = time.perf_counter() - start
    runs[name] = lambda compiled=compiled: jax.block_until_ready(
      compiled(leaves)
    )
  runs.update(torch_candidates(host))
  times = {name: [] for name in runs}
  for repeat in range(repeats + 1):
    for name, run in runs.items():
      start = time.perf_counter()
      run()
      if repeat:  # the first round warms up
        times[name].append(1e3 * (time.perf_counter() - start))
  result = {name: statistics.median(t) for name, t in times.items()}
  least = {f"{name} min": min(t) for name, t in times.items()}
  floor = 2 * result["read"] + result["write"]
  result["ratio"] = result["both"] / floor
  return result, least, compile_s


def main(argv=None):
  """Runs all cases."""
  args = parse_args(argv)
  cases = []
  if args.tree:
    cases = [(name, TREES[name], t) for name in args.tree for t in args.tasks]
  else:
    cases = [(None, [(p,)], t) for t in args.tasks for p in args.params]
  columns = ["gram", "combine", "both", "plain", "torch gram", "torch combine"]
  columns += ["read", "write", "ratio"]
  print(f"{'T':>4} {'P':>11} " + " ".join(f"{c:>13}" for c in columns))
  results = []
  for name, shapes, num_tasks in cases:
    params = sum(int(np.prod(shape)) for shape in shapes)
    if num_tasks * params > args.max_floats:
      continue
    result, least, compile_s = measure(shapes, num_tasks, args.repeats)
    label = params if name is None else name
    cells = [f"{result[c]:13.3f}" if c in result else 13 * " " for c in columns]
    print(f"{num_tasks:4d} {label:>11} " + " ".join(cells), flush=True)
    results.append(
      {
        "tasks": num_tasks,
        "params": params,
        "tree": name,
        "milliseconds": result,
        "least_milliseconds": least,
        "compile_seconds": compile_s,
      }
    )
  if args.out:
    report = {
      "jax": jax.__version__,
      "device": jax.devices()[0].device_kind,
      "processor": platform.processor() or platform.machine(),
      "repeats": args.repeats,
      "results": results,
    }
    with open(args.out, "w") as file:
      json.dump(report, file, indent=2)


if __name__ == "__main__":
  main()
