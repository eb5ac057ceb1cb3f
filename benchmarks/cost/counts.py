"""What things cost, counted and not timed: `python -m benchmarks.cost.counts`.

FLOPs and bytes accessed of updates, in the program as it is handed to XLA;
FLOPs, bytes and temporary memory of training steps and of a few updates, in the
compiled program; and iterations of the solvers to their certificates. XLA
counts the body of a loop once, however often it runs. None of it depends on how
busy the machine is, so a test compares it with what was recorded in
`recorded.json`, beside this; `--write` records anew.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.common import options, output
from benchmarks.common.examples import example
from optax_mtl import solvers

BASELINE = pathlib.Path(__file__).with_name("recorded.json")

#: How much more than recorded a cost may be: XLA's counts move a little from
#: one release to the next.
TOLERANCE = 1.1
#: For counts before XLA compiles, which does not move these. One more pass over
#: the gradients is 5 % of the FLOPs of an update with a Gram matrix.
LOWERED_TOLERANCE = 1.03

_NUM_TASKS = 8

#: Methods whose update is compiled, for its temporary memory: what reads the
#: gradients for no matrix, for norms, for a Gram matrix, and for one with a
#: limited norm. Beyond that a rule holds arrays [T, T], which are small here.
COMPILED = ("equal_weighting", "gradnorm", "mgda", "nash_mtl")


def _counts(analysis: Any) -> dict[str, float]:
  return {
    "flops": float(analysis["flops"]),
    "bytes": float(analysis["bytes accessed"]),
  }


def _compiled_cost(lowered: jax.stages.Lowered) -> dict[str, float]:
  """Counts from the compiled program."""
  compiled = lowered.compile()
  memory = float(compiled.memory_analysis().temp_size_in_bytes)
  return _counts(compiled.cost_analysis()) | {"temp_bytes": memory}


def small_mlp() -> dict[str, dict[str, jax.Array]]:
  """Params of a small MLP."""
  widths = (64, 256, 256, 16)
  return {
    f"layer_{i}": {"kernel": jnp.zeros((a, b)), "bias": jnp.zeros((b,))}
    for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
  }


def update_costs() -> dict[str, dict[str, float]]:
  """Each method's update on stacked gradients of a small MLP, T = 8.

  Compiling takes most of the time, and FLOPs and bytes show what a method adds
  before XLA fuses it as well as after.
  """
  params = small_mlp()
  grads = jax.eval_shape(
    lambda: jax.tree.map(lambda p: jnp.ones((_NUM_TASKS, *p.shape)), params)
  )
  costs: dict[str, dict[str, float]] = {}
  for name in optax_mtl.METHODS:
    tx, extra = example(name, _NUM_TASKS, grads)
    lowered = jax.jit(
      lambda grads, state, params, extra, tx=tx: tx.update(
        grads, state, params, **extra
      )
    ).lower(grads, jax.eval_shape(tx.init, params), params, extra)
    costs[name] = _counts(lowered.cost_analysis())
    if name in COMPILED:
      costs[f"{name}, compiled"] = _compiled_cost(lowered)
  return costs


def step_costs() -> dict[str, dict[str, float]]:
  """Whole steps on a small MLP by source, beside the plain summed loss."""
  params = small_mlp()
  x = jnp.ones((32, 64))
  y = jnp.ones((32, 16))

  def losses(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    for index in range(3):
      layer = params[f"layer_{index}"]
      x = jnp.tanh(x @ layer["kernel"] + layer["bias"][None])
    errors = jnp.mean(jnp.square(x - y), axis=0)
    return jnp.mean(errors.reshape(_NUM_TASKS, -1), axis=1)

  def plain(params: Any, x: jax.Array, y: jax.Array) -> Any:
    return jax.grad(lambda params: jnp.sum(losses(params, x, y)))(params)

  def step(
    tx: optax.GradientTransformationExtraArgs, source: str
  ) -> Callable[..., Any]:
    def run(params: Any, x: jax.Array, y: jax.Array) -> Any:
      value, grads = optax_mtl.value_and_task_grads(losses, source=source)(
        params, x, y
      )
      return tx.update(grads, tx.init(params), params, losses=value)

    return run

  tasks = _NUM_TASKS
  variants = {
    "plain": plain,
    "loss-only, implicit": step(
      optax_mtl.uncertainty_weighting(tasks, optimizer=optax.sgd(0.1)),
      "implicit",
    ),
    "mgda, stacked": step(optax_mtl.mgda(tasks), "stacked"),
    "mgda, implicit": step(optax_mtl.mgda(tasks), "implicit"),
  }
  return {
    label: _compiled_cost(jax.jit(run).lower(params, x, y))
    for label, run in variants.items()
  }


def _grams(num_tasks: int, number: int = 64) -> jax.Array:
  """Gram matrices [number, T, T]: independent and conflicting gradients."""
  rng = np.random.default_rng(num_tasks)
  rows = rng.standard_normal((number, num_tasks, 4 * num_tasks))
  common = rng.standard_normal((number, 1, 4 * num_tasks))
  signs = np.where(np.arange(num_tasks) % 2, 1.0, -1.0)[None, :, None]
  # Half of them pull along one direction, each second task backwards.
  rows[number // 2 :] += (2 * signs * common)[number // 2 :]
  rows = rows.astype(np.float32)
  return jnp.asarray(rows @ rows.swapaxes(1, 2))


def iteration_counts() -> dict[str, float]:
  """Mean iterations of each solver over a batch of Gram matrices.

  Fewer tasks than the most are padded with absent ones: one program a solver.
  """
  problems: dict[str, Callable[..., Any]] = {
    "min_norm": solvers.min_norm,
    "project_dual_cone": lambda m, active: solvers.project_dual_cone(
      m, jnp.eye(m.shape[0]), active=active
    ),
    "nash_bargaining": solvers.nash_bargaining,
    "fairness": lambda m, active: solvers.fairness(m, 2.0, active=active),
    "cagrad_weights": lambda m, active: solvers.cagrad_weights(
      m, 0.5, active=active
    ),
  }
  numbers = (3, 10, 40)
  most = max(numbers)
  grams = [_grams(number) for number in numbers]
  padded = jnp.concatenate(
    [
      jnp.pad(gram, ((0, 0), *((0, most - number),) * 2))
      for gram, number in zip(grams, numbers, strict=True)
    ]
  )
  owner = np.repeat(numbers, [len(gram) for gram in grams])
  active = jnp.asarray(np.arange(most) < owner[:, None])
  counts: dict[str, float] = {}
  for name, solve in problems.items():
    # One after another: batched solvers take longer to compile.
    run = jax.jit(
      lambda rows, solve=solve: jax.lax.map(
        lambda row: solve(row[0], active=row[1])[1], rows
      )
    )
    certificate = jax.device_get(run((padded, active)))
    for num_tasks in numbers:
      mine = owner == num_tasks
      if not certificate.converged[mine].all():
        raise RuntimeError(f"{name} did not converge at T={num_tasks}.")
      counts[f"{name}, T={num_tasks}"] = float(
        certificate.iterations[mine].mean()
      )
  return counts


def measure() -> dict[str, float]:
  """All counts, flat: "kind / case / count" -> number."""
  flat: dict[str, float] = {}
  for kind, costs in (("update", update_costs()), ("step", step_costs())):
    for case, counts in costs.items():
      for count, number in counts.items():
        flat[f"{kind} / {case} / {count}"] = number
  for case, number in iteration_counts().items():
    flat[f"solver / {case} / iterations"] = number
  return flat


def regressions(
  now: dict[str, float], recorded: dict[str, float]
) -> dict[str, tuple[float, float]]:
  """Costs that are above what was recorded: name -> (now, recorded)."""
  # Counts of a few dozen bytes or one iteration jump in steps.
  slack = {"temp_bytes": 4096.0, "iterations": 0.5}
  found: dict[str, tuple[float, float]] = {}
  for name, number in recorded.items():
    kind, case, count = name.split(" / ")
    lowered = kind == "update" and not case.endswith(", compiled")
    tolerance = LOWERED_TOLERANCE if lowered else TOLERANCE
    allowed = tolerance * number + slack.get(count, 0.0)
    if name in now and now[name] > allowed:
      found[name] = (now[name], number)
  return found


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the counts beside those recorded; 1 if one has grown."""
  parser = options.new_parser("cost.counts", __doc__)
  parser.add_argument("--write", action="store_true", help="record anew")
  args = parser.parse_args(argv)
  now = measure()
  recorded = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
  table = output.new_table(columns=["cost", "now", "recorded"])
  for name, number in now.items():
    before = f"{recorded[name]:,.1f}" if name in recorded else "–"
    table.add_row(name, f"{number:,.1f}", before)
  output.new_console(100).print(table)
  if args.write:
    BASELINE.write_text(json.dumps(now, indent=1) + "\n")
    return 0
  grown = regressions(now, recorded)
  for name, (number, before) in grown.items():
    print(f"{name}: {number:,.1f}, recorded {before:,.1f}")
  return 1 if grown else 0


if __name__ == "__main__":
  sys.exit(main())
