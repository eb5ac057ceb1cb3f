"""What tracking costs a step: `python -m benchmarks.speed.tracking --help`.

Times steps of Adam without `optax_mtl.track`, with it, with its figures read in
each step, and with the Gram matrix computed a second time beside the method's,
as one would have it without. Prints a table, ratios of the processor's time to
that of the first, and writes JSON. "small" is no network, but an update of
1,000 params: what is added there is added everywhere.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.progress import Progress

import optax_mtl
from benchmarks.common import options, output, timing
from benchmarks.speed import step_networks

#: Steps timed together, so that a block with `refresh_every` refreshes once.
_BLOCK = 10

#: The name of what is no network, and its params.
_SMALL, _NUM_PARAMS = "small", 1000

Method = optax.GradientTransformation
Wrap = Callable[[Method], Method]


def _shared(params: Any) -> Any:
  del params
  return {"trunk": True, "heads": False}


def _refreshed(wrap: Wrap) -> Callable[[Method], Method]:
  return lambda method: optax_mtl.refresh_every(wrap(method), _BLOCK)


#: What stands around the method -> how it is put there.
_AROUND: dict[str, Callable[[Wrap], Wrap]] = {
  "": lambda wrap: wrap,
  "refresh_every": _refreshed,
}
#: What is timed: whether the method is tracked, whether its figures are read in
#: each step, and whether there is a Gram matrix beside the method.
_WAYS = {
  "without": (False, False, False),
  "tracked": (True, False, False),
  "tracked, read": (True, True, False),
  "a second matrix": (False, False, True),
}
#: A method that reads the Gram matrix, one that reads lengths, one of losses.
_METHODS = ("mgda", "gradnorm", "uncertainty_weighting")
_SOURCES = ("stacked", "implicit", "representation")


def _problem(
  name: str, num_tasks: int, source: str
) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
  """`(params, *batch) -> (losses, gradients)`, first params and a batch."""
  if name == _SMALL:
    rows = jax.random.normal(jax.random.key(0), (num_tasks, _NUM_PARAMS))
    return (
      lambda params, rows: (jnp.ones(num_tasks), rows),
      jnp.ones(_NUM_PARAMS),
      (rows,),
    )
  network = step_networks.build(name, num_tasks)
  if source == "representation":
    value_and_grads = optax_mtl.value_and_representation_grads(
      network.trunk, network.heads, shared=_shared
    )
  else:
    value_and_grads = optax_mtl.value_and_task_grads(
      network.losses, source=source, shared=_shared
    )
  params = jax.jit(network.init)(jax.random.key(0))
  return (
    value_and_grads,
    params,
    (jnp.asarray(network.x), jnp.asarray(network.y)),
  )


class _Run:
  """A compiled step; a call makes a block of them."""

  def __init__(
    self, problem: Any, num_tasks: int, method: str, around: str, way: str
  ):
    value_and_grads, params, self._batch = problem
    tracked, read, second = _WAYS[way]
    wrap: Wrap = optax_mtl.track if tracked else lambda tx: tx
    built = optax_mtl.METHODS[method](num_tasks)
    tx = optax.chain(_AROUND[around](wrap)(built), optax.adam(1e-3))

    def step(params: Any, state: Any, *batch: Any) -> Any:
      losses, grads = value_and_grads(params, *batch)
      updates, state = tx.update(grads, state, params, losses=losses)
      seen = {}
      if read:
        seen = optax_mtl.diagnostics(state)
      if second:
        seen = {"gram": optax_mtl.metrics.gram_matrix(grads)}
      return optax.apply_updates(params, updates), state, (losses, seen)

    # A step writes over them, and the next run starts from them too.
    self._params = jax.tree.map(jnp.copy, params)
    self._state = tx.init(params)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(
      self._params, self._state, *self._batch
    )
    self._step = lowered.compile()

  def __call__(self) -> None:
    """Waits for the last of the steps."""
    seen = None
    for _ in range(_BLOCK):
      self._params, self._state, seen = self._step(
        self._params, self._state, *self._batch
      )
    jax.block_until_ready(seen)


def measure(
  name: str,
  num_tasks: int,
  source: str,
  method: str,
  around: str,
  repeats: int,
) -> dict[str, Any]:
  """One row: the milliseconds of a step without, and the others' ratios."""
  problem = _problem(name, num_tasks, source)
  runs = {way: _Run(problem, num_tasks, method, around, way) for way in _WAYS}
  timings = timing.interleave(runs, repeats=repeats, seconds=60.0)
  plain = timings["without"].cpu
  return {
    "network": name,
    "tasks": num_tasks,
    "source": source,
    "method": f"{around}({method})" if around else method,
    "ms": 1e3 * plain / _BLOCK,
    "ratios": {
      way: timings[way].cpu / plain for way in _WAYS if way != "without"
    },
    "timings": {way: timings[way].as_json() for way in _WAYS},
  }


def _cells(row: dict[str, Any]) -> list[str]:
  ratios = [f"{ratio:.2f}" for ratio in row["ratios"].values()]
  names = [row["network"], row["source"], row["method"]]
  return [*names, str(row["tasks"]), f"{row['ms']:.3g}", *ratios]


_COLUMNS = ["network", "source", "method", "T", "ms", *list(_WAYS)[1:]]


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  parser = options.new_parser("speed.tracking", __doc__)
  add = parser.add_argument
  networks = (_SMALL, *step_networks.SIZES)
  add(
    "--networks",
    type=options.words,
    default="small,transformer",
    help="of these",
  )
  add("--tasks", type=options.numbers, default="3,10", help="T")
  add("--sources", type=options.words, default=",".join(_SOURCES))
  add("--methods", type=options.words, default=",".join(_METHODS))
  add("--repeats", type=int, default=9, help=f"blocks of {_BLOCK} steps")
  add("--markdown", action="store_true", help="print the table of the docs")
  options.add_out(parser, "tracking")
  args = parser.parse_args(argv)
  options.check_known(parser, "networks", args.networks, networks)
  options.check_known(parser, "sources", args.sources, _SOURCES)
  options.check_known(parser, "methods", args.methods, _METHODS)
  console = output.new_console()
  cases = [
    (name, num_tasks, source, method, around)
    for name in args.networks
    for num_tasks in args.tasks
    for source in args.sources
    # Gradients that are there have no source but one.
    if name != _SMALL or source == _SOURCES[0]
    for method in args.methods
    for around in _AROUND
  ]
  rows: list[dict[str, Any]] = []
  try:
    with Progress(console=console) as progress:
      bar = progress.add_task("tracked steps", total=len(cases))
      advance = functools.partial(progress.advance, bar)
      for case in cases:
        rows.append(measure(*case, args.repeats))
        advance()
  except KeyboardInterrupt:
    console.print(f"[yellow]Stopped after {len(rows)} of {len(cases)}.")
  if args.markdown:
    print(output.markdown(_COLUMNS, [_cells(row) for row in rows]))
  else:
    table = output.new_table(
      "ms of a step without tracking, and ratios to it", _COLUMNS, left=3
    )
    for row in rows:
      table.add_row(*_cells(row))
    console.print(table)
  data = {**output.made_with(), "machine": timing.machine(), "rows": rows}
  output.say_wrote(output.write(args.out, "tracking", data))
  return 0


if __name__ == "__main__":
  sys.exit(main())
