"""What devices exchange in a step: `python -m benchmarks.cost.many_devices`.

The steps of each source are compiled for eight CPU devices: the batch in parts
(data parallel), the params too (fully sharded), or params over a second axis of
the mesh (tensor parallel). The bytes of all collectives, counted in the
compiled program, stand beside those of a formula, from which follows what a
thousand devices exchange; "times" is that beside the step of the summed loss,
and "new" the entries of the largest array that this step does not exchange too.
None of it depends on how busy the machine is.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_mtl
from benchmarks.common import options, output
from benchmarks.cost import exchanges

#: Tasks; rows of the batch; widths of its input, of the network and of a head.
T, ROWS, INPUT, WIDTH, OUTPUT = 3, 256, 64, 128, 16
#: The mesh of the tensor parallel steps.
DATA, MODEL = 2, 4

Step = Callable[[Any, Any], Any]
_TRUNK = ("up_0", "down_0", "up_1", "down_1")
_SHARED = dict.fromkeys(_TRUNK, True) | {"heads": False}


def _trunk(params: Any, batch: Any) -> jax.Array:
  """Two blocks, of each the second product sums over the hidden axis."""
  z = batch["x"]
  for up, down in (_TRUNK[:2], _TRUNK[2:]):
    z = jnp.tanh(jnp.tanh(z @ params[up]) @ params[down])
  return z


def _heads(params: Any, z: jax.Array, batch: Any) -> list[jax.Array]:
  return [
    jnp.mean(jnp.square(z @ head - batch["y"][:, task]))
    for task, head in enumerate(params["heads"])
  ]


def _losses(params: Any, batch: Any) -> list[jax.Array]:
  return _heads(params, _trunk(params, batch), batch)


def _term(task: int) -> Callable[[Any, Any], jax.Array]:
  return lambda params, batch: _losses(params, batch)[task]


def _of_terms(source: Any) -> Callable[[Any, Any], Any]:
  grads_of = optax_mtl.value_and_task_batch_grads(
    {str(task): _term(task) for task in range(T)},
    source=source,
    shared=_SHARED,
  )
  return lambda params, batch: grads_of(
    params, {str(task): batch for task in range(T)}
  )


def _sources() -> dict[str, Callable[[Any, Any], Any]]:
  one = optax_mtl.value_and_task_grads
  return {
    "stacked": one(_losses, shared=_SHARED),
    "implicit": one(_losses, source="implicit", shared=_SHARED),
    "representation": optax_mtl.value_and_representation_grads(
      _trunk, _heads, shared=_SHARED
    ),
    "terms": _of_terms("stacked"),
    "implicit terms": _of_terms("implicit"),
  }


#: A method of each kind: what it asks a source for.
METHODS = {
  "losses": optax_mtl.uncertainty_weighting,
  "one gradient": optax_mtl.m_config,
  "norms": optax_mtl.norm_balance,
  "Gram": optax_mtl.conflict_free,
}
PLAIN = "summed loss"
#: Source and kind of method; the first is the step of who weighs nothing.
CASES = (
  (PLAIN, ""),
  *(("implicit", kind) for kind in METHODS),
  ("stacked", "losses"),
  ("stacked", "Gram"),
  ("representation", "Gram"),
  ("terms", "Gram"),
  ("implicit terms", "Gram"),
)


def _step(source: str, kind: str) -> Step:
  if source == PLAIN:
    return jax.value_and_grad(lambda p, batch: sum(_losses(p, batch)))
  grads_of, method = _sources()[source], METHODS[kind](T)

  def step(params: Any, batch: Any) -> Any:
    losses, grads = grads_of(params, batch)
    # As in any step: of a state that it knows the compiler makes constants.
    state = jax.lax.optimization_barrier(method.init(params))
    return losses, method.update(grads, state, params, losses=losses)[0]

  return step


class Sizes(NamedTuple):
  """Bytes, from which the formulas are made.

  Attributes:
    trunk: Of a gradient of the trunk, as it is summed over the batch's parts.
    heads: Of the heads' gradients, all together.
    gathered: Of the params that a forward pass collects.
    again: Of those that are collected anew for the passes of a loop: all but
      the first, which a backward pass does not need.
    again_one: The same of one task, for a pass that is a branch.
    forward: Of activations that a forward pass sums.
    backward: Of those that a backward pass sums.
  """

  trunk: float
  heads: float
  gathered: float = 0
  again: float = 0
  again_one: float = 0
  forward: float = 0
  backward: float = 0


_FLOAT = 4
_ONE_HEAD = _FLOAT * WIDTH * OUTPUT
_FIRST = _FLOAT * INPUT * WIDTH
_WHOLE = _FIRST + 3 * _FLOAT * WIDTH**2
_ACTIVATIONS = _FLOAT * ROWS // DATA * WIDTH

SIZES = {
  "data parallel": Sizes(_WHOLE, T * _ONE_HEAD),
  "fully sharded": Sizes(
    _WHOLE,
    T * _ONE_HEAD,
    gathered=_WHOLE + T * _ONE_HEAD,
    again=_WHOLE - _FIRST + T * _ONE_HEAD,
    again_one=_WHOLE - _FIRST + _ONE_HEAD,
  ),
  # Two blocks; what a backward pass sums is the gradient between them.
  "tensor parallel": Sizes(
    _WHOLE / MODEL,
    T * _ONE_HEAD,
    forward=2 * _ACTIVATIONS,
    backward=_ACTIVATIONS,
  ),
}


def formula(source: str, kind: str, sizes: Sizes) -> float:
  """The bytes that a device gets in a step, but for arrays [T, T] and less."""
  s = sizes
  back = s.trunk + s.backward
  # One forward pass and one backward pass, that of any weighted sum.
  plain = s.gathered + s.forward + back + s.heads
  if source in (PLAIN, "representation"):
    return plain
  if source == "stacked":
    return plain + (T - 1) * back
  if source == "terms":
    return plain + (T - 1) * (s.forward + back)
  if source == "implicit terms":
    # Each pair of gradients, and each once more for the update.
    pairs = T * (T + 1) // 2 * (back + s.again_one)
    return plain + (T - 1) * (s.forward + back) + pairs
  if kind in ("losses", "one gradient"):
    return plain
  every = plain + T * back + s.again
  # Forward mode sums both the product with a tangent and that of a tangent.
  return every if kind == "norms" else every + (T - 1) * 2 * s.forward


def _spread(way: str) -> tuple[Any, Any]:
  """The shardings of params and batch."""
  shape = (DATA, MODEL) if way == "tensor parallel" else (DATA * MODEL, 1)
  mesh = jax.make_mesh(
    shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2
  )
  specs = dict.fromkeys((*_TRUNK, "heads"), P())
  if way == "fully sharded":
    specs = dict.fromkeys(specs, P("data"))
  if way == "tensor parallel":
    specs |= {
      key: P("model") if key.startswith("down") else P(None, "model")
      for key in _TRUNK
    }
  named = {key: NamedSharding(mesh, spec) for key, spec in specs.items()}
  params = named | {"heads": [named["heads"]] * T}
  return params, dict.fromkeys("xy", NamedSharding(mesh, P("data")))


def _arrays() -> tuple[Any, Any]:
  params = {key: jnp.zeros((WIDTH, WIDTH)) for key in _TRUNK}
  params["up_0"] = jnp.zeros((INPUT, WIDTH))
  params["heads"] = [jnp.zeros((WIDTH, OUTPUT)) for _ in range(T)]
  batch = {"x": jnp.zeros((ROWS, INPUT)), "y": jnp.zeros((ROWS, T, OUTPUT))}
  return params, batch


def measure(way: str, source: str, kind: str) -> list[exchanges.Exchange]:
  """What the devices exchange in a compiled step."""
  shardings = _spread(way)
  like = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    jax.eval_shape(_arrays),
    shardings,
  )
  step = jax.jit(_step(source, kind), out_shardings=(None, shardings[0]))
  text = step.lower(*like).compile().as_text()
  # The loop over pairs turns 0, 1, ... T - 1 times.
  return exchanges.exchanges(text, turns=(T - 1) / 2)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints what is exchanged beside the formulas; 1 if it is more."""
  parser = options.new_parser("cost.many_devices", __doc__)
  parser.add_argument(
    "--ways", type=options.words, default=",".join(SIZES), help="shardings"
  )
  args = parser.parse_args(argv)
  options.check_known(parser, "ways", args.ways, SIZES)
  jax.config.update("jax_num_cpu_devices", DATA * MODEL)
  table = output.new_table(
    columns=["params", "source", "reads", "KiB", "formula", "times", "new"],
    left=3,
  )
  wrong: list[str] = []
  for way in args.ways:
    known: set[int] = set()
    plain = formula(PLAIN, "", SIZES[way])
    for source, kind in CASES:
      found = measure(way, source, kind)
      # Scalars, weights and Gram matrices.
      large = [x for x in found if x.entries > T**2]
      if source == PLAIN:
        known = {x.entries for x in large}
      new = max((x.entries for x in found if x.entries not in known), default=0)
      number, want = exchanges.total(large), formula(source, kind, SIZES[way])
      if number > want or new > T**2:
        wrong.append(f"{way}, {source}, {kind}")
      kib = [f"{x / 1024:.0f}" for x in (number, want)]
      table.add_row(way, source, kind, *kib, f"{want / plain:.2f}", str(new))
  output.new_console(100).print(table)
  for case in wrong:
    print(f"more than the formula says, or a new array is large: {case}")
  return 1 if wrong else 0


if __name__ == "__main__":
  sys.exit(main())
