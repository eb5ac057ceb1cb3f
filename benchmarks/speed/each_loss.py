"""One backward pass a loss: `python -m benchmarks.speed.each_loss --help`.

Steps of norms and a weighted sum, by three ways to the task gradients: each
loss pulled back by itself (the default), all by one program side by side, and
all by one program in turn. Two kinds of losses: terms of a physics-informed
network, which share nothing but the params, and heads on a trunk. Prints the
time, the FLOPs and the temporary memory in those of the plain summed step, and
the seconds that tracing and compiling took, and writes JSON.
"""

import argparse
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
from optax_mtl.sources import as_task_gradients

#: Params, losses as a function of params and data, and the data.
Problem = tuple[Any, Callable[[Any, Any], list[jax.Array]], Any]


def _kernel(rng: np.random.Generator, fan_in: int, fan_out: int) -> jax.Array:
  kernel = rng.standard_normal((fan_in, fan_out)) / np.sqrt(fan_in)
  return jnp.asarray(kernel, jnp.float32)


def pinn(num_tasks: int, width: int = 64, points: int = 1024) -> Problem:
  """Burgers' residual, and T - 1 conditions on a quarter as many points."""
  rng = np.random.default_rng(0)
  sizes = [2, width, width, width, width, 1]
  params = [_kernel(rng, a, b) for a, b in zip(sizes, sizes[1:], strict=False)]

  def u(params: Any, x: jax.Array) -> jax.Array:
    for kernel in params[:-1]:
      x = jnp.tanh(x @ kernel)
    return (x @ params[-1])[0]

  def residual(params: Any, x: jax.Array) -> jax.Array:
    slope, curvature = jax.jvp(
      lambda x: jax.grad(u, 1)(params, x), (x,), (jnp.array([1.0, 0.0]),)
    )
    return slope[1] + u(params, x) * slope[0] - 0.01 * curvature[0]

  def losses(params: Any, data: Any) -> list[jax.Array]:
    of_point = [residual] + [u] * (num_tasks - 1)
    return [
      jnp.mean(jax.vmap(f, (None, 0))(params, x) ** 2)
      for f, x in zip(of_point, data, strict=True)
    ]

  counts = [points] + [points // 4] * (num_tasks - 1)
  data = [
    jnp.asarray(rng.uniform(-1, 1, (count, 2)), jnp.float32) for count in counts
  ]
  return params, losses, data


def heads(num_tasks: int, width: int = 256, batch: int = 256) -> Problem:
  """Four layers that all tasks share, and one of its own for each."""
  rng = np.random.default_rng(0)
  params = {
    "trunk": [_kernel(rng, width, width) for _ in range(4)],
    "heads": [_kernel(rng, width, 10) for _ in range(num_tasks)],
  }

  def losses(params: Any, data: Any) -> list[jax.Array]:
    z, y = data
    for kernel in params["trunk"]:
      z = jax.nn.relu(z @ kernel)
    return [jnp.mean((z @ head - y) ** 2) for head in params["heads"]]

  data = tuple(
    jnp.asarray(rng.standard_normal((batch, size)), jnp.float32)
    for size in (width, 10)
  )
  return params, losses, data


PROBLEMS = {"pinn": pinn, "heads": heads}


def steps(losses: Any, num_tasks: int) -> dict[str, Callable[..., Any]]:
  """The plain summed step, and one for each way."""

  def plain(params: Any, data: Any) -> Any:
    return jax.value_and_grad(lambda p: sum(losses(p, data)))(params)

  def step(chunk_size: int | None) -> Callable[..., Any]:
    grads_of = optax_mtl.value_and_task_grads(losses, chunk_size=chunk_size)

    def run(params: Any, data: Any) -> Any:
      values, grads = grads_of(params, data)
      grads = as_task_gradients(grads, num_tasks, params)
      return values, grads.combine(jax.lax.rsqrt(grads.squared_norms()))

    return run

  return {
    "plain": plain,
    "each": step(None),
    "together": step(num_tasks),
    "in turn": step(1),
  }


def measure(name: str, num_tasks: int, repeats: int) -> list[dict[str, Any]]:
  """One row for each way."""
  params, losses, data = PROBLEMS[name](num_tasks)
  return ways.measure(
    steps(losses, num_tasks),
    (params, data),
    repeats=repeats,
    seconds=5,
    problem=name,
    tasks=num_tasks,
  )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = options.new_parser("speed.each_loss", __doc__)
  add = parser.add_argument
  add("--problems", type=options.words, default="pinn,heads", help="of these")
  add("--tasks", type=options.numbers, default="2,5,8,16", help="T")
  add("--repeats", type=int, default=30, help="timed blocks")
  options.add_out(parser, "each_loss")
  args = parser.parse_args(argv)
  options.check_known(parser, "problems", args.problems, PROBLEMS)
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Measures; returns the exit status."""
  args = parse_args(argv)
  console = output.new_console()
  machine = timing.machine()
  rows: list[dict[str, Any]] = []
  cases = [(name, t) for name in args.problems for t in args.tasks]
  try:
    for name, num_tasks in track(cases, "measuring", console=console):
      rows += measure(name, num_tasks, args.repeats)
  except KeyboardInterrupt:
    console.print("[yellow]Stopped.")
  facts = {"losses": "problem", "T": "tasks"}
  console.print(ways.table(rows, facts, ["in turn"]))
  data = {"machine": machine, "rows": rows}
  output.say_wrote(output.write(args.out, "each_loss", data))
  return 0


if __name__ == "__main__":
  sys.exit(main())
