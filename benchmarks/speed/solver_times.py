"""The solvers alone: `python -m benchmarks.speed.solver_times --help`.

Three measurements on Gram matrices of the test families, each solved to its
certificate: the time against the number of tasks T; a thousand matrices solved
by one `vmap`, against the same matrices one after the other; and the
convergence of every Frank-Wolfe variant, the duality gap against the number of
iterations, on the hard families. Prints tables; writes JSON and pictures.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.common import timing

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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.speed.solver_times",
    description=__doc__,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  numbers = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
  words = lambda text: text.split(",")  # noqa: E731
  add = parser.add_argument
  add("--solvers", type=words, help="of those listed; default: all")
  add(
    "--tasks",
    type=numbers,
    default="2,4,8,16,32,64,128,256,512,1024",
    help="T",
  )
  add("--families", type=words, default="iid,conflicting,scaled_1e2")
  add("--batch-tasks", type=numbers, default="3,10,40")
  add("--batch", type=int, default=1000, help="matrices in one vmap")
  add("--steps", type=int, default=1000, help="of the convergence plots")
  add("--steps-tasks", type=int, default=40, help="their T")
  add("--threads", type=int, default=1)
  add("--repeats", type=int, default=15)
  add("--seconds", type=float, default=0.3, help="time per case")
  add(
    "--limit",
    type=float,
    default=5.0,
    help="go no further with a solver once a call takes so many seconds",
  )
  add("--out", type=pathlib.Path, default=pathlib.Path("out/solvers"))
  args = parser.parse_args(argv)
  known = list(solvers())
  args.solvers = args.solvers or known
  if unknown := set(args.solvers) - set(known):
    parser.error(f"unknown solvers {sorted(unknown)}; there are {known}")
  return args


def solvers() -> dict[str, Callable[[Any], Any]]:
  """Name -> function from a Gram matrix to the solution and a certificate."""
  import jax.numpy as jnp

  from optax_mtl import solvers as s

  def equal(gram):
    return jnp.full((1, len(gram)), 1 / len(gram), gram.dtype)

  def eye(gram):
    return jnp.eye(len(gram), dtype=gram.dtype)

  return {
    "min_norm": s.min_norm,
    "cagrad": lambda gram: s.cagrad_weights(gram, 0.5),
    "dual_cone, one vector": lambda g: s.project_dual_cone(g, equal(g)),
    "dual_cone, T vectors": lambda g: s.project_dual_cone(g, eye(g)),
    "nash_bargaining": s.nash_bargaining,
    "fairness, alpha 2": lambda gram: s.fairness(gram, 2.0),
    "equal_projections": s.equal_projections,
    "conflict_free": s.conflict_free_direction,
    "aligned": s.aligned_weights,
  }


def grams(family: str, num_tasks: int, number: int = 1) -> np.ndarray:
  """[number, T, T] of float32, from gradients of four times as many columns."""
  from benchmarks.common import matrices

  rng = np.random.default_rng(num_tasks)
  make = matrices.FAMILIES[family]
  return np.stack(
    [
      matrices.gram32(make(rng, num_tasks, 4 * num_tasks))
      for _ in range(number)
    ]
  )


def against_tasks(args: argparse.Namespace, report: Callable) -> list[dict]:
  """Time and certificate of every solver, family and T."""
  import jax

  rows, slow = [], set()
  for num_tasks in args.tasks:
    for family in args.families:
      gram = jax.numpy.asarray(grams(family, num_tasks)[0])
      for name in args.solvers:
        report(f"{name} T={num_tasks}")
        cubic = name.endswith("T vectors") and num_tasks > _CUBIC_UP_TO
        if (name, family) in slow or cubic:
          continue
        solve = jax.jit(solvers()[name])
        certificate = solve(gram)[1]
        measured = timing.interleave(
          {
            "": lambda solve=solve, gram=gram: jax.block_until_ready(
              solve(gram)
            )
          },
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


def batches(args: argparse.Namespace, report: Callable) -> list[dict]:
  """One `vmap` over many matrices, against a loop over them in one program."""
  import jax

  rows = []
  for num_tasks in args.batch_tasks:
    for family in args.families:
      batch = jax.numpy.asarray(grams(family, num_tasks, args.batch))
      for name in args.solvers:
        report(f"{name} {args.batch} x T={num_tasks}")
        solve = solvers()[name]
        together = jax.jit(jax.vmap(solve))
        one_by_one = jax.jit(lambda b, solve=solve: jax.lax.map(solve, b))
        certificate = together(batch)[1]
        timings = timing.interleave(
          {
            "vmap": lambda f=together, b=batch: jax.block_until_ready(f(b)),
            "loop": lambda f=one_by_one, b=batch: jax.block_until_ready(f(b)),
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
            **{key: timing.as_json() for key, timing in timings.items()},
            "converged": int(certificate.converged.sum()),
            "residual": float(certificate.residual.max()),
            "iterations": int(certificate.iterations.max()),
          }
        )
  return rows


def convergence(args: argparse.Namespace, report: Callable) -> dict[str, dict]:
  """Family -> variant -> the gap after each step."""
  import jax

  from optax_mtl import solvers as s

  gaps: dict[str, dict] = {}
  for family in _HARD:
    gram = jax.numpy.asarray(grams(family, args.steps_tasks)[0])
    for variant in _VARIANTS:
      report(f"{variant} on {family}")
      trace = s.min_norm_trace(gram, variant=variant, num_steps=args.steps)
      gaps.setdefault(family, {})[variant] = np.asarray(trace).tolist()
  return gaps


def _milliseconds(seconds: float) -> str:
  value = 1e3 * seconds
  return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def tables(data: dict[str, Any]) -> list[Any]:
  """Of the times and of the batches."""
  from benchmarks.common.output import new_table

  def new(title, columns):
    table = new_table(title)
    for index, column in enumerate(columns):
      table.add_column(
        column, justify="left" if index < 2 else "right", no_wrap=True
      )
    return table

  rows = data["against_tasks"]
  tasks = sorted({row["tasks"] for row in rows})
  times = new(
    "milliseconds against T; * did not converge",
    ["solver", "family", *map(str, tasks)],
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
  many = new(
    "many matrices by one vmap",
    ["solver", "family", "T", "ms", "µs each", "loop / vmap", "converged"],
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


def figures(data: dict[str, Any]) -> dict[str, Any]:
  """File name -> figure."""
  from matplotlib.figure import Figure

  from optax_mtl.plot._drawing import (
    COLOURS,
    bare_axes,
    legend_beside,
    line_style,
  )

  def panels(titles, width):
    figure = Figure(figsize=(width, 3.4), layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False, sharey=True)[0]
    for ax, title in zip(axes, titles, strict=True):
      ax.set_title(title, fontsize="medium")
      ax.set_yscale("log")
      bare_axes(ax)
    return figure, axes

  result = {}
  rows = data["against_tasks"]
  families = list(dict.fromkeys(row["family"] for row in rows))
  if rows:
    figure, axes = panels(families, 3.4 * len(families) + 2)
    for ax, family in zip(axes, families, strict=True):
      for index, name in enumerate(dict.fromkeys(r["solver"] for r in rows)):
        found = [
          (r["tasks"], 1e3 * r["median"])
          for r in rows
          if (r["solver"], r["family"]) == (name, family)
        ]
        ax.plot(
          *zip(*found, strict=True),
          label=name,
          marker="o",
          markersize=3,
          **line_style(index),
        )
      ax.set_xscale("log", base=2)
      ax.set_xlabel("tasks")
    axes[0].set_ylabel("milliseconds")
    legend_beside(figure, axes[0])
    result["solvers_time.png"] = figure
  gaps = data["convergence"]
  if gaps:
    figure, axes = panels(list(gaps), 2.9 * len(gaps) + 1.4)
    for ax, traces in zip(axes, gaps.values(), strict=True):
      for index, (variant, gap) in enumerate(traces.items()):
        steps = np.arange(1, len(gap) + 1)
        # Not below a rounding: a gap of 0 has no place on the axis.
        shown = np.maximum(gap, float(np.finfo(np.float32).eps) / 4)
        ax.plot(steps, shown, color=COLOURS[index], label=variant)
      ax.set_xscale("log")
      ax.set_xlabel("iterations")
    axes[0].set_ylabel("relative duality gap")
    legend_beside(figure, axes[0])
    result["solvers_convergence.png"] = figure
  return result


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  args = parse_args(argv)
  from rich.console import Console

  console = Console()
  if not console.is_terminal:
    console.width = 120
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
  args.out.mkdir(parents=True, exist_ok=True)
  (args.out / "solvers.json").write_text(json.dumps(data))
  for name, figure in figures(data).items():
    figure.savefig(args.out / name, dpi=120)
  console.print(f"Wrote solvers.json and pictures to {args.out}")
  return 0


if __name__ == "__main__":
  timing.restart_with_threads(
    parse_args().threads, "benchmarks.speed.solver_times", sys.argv[1:]
  )
  sys.exit(main())
