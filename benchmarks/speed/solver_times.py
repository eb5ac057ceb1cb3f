"""The solvers alone: `python -m benchmarks.speed.solver_times --help`.

Three measurements on Gram matrices of the test families, each solved to its
certificate: the time against the number of tasks T; a thousand matrices solved
by one `vmap`, against the same matrices one after the other; and the
convergence of every Frank-Wolfe variant, the duality gap against the number of
iterations, on the hard families. Prints tables; writes JSON and pictures.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from benchmarks.common import matrices, options, output, pictures, timing
from optax_mtl import solvers

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Row = dict[str, Any]

_VARIANTS = ("wolfe", "pairwise", "away", "vanilla")
_HARD = (
  "conflicting",
  "aligned",
  "rank_deficient",
  "ill_conditioned",
  "scaled_1e2",
  "scaled_1e6",
)
#: Largest T for a solver that holds T matrices [T, T] at once.
_CUBIC_UP_TO = 256


def _equal(gram: jax.Array) -> jax.Array:
  return jnp.full((1, len(gram)), 1 / len(gram), gram.dtype)


def _eye(gram: jax.Array) -> jax.Array:
  return jnp.eye(len(gram), dtype=gram.dtype)


#: Name -> function from a Gram matrix to the solution and a certificate.
#: No commas, which separate the names on the command line.
SOLVERS: Mapping[str, Callable[[jax.Array], Any]] = {
  "min_norm": solvers.min_norm,
  "min_norm cap 2/T": lambda gram: solvers.min_norm(
    gram, cap=min(1.0, 2 / len(gram))
  ),
  "cagrad": lambda gram: solvers.cagrad_weights(gram, 0.5),
  "dual_cone one vector": lambda gram: solvers.project_dual_cone(
    gram, _equal(gram)
  ),
  "dual_cone T vectors": lambda gram: solvers.project_dual_cone(
    gram, _eye(gram)
  ),
  # As in Priority-Constrained Descent: a share of each task's own descent.
  "nearest_with_gains": lambda gram: solvers.nearest_with_gains(
    gram, _eye(gram)[0], 0.02 * jnp.diagonal(gram)
  ),
  "conic_direction": lambda gram: solvers.conic_direction(gram, 0.75),
  "orthogonal_parts": solvers.orthogonal_parts,
  "nash_bargaining": solvers.nash_bargaining,
  "fairness alpha 2": lambda gram: solvers.fairness(gram, 2.0),
  "equal_projections": solvers.equal_projections,
  "conflict_free": solvers.conflict_free_direction,
  "aligned": solvers.aligned_weights,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  words, numbers = options.words, options.numbers
  parser = options.new_parser("speed.solver_times", __doc__)
  add = parser.add_argument
  add("--solvers", type=words, help="of those listed; default: all")
  add(
    "--tasks",
    type=numbers,
    default="2,4,8,16,32,64,128,256,512,1024",
    help="T",
  )
  add(
    "--families",
    type=words,
    default="iid,conflicting,scaled_1e2",
    help="of matrices",
  )
  add("--batch-tasks", type=numbers, default="3,10,40", help="T in one vmap")
  add("--batch", type=int, default=1000, help="matrices in one vmap")
  add("--steps", type=int, default=1000, help="of the convergence plots")
  add("--steps-tasks", type=int, default=40, help="their T")
  add("--threads", type=int, default=1, help="that solvers may use")
  add("--repeats", type=int, default=15, help="timed blocks of each")
  add("--seconds", type=float, default=0.3, help="time per case")
  add(
    "--limit",
    type=float,
    default=5.0,
    help="go no further with a solver once a call takes so many seconds",
  )
  options.add_out(parser, "solver_times")
  args = parser.parse_args(argv)
  args.solvers = args.solvers or list(SOLVERS)
  options.check_known(parser, "solvers", args.solvers, SOLVERS)
  options.check_known(parser, "families", args.families, matrices.FAMILIES)
  return args


def grams(family: str, num_tasks: int, number: int = 1) -> np.ndarray:
  """[number, T, T] of float32, from gradients of four times as many columns."""
  rng = np.random.default_rng(num_tasks)
  make = matrices.FAMILIES[family]
  return np.stack(
    [
      matrices.gram32(make(rng, num_tasks, 4 * num_tasks))
      for _ in range(number)
    ]
  )


Report = Callable[[str], object]


def _waiting(
  function: Callable[[jax.Array], Any], given: jax.Array
) -> Callable[[], Any]:
  """A call that returns when its result is there."""
  return lambda: jax.block_until_ready(function(given))


def against_tasks(args: argparse.Namespace, report: Report) -> list[Row]:
  """Time and certificate of every solver, family and T."""
  rows: list[Row] = []
  slow: set[tuple[str, str]] = set()
  for num_tasks in args.tasks:
    for family in args.families:
      gram = jnp.asarray(grams(family, num_tasks)[0])
      for name in args.solvers:
        report(f"{name} T={num_tasks}")
        cubic = name.endswith("T vectors") and num_tasks > _CUBIC_UP_TO
        if (name, family) in slow or cubic:
          continue
        solve = jax.jit(SOLVERS[name])
        certificate = solve(gram)[1]
        measured = timing.interleave(
          {"": _waiting(solve, gram)},
          repeats=args.repeats,
          seconds=args.seconds,
        )[""]
        if measured.median > args.limit:
          slow.add((name, family))
        rows.append(
          {
            "solver": name,
            "family": family,
            "tasks": num_tasks,
            **measured.as_json(),
            "residual": float(certificate.residual),
            "iterations": int(certificate.iterations),
            "converged": bool(certificate.converged),
          }
        )
  return rows


def batches(args: argparse.Namespace, report: Report) -> list[Row]:
  """One `vmap` over many matrices, against a loop over them in one program."""
  rows: list[Row] = []
  for num_tasks in args.batch_tasks:
    for family in args.families:
      batch = jnp.asarray(grams(family, num_tasks, args.batch))
      for name in args.solvers:
        report(f"{name} {args.batch} x T={num_tasks}")
        solve = SOLVERS[name]
        together = jax.jit(jax.vmap(solve))
        one_by_one = jax.jit(functools.partial(jax.lax.map, solve))
        certificate = together(batch)[1]
        timings = timing.interleave(
          {
            "vmap": _waiting(together, batch),
            "loop": _waiting(one_by_one, batch),
          },
          repeats=args.repeats,
          seconds=args.seconds,
        )
        rows.append(
          {
            "solver": name,
            "family": family,
            "tasks": num_tasks,
            "batch": args.batch,
            **{key: seconds.as_json() for key, seconds in timings.items()},
            "converged": int(certificate.converged.sum()),
            "residual": float(certificate.residual.max()),
            "iterations": int(certificate.iterations.max()),
          }
        )
  return rows


def convergence(
  args: argparse.Namespace, report: Report
) -> dict[str, dict[str, list[float]]]:
  """Family -> variant -> the gap after each step."""
  gaps: dict[str, dict[str, list[float]]] = {}
  for family in _HARD:
    gram = jnp.asarray(grams(family, args.steps_tasks)[0])
    for variant in _VARIANTS:
      report(f"{variant} on {family}")
      trace = solvers.min_norm_trace(
        gram, variant=variant, num_steps=args.steps
      )
      gaps.setdefault(family, {})[variant] = np.asarray(trace).tolist()
  return gaps


def _milliseconds(seconds: float) -> str:
  value = 1e3 * seconds
  return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def tables(data: dict[str, Any]) -> list[Table]:
  """Of the times and of the batches."""
  rows = data["against_tasks"]
  tasks = sorted({row["tasks"] for row in rows})
  times = output.new_table(
    "milliseconds against T; * did not converge",
    ["solver", "family", *map(str, tasks)],
    left=2,
  )
  for name in dict.fromkeys(row["solver"] for row in rows):
    for family in dict.fromkeys(row["family"] for row in rows):
      found = {
        row["tasks"]: _milliseconds(row["median"])
        + ("" if row["converged"] else "*")
        for row in rows
        if (row["solver"], row["family"]) == (name, family)
      }
      times.add_row(name, family, *(found.get(t, "–") for t in tasks))
  many = output.new_table(
    "many matrices by one vmap",
    ["solver", "family", "T", "ms", "µs each", "loop / vmap", "converged"],
    left=2,
  )
  for row in data["batches"]:
    many.add_row(
      row["solver"],
      row["family"],
      str(row["tasks"]),
      _milliseconds(row["vmap"]["median"]),
      f"{1e6 * row['vmap']['median'] / row['batch']:.2g}",
      f"{row['loop']['median'] / row['vmap']['median']:.2g}",
      f"{row['converged']} / {row['batch']}",
    )
  return [times, many]


def figures(data: dict[str, Any]) -> dict[str, "Figure"]:
  """File name without suffix -> figure."""
  result: dict[str, Figure] = {}
  rows = data["against_tasks"]
  families = list(dict.fromkeys(row["family"] for row in rows))
  if rows:
    width = 3.4 * len(families) + 2
    figure, (axes,) = pictures.panels(1, families, width, 3.4)
    for ax, family in zip(axes, families, strict=True):
      for index, name in enumerate(dict.fromkeys(r["solver"] for r in rows)):
        found = [
          r for r in rows if (r["solver"], r["family"]) == (name, family)
        ]
        pictures.draw(
          ax,
          index,
          [row["tasks"] for row in found],
          [1e3 * row["median"] for row in found],
          name,
        )
      ax.set_xscale("log", base=2)
      ax.set_xlabel("tasks")
    axes[0].set_ylabel("milliseconds")
    pictures.legend_beside(figure, axes[0])
    result["solvers_time"] = figure
  gaps = data["convergence"]
  if gaps:
    width = 2.9 * len(gaps) + 1.4
    figure, (axes,) = pictures.panels(1, list(gaps), width, 3.4)
    for ax, traces in zip(axes, gaps.values(), strict=True):
      for index, (variant, gap) in enumerate(traces.items()):
        # Not below a rounding: a gap of 0 has no place on the axis.
        shown = np.maximum(gap, float(np.finfo(np.float32).eps) / 4)
        steps = np.arange(1, len(gap) + 1)
        pictures.draw(ax, index, steps, shown, variant, marker="")
      ax.set_xlabel("iterations")
    axes[0].set_ylabel("relative duality gap")
    pictures.legend_beside(figure, axes[0])
    result["solvers_convergence"] = figure
  return result


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  args = parse_args(argv)
  console = output.new_console()
  data: dict[str, Any] = {"machine": timing.machine()}
  data |= {"threads": args.threads, "steps_tasks": args.steps_tasks}
  data |= {"against_tasks": [], "batches": [], "convergence": {}}
  try:
    with console.status("") as status:
      data["convergence"] = convergence(args, status.update)
      data["batches"] = batches(args, status.update)
      data["against_tasks"] = against_tasks(args, status.update)
  except KeyboardInterrupt:
    console.print("[yellow]Stopped: what was finished is kept.")
  for table in tables(data):
    console.print(table)
  paths = output.write(args.out, "solver_times", data, figures(data))
  output.say_wrote(paths)
  return 0


if __name__ == "__main__":
  timing.restart_with_threads(
    parse_args().threads, "benchmarks.speed.solver_times", sys.argv[1:]
  )
  sys.exit(main())
