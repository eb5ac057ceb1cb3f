"""Heavy heads: `python -m benchmarks.speed.decoders --help`.

Dense prediction: a few convolutions that all tasks share, and for each task a
decoder that is as heavy. Steps of MGDA by each source of task gradients, beside
the plain summed step, and beside MGDA-UB as one would write it by hand: each
decoder pulled back once, to the encoder's output, and the encoder once. Prints
the time, the FLOPs and the temporary memory in those of the plain step, and the
seconds that tracing and compiling took, and writes JSON.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import optax_mtl
from benchmarks.common import options, output, timing
from benchmarks.speed import ways
from optax_mtl import solvers

Params = dict[str, Any]
Batch = tuple[jax.Array, jax.Array]
Step = Callable[[Params, Batch], Any]

TRUNK = {"encoder": True, "decoders": False}

#: Ways whose program has a loop, of which XLA counts one turn.
LOOPS = ("implicit",)


def _convolve(kernels: Sequence[jax.Array], x: jax.Array) -> jax.Array:
  for kernel in kernels:
    x = jax.nn.relu(
      jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
    )
  return x


def network(
  num_tasks: int, width: int = 32, size: int = 32, depth: int = 4
) -> tuple[Params, Batch]:
  """Params and a batch of 4 images; both parts have `depth` convolutions."""
  rng = np.random.default_rng(0)

  def kernels(first: int) -> list[jax.Array]:
    shapes = [(3, 3, first, width)] + [(3, 3, width, width)] * (depth - 1)
    return [
      jnp.asarray(
        rng.standard_normal(shape) / np.sqrt(4.5 * shape[2]), jnp.float32
      )
      for shape in shapes
    ]

  params = {
    "encoder": kernels(3),
    "decoders": [kernels(width) for _ in range(num_tasks)],
  }
  x, y = (
    jnp.asarray(rng.standard_normal((4, size, size, channels)), jnp.float32)
    for channels in (3, width)
  )
  return params, (x, y)


def encode(params: Params, batch: Batch) -> jax.Array:
  """The representation."""
  return _convolve(params["encoder"], batch[0])


def decode(params: Params, z: jax.Array, batch: Batch) -> list[jax.Array]:
  """The losses."""
  return [
    jnp.mean((_convolve(decoder, z) - batch[1]) ** 2)
    for decoder in params["decoders"]
  ]


def losses(params: Params, batch: Batch) -> list[jax.Array]:
  """The losses as a function of the params."""
  return decode(params, encode(params, batch), batch)


def plain(params: Params, batch: Batch) -> Any:
  """The gradient of the sum."""
  return jax.value_and_grad(lambda p: sum(losses(p, batch)))(params)


def by_hand(params: Params, batch: Batch) -> Any:
  """MGDA-UB without a library but for the solver."""
  z, trunk_vjp = jax.vjp(
    lambda p: encode({"encoder": p}, batch), params["encoder"]
  )
  values: list[jax.Array] = []
  heads: list[Any] = []
  rows: list[jax.Array] = []
  for decoder in params["decoders"]:
    value, (head, row) = jax.value_and_grad(
      lambda d, z: decode({"decoders": [d]}, z, batch)[0], (0, 1)
    )(decoder, z)
    values.append(value)
    heads.append(head)
    rows.append(row)
  flat = jnp.stack(rows).reshape(len(rows), -1)
  weights, _ = solvers.min_norm(flat @ flat.T)
  at_z = sum(w * row for w, row in zip(weights, rows, strict=True))
  return values, {"encoder": trunk_vjp(at_z)[0], "decoders": heads}


def steps(num_tasks: int) -> dict[str, Step]:
  """Way -> step; the plain one first."""
  method = optax_mtl.mgda(num_tasks)

  def step(grads_of: Callable[..., Any]) -> Step:
    def run(params: Params, batch: Batch) -> Any:
      values, grads = grads_of(params, batch)
      return values, method.update(grads, method.init(params), params)[0]

    return run

  source = functools.partial(optax_mtl.value_and_task_grads, losses)
  return {
    "plain": plain,
    "MGDA-UB by hand": by_hand,
    "representation": step(
      optax_mtl.value_and_representation_grads(encode, decode, shared=TRUNK)
    ),
    "stacked, shared=": step(source(shared=TRUNK)),
    "stacked": step(source()),
    "implicit": step(source(source="implicit", shared=TRUNK)),
  }


def measure(num_tasks: int, repeats: int) -> list[dict[str, Any]]:
  """One row for each way."""
  return ways.measure(
    steps(num_tasks),
    network(num_tasks),
    repeats=repeats,
    seconds=20,
    tasks=num_tasks,
  )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = options.new_parser("speed.decoders", __doc__)
  add = parser.add_argument
  add("--tasks", type=options.numbers, default="3,5,8", help="T")
  add("--repeats", type=int, default=10, help="timed blocks")
  options.add_out(parser, "decoders")
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
  """Measures; returns the exit status."""
  args = parse_args(argv)
  console = output.new_console()
  machine = timing.machine()
  rows: list[dict[str, Any]] = []
  try:
    for num_tasks in track(args.tasks, "measuring", console=console):
      rows += measure(num_tasks, args.repeats)
  except KeyboardInterrupt:
    console.print("[yellow]Stopped.")
  console.print(ways.table(rows, {"T": "tasks"}, LOOPS))
  data = {"machine": machine, "rows": rows}
  output.say_wrote(output.write(args.out, "decoders", data))
  return 0


if __name__ == "__main__":
  sys.exit(main())
