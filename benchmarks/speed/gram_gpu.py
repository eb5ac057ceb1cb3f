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
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from optax_mtl import linalg


def parse_args(argv=None):
  """Command line."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed.gram_gpu",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8, 32])
  parser.add_argument(
    "--params",
    type=lambda x: int(float(x)),
    default=100_000_000,
    help="parameters per task",
  )
  parser.add_argument(
    "--dtypes",
    nargs="+",
    choices=["float32", "bfloat16"],
    default=["float32", "bfloat16"],
  )
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument(
    "--inner",
    type=int,
    default=5,
    help="calls per timing, which hides the cost of starting one",
  )
  parser.add_argument("--allow-cpu", action="store_true")
  parser.add_argument("--out", help="write the results as JSON")
  return parser.parse_args(argv)


def make_leaves(num_tasks, params, dtype):
  """A matrix, a bias and a remainder of `params` parameters in all."""
  side = max(1, int((params // 2) ** 0.5))
  shapes = [(side, side), (side,)]
  rest = params - side * side - side
  if rest > 0:
    shapes.append((rest,))
  keys = jax.random.split(jax.random.key(0), len(shapes))

  # Drawn task by task: a draw of the whole leaf needs several times its memory.
  @jax.jit
  def draw(keys):
    return [
      jax.lax.map(
        lambda k, shape=shape: jax.random.normal(k, shape, dtype),
        jax.random.split(key, num_tasks),
      )
      for key, shape in zip(keys, shapes, strict=True)
    ]

  return jax.block_until_ready(draw(keys))


def candidates(num_tasks):
  """Name to function of the leaves."""

  def both(leaves):
    gram = linalg.gram(leaves, num_tasks)
    weights = 1 / (1 + jnp.sum(jnp.abs(gram), axis=1))
    return linalg.combine(leaves, weights / jnp.sum(weights))

  return {
    # The negation is what makes it a copy: an identity would be elided.
    "copy": lambda leaves: [-leaf for leaf in leaves],
    "gram": lambda leaves: linalg.gram(leaves, num_tasks),
    "combine": lambda leaves: linalg.combine(
      leaves, jnp.arange(1.0, num_tasks + 1)
    ),
    "both": both,
  }


def moved(name, size, num_tasks):
  """Bytes that an operation on `size` bytes of leaves has to move."""
  return {
    "copy": 2 * size,
    "gram": size,
    "combine": size + size / num_tasks,
    "both": 2 * size + size / num_tasks,
  }[name]


def measure(num_tasks, params, dtype, repeats, inner):
  """Medians in milliseconds, and bandwidths in GB/s."""
  leaves = make_leaves(num_tasks, params, jnp.dtype(dtype))
  size = sum(leaf.nbytes for leaf in leaves)
  runs = {
    name: jax.jit(function).lower(leaves).compile()
    for name, function in candidates(num_tasks).items()
  }
  times = {name: [] for name in runs}
  for repeat in range(repeats + 1):
    for name, run in runs.items():
      jax.block_until_ready(run(leaves))
      start = time.perf_counter()
      out = None
      for _ in range(inner):
        out = run(leaves)
      jax.block_until_ready(out)
      if repeat:
        times[name].append(1e3 * (time.perf_counter() - start) / inner)
      del out
  result = {"milliseconds": {n: statistics.median(t) for n, t in times.items()}}
  speed = {
    name: moved(name, size, num_tasks) / ms / 1e6
    for name, ms in result["milliseconds"].items()
  }
  result["gigabytes_per_second"] = speed
  result["share_of_copy"] = {n: s / speed["copy"] for n, s in speed.items()}
  result["temp_bytes"] = {
    name: run.memory_analysis().temp_size_in_bytes for name, run in runs.items()
  }
  return result


def main(argv=None):
  """Runs all cases."""
  args = parse_args(argv)
  device = jax.devices()[0]
  if device.platform != "gpu" and not args.allow_cpu:
    print(
      f"No GPU: jax.devices() is {jax.devices()}. Install a GPU build of jax "
      "(for example jax[cuda13]), or pass --allow-cpu to try the script out.",
      file=sys.stderr,
    )
    return 2
  names = ["copy", "gram", "combine", "both"]
  print(
    f"{'dtype':>9} {'T':>4} {'P':>11} "
    + " ".join(f"{name + ' ms':>11}" for name in names)
    + " ".join(f"{name + ' share':>14}" for name in names[1:])
  )
  results = []
  for dtype in args.dtypes:
    for num_tasks in args.tasks:
      case = {"dtype": dtype, "tasks": num_tasks, "params": args.params}
      try:
        result = measure(
          num_tasks, args.params, dtype, args.repeats, args.inner
        )
      except jax.errors.JaxRuntimeError as error:
        # Most likely the memory: 32 tasks of 1e8 float32 and their copy take
        # 26 GB.
        print(f"{dtype:>9} {num_tasks:4d} {args.params:11d} {error}"[:160])
        results.append(case | {"error": str(error)})
        continue
      print(
        f"{dtype:>9} {num_tasks:4d} {args.params:11d} "
        + " ".join(f"{result['milliseconds'][n]:11.3f}" for n in names)
        + " ".join(f"{result['share_of_copy'][n]:14.2f}" for n in names[1:]),
        flush=True,
      )
      results.append(case | result)
  if args.out:
    report = {
      "jax": jax.__version__,
      "device": device.device_kind,
      "results": results,
    }
    with open(args.out, "w") as file:
      json.dump(report, file, indent=2)
  return 0


if __name__ == "__main__":
  sys.exit(main())
