"""The weights of jinns and ours, on one problem, in jinns' own loop.

`u'' = f` on [0, 1] with `u = sin(4πx)`, zero at both ends; a tanh network of
two layers of 32, 64 fresh points a step, Adam. Every row is one call of
`jinns.solve`, compiled once for all seeds: what differs is who makes the
weights. Ours come in by `optax_mtl.from_extra_arg`, without a change to jinns.

    python -m benchmarks.pinn.against_jinns
    python -m benchmarks.pinn.against_jinns --steps 500 --seeds 1

The rows take turns, seed by seed, so that a busy machine is unkind to all
alike. Needs the `jinns` extra. Takes a few minutes.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.common import options, output

_MISSING = (
  "jinns is not installed. To compare with it: pip install -e '.[bench,jinns]'."
)
#: The residual's gradient is some hundred times as long as the boundary's.
_WAVE = 4 * np.pi


@dataclasses.dataclass(frozen=True)
class Row:
  """Who makes the weights.

  Attributes:
    theirs: jinns' name of its rule, or None: its weights stay 1.
    ours: Our method, or None.
  """

  theirs: str | None = None
  ours: optax.GradientTransformation | None = None


def rows() -> dict[str, Row]:
  """Label -> row. Theirs first; equal weights from both sides show the cost."""
  # The order of the rows is that of jinns' fields, not of sorted names.
  residual = 0
  jaxpi = optax_mtl.norm_balance(2, **optax_mtl.NORM_BALANCE_SETTINGS["jaxpi"])
  return {
    "jinns: none": Row(),
    "jinns: soft_adapt": Row("soft_adapt"),
    "jinns: lr_annealing": Row("lr_annealing"),
    "jinns: ReLoBRaLo": Row("ReLoBRaLo"),
    "jinns: prior_loss": Row("prior_loss"),
    "equal_weighting": Row(ours=optax_mtl.equal_weighting(2)),
    "dwa": Row(ours=optax_mtl.dwa(2, 1.0, steps_per_epoch=1)),
    "lr_annealing": Row(ours=optax_mtl.lr_annealing(2, residual)),
    "relobralo": Row(ours=optax_mtl.relobralo(2)),
    "log_losses": Row(ours=optax_mtl.log_losses(optax_mtl.equal_weighting(2))),
    "norm_balance": Row(ours=optax_mtl.norm_balance(2)),
    "norm_balance, jaxpi's": Row(
      ours=optax_mtl.refresh_every(jaxpi, 100, first=1)
    ),
    "mgda, normalize='l2'": Row(ours=optax_mtl.mgda(2, normalize="l2")),
    "conflict_free": Row(ours=optax_mtl.conflict_free(2)),
  }


# jinns calls a function whose name begins with `get_` with those variables of
# its step that the arguments name. It takes the code alone, so no closures.
def get_task_gradients(grad_terms: Any) -> Any:
  """A tree like jinns' params, leaves [T, *shape], from those of its terms."""
  from jinns.parameters import Params

  each = jax.tree.leaves(grad_terms, is_leaf=lambda x: isinstance(x, Params))
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def get_losses(loss_terms: Any) -> jax.Array:
  """Array [T], in the same order."""
  return jnp.stack(jax.tree.leaves(loss_terms))


def _network(seed: int) -> tuple[Any, Any]:
  """A network of jinns, and its params."""
  import equinox as eqx
  import jinns

  layers = (
    (eqx.nn.Linear, 1, 32),
    (jnp.tanh,),
    (eqx.nn.Linear, 32, 32),
    (jnp.tanh,),
    (eqx.nn.Linear, 32, 1),
  )
  network, params = jinns.nn.PINN_MLP.create(
    key=jax.random.key(seed),
    eqx_list=layers,
    eq_type="PDEStatio",
    input_transform=_stretched,
  )
  return network, jinns.parameters.Params(nn_params=params, eq_params={})


def _stretched(x: jax.Array, params: Any) -> jax.Array:
  """The interval, stretched to [-2, 2]."""
  del params
  return 4 * x - 2


def _loss(network: Any, params: Any, rule: str | None) -> Any:
  """The loss of jinns: the equation's term, and the boundary's."""
  import jinns

  class Poisson(jinns.loss.PDEStatio):
    """`u'' - f`, at one point [1]."""

    def equation(self, x: jax.Array, u: Any, params: Any) -> jax.Array:
      """Forward over forward, as in our own problems."""

      def slope(x: jax.Array) -> jax.Array:
        return jax.jvp(lambda x: u(x, params), (x,), (jnp.ones_like(x),))[1]

      second = jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]
      return second + _WAVE**2 * jnp.sin(_WAVE * x)

  return jinns.loss.LossPDEStatio(
    u=network,
    dynamic_loss=Poisson(),
    boundary_condition=jinns.loss.Dirichlet(),
    loss_weights=jinns.loss.LossWeightsPDEStatio(
      dyn_loss=1.0, boundary_loss=1.0
    ),
    params=params,
    update_weight_method=rule,
  )


