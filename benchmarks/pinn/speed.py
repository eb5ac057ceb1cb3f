"""Which derivatives are the fastest: `python -m benchmarks.pinn.speed`.

Times a gradient of the summed losses, five networks at once, with each way to
take second derivatives. Prints milliseconds, seconds to compile, and how far
the gradients are from each other.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.common import options, output, timing
from benchmarks.pinn import derivatives
from benchmarks.pinn.problem import Params, Problem
from benchmarks.pinn.problems import PROBLEMS

_MODES: tuple[derivatives.Mode, ...] = ("jet", "forward", "reverse")
_SEEDS = 5


def compile_gradient(
  problem: Problem, mode: derivatives.Mode
) -> tuple[Callable[[], Any], float]:
  """A function that computes the gradients, and the seconds to compile it."""

  def total(params: Params, key: jax.Array) -> jax.Array:
    losses = [
      problem.loss(name, params, points)
      for name, points in problem.sample(key).items()
    ]
    return functools.reduce(jax.numpy.add, losses)

  keys = jax.random.split(jax.random.key(0), _SEEDS)
  params = jax.vmap(problem.init)(keys)
  start = time.perf_counter()
  with mock.patch.object(derivatives, "MODE", mode):
    compiled = jax.jit(jax.vmap(jax.grad(total))).lower(params, keys).compile()
  seconds = time.perf_counter() - start
  return lambda: jax.block_until_ready(compiled(params, keys)), seconds


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; returns the exit status."""
  parser = options.new_parser("pinn.speed", __doc__)
  parser.add_argument(
    "--problems",
    type=options.words,
    default="helmholtz,burgers,klein_gordon",
    help="comma-separated; those of one output",
  )
  parser.add_argument(
    "--seconds", type=float, default=5.0, help="for each, to be timed"
  )
  args = parser.parse_args(argv)
  options.check_known(parser, "problems", args.problems, PROBLEMS)
  table = output.new_table(
    f"Gradient of the summed losses, {_SEEDS} networks at once",
    ["problem", "derivatives", "ms", "compile s", "differs by"],
    left=2,
  )
  for name in args.problems:
    problem = PROBLEMS[name]()
    built = {mode: compile_gradient(problem, mode) for mode in _MODES}
    runs = {mode: run for mode, (run, _) in built.items()}
    values = {
      mode: np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(run())])
      for mode, run in runs.items()
    }
    times = timing.interleave(runs, repeats=100, seconds=args.seconds)
    exact = values[_MODES[-1]]
    for mode in _MODES:
      apart = np.linalg.norm(values[mode] - exact) / np.linalg.norm(exact)
      table.add_row(
        name,
        mode,
        f"{1e3 * times[mode].least:.2f}",
        f"{built[mode][1]:.1f}",
        f"{apart:.0e}",
        end_section=mode == _MODES[-1],
      )
  output.new_console().print(table)
  return 0


if __name__ == "__main__":
  raise SystemExit(main())