def _data(seed: int) -> Any:
  """Fresh points in every step: as many as a batch has, so all are new."""
  import jinns

  return jinns.data.CubicMeshPDEStatio(
    key=jax.random.key(1000 + seed),
    n=64,
    nb=2,
    omega_batch_size=64,
    dim=1,
    min_pts=(0.0,),
    max_pts=(1.0,),
  )


def compiled(row: Row, steps: int) -> Callable[[int], tuple[float, float]]:
  """A function from a seed to the relative L2 error and the seconds."""
  import jinns

  network, params = _network(0)
  loss = _loss(network, params, row.theirs)
  tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  extra: dict[str, Any] | None = None
  if row.ours is not None:
    # Not "grads": jinns passes on the extra args beside one of that name.
    tx = optax_mtl.from_extra_arg(optax.chain(row.ours, tx), "task_grads")
    extra = {"task_grads": get_task_gradients, "losses": get_losses}

  @jax.jit
  def run(params: Any, data: Any, key: jax.Array) -> jax.Array:
    found, *_ = jinns.solve(
      n_iter=steps,
      init_params=params,
      data=data,
      loss=loss,
      optimizer=tx,
      extra_optax_args_and_kwargs=extra,
      verbose=False,
      ahead_of_time=False,
      key=key,
    )
    x = jnp.linspace(0.0, 1.0, 201)[:, None]
    exact = jnp.sin(_WAVE * x)
    error = jax.vmap(lambda x: network(x, found))(x) - exact
    return jnp.linalg.norm(error) / jnp.linalg.norm(exact)

  program = run.lower(params, _data(0), jax.random.key(0)).compile()

  def timed(seed: int) -> tuple[float, float]:
    args = _network(seed)[1], _data(seed), jax.random.key(2000 + seed)
    begin = time.perf_counter()
    error = float(program(*args))
    return error, time.perf_counter() - begin

  return timed


def table(
  results: dict[str, list[tuple[float, float]]], steps: int
) -> list[list[str]]:
  """A line for each row: errors over the seeds, and time per step."""
  lines = []
  for label, runs in results.items():
    errors, seconds = zip(*runs, strict=True)
    lines.append(
      [
        label,
        f"{statistics.median(errors):.3g}",
        f"{min(errors):.3g} to {max(errors):.3g}",
        f"{1e6 * statistics.median(seconds) / steps:.0f}",
        f"{1e6 * min(seconds) / steps:.0f}",
      ]
    )
  return lines


def _parser() -> argparse.ArgumentParser:
  parser = options.new_parser("pinn.against_jinns", __doc__, as_it_is=True)
  parser.add_argument("--steps", type=options.number, default=3000)
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--rows", type=options.words, help="labels; all")
  options.add_out(parser, "against_jinns")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs all rows, and prints the table."""
  parser = _parser()
  args = parser.parse_args(argv)
  chosen = rows()
  if args.rows:
    options.check_known(parser, "rows", args.rows, chosen)
    chosen = {label: chosen[label] for label in args.rows}
  try:
    import jinns  # noqa: F401
  except ImportError:
    print(_MISSING, file=sys.stderr)
    return 1
  # jinns warns of what its own modules hold.
  warnings.simplefilter("ignore")
  programs = {}
  for label, row in chosen.items():
    print(f"compiling {label}", file=sys.stderr)
    programs[label] = compiled(row, args.steps)
  results: dict[str, list[tuple[float, float]]] = {k: [] for k in programs}
  for seed in range(args.seeds):
    print(f"seed {seed + 1} of {args.seeds}", file=sys.stderr)
    for label, program in programs.items():
      results[label].append(program(seed))
  _show(results, args.steps, args.out)
  return 0


def _show(
  results: dict[str, list[tuple[float, float]]],
  steps: int,
  out: pathlib.Path,
) -> None:
  """Prints the table, in Markdown, and writes the numbers."""
  from importlib import metadata

  heads = ["weights", "error, median", "range", "µs a step", "least"]
  print(f"jinns {metadata.version('jinns')}, {steps} steps; relative L2 error")
  for line in (heads, ["---"] * len(heads), *table(results, steps)):
    print(f"| {' | '.join(line)} |")
  data = {**output.made_with(), "steps": steps, "rows": results}
  output.say_wrote(output.write(out, "against_jinns", data))


if __name__ == "__main__":
  sys.exit(main())
