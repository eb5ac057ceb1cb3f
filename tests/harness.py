"""What the tests of all methods share: data, builders, compiled runs.

A method costs four compiled programs: fifteen runs over 50 steps in one `vmap`
(`cases`, `case_runs`), the float64 run beside the reference, one step on many
matrices (`contract/test_claims.py`), and T=1. Everything else about it is read
off these, or traced without compiling.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract import own_methods

import optax_mtl
from benchmarks.common.matrices import FAMILIES as FAMILIES
from benchmarks.reference.methods import REFERENCES as REFERENCES
from optax_mtl import _registry
from optax_mtl._dtypes import solver_dtype

#: Three tasks: the fewest with pairs that differ. No axis of a param has this
#: length, so that a leaf of a state is per task if its first axis has.
NUM_TASKS = 3
TASKS = tuple(range(NUM_TASKS))
#: Long enough for several epochs of `dwa`'s example.
NUM_STEPS = 50
#: The permutation of the tasks that the runs are tried with.
ORDER = (2, 0, 1)

#: The methods that a test writes outside of the package. What goes over
#: `optax_mtl.METHODS` elsewhere must not meet them.
OWN = {name: _registry.METHODS.pop(name) for name in own_methods.NAMES}
PACKAGE = dict(optax_mtl.METHODS)
_FUNCTIONS = PACKAGE | OWN
#: The package's methods.
NAMES = sorted(PACKAGE)

#: One method for each kind of rule: what a rule cannot see, as heads, dropping
#: or what follows in the chain, is tested on these alone.
KINDS = {
  "losses, memory": "dwa",
  "gram, memory": "gradnorm",
  "gram, key": "pcgrad",
  "solved, limited norm": "nash_mtl",
  "preference": "pareto_mtl",
  "update, stacked": "graddrop",
  "update, one gradient": "bloop",
}
every_kind = list(KINDS.values())

#: Leaf path -> shape. A scalar is among them, and a leaf of several axes.
_SHAPES = {"head": (2,), "trunk": {"bias": (), "kernel": (2, 5)}}
SHARED = {"head": False, "trunk": True}


class Data(NamedTuple):
  """What a run over several steps is given.

  Attributes:
    grads: Tree with leaves [steps, T, *param.shape].
    extra: Name -> array [steps, T], every extra arg that any method needs: a
      method lets pass what it does not know.
    active: Array [steps, T] of bool.
    second: Like `grads`, from another batch.
  """

  grads: Any
  extra: dict[str, Any]
  active: Any
  second: Any = None


def build(name: str, tasks: Sequence[int] = TASKS, **options: Any) -> Any:
  """The method `name` for these task numbers, as its row's example says."""
  function = _FUNCTIONS[name]
  return function(len(tasks), **function.info.example(tasks), **options)


def weighs(name: str) -> bool:
  """Whether the method has weights: if not, it makes an update."""
  return not isinstance(build(name).rule, optax_mtl.UpdateRule)


#: All methods that weigh, and all that make an update from the gradients.
WEIGHING = [n for n in NAMES if weighs(n)] + ["even_fall", "modo"]
UPDATING = [n for n in NAMES if not weighs(n)] + ["graddrop"]
weighing_kinds = [n for n in every_kind if n not in UPDATING]


def info(name: str) -> optax_mtl.MethodInfo:
  return _FUNCTIONS[name].info


def claims(name: str) -> frozenset[str]:
  return info(name).claims


def _of_shapes(make: Callable[[tuple[int, ...]], Any]) -> Any:
  return jax.tree.map(make, _SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def params(dtype: Any = np.float32) -> Any:
  """The params of every run."""
  return _of_shapes(lambda shape: jnp.full(shape, 0.5, dtype))


def num_params() -> int:
  return sum(np.size(leaf) for leaf in jax.tree.leaves(params()))


def extra_args(
  rng: np.random.Generator, num_steps: int, num_tasks: int
) -> dict[str, np.ndarray]:
  """Every extra arg [T] that some method reads, float64; add new ones here."""
  shape = (num_steps, num_tasks)
  losses = np.exp(0.3 * rng.standard_normal(shape))
  return {
    "losses": losses,
    "kpis": rng.uniform(0.05, 0.95, shape),
    "preference": np.tile([1.0, 2.0, 2.0][:num_tasks], (num_steps, 1)),
    # After a step the losses of its batch are lower by up to a fifth.
    "previous_losses": losses * rng.uniform(0.8, 1.0, shape),
    "traces": 1 + losses**2,
  }


def data(seed: int = 0, num_steps: int = NUM_STEPS) -> Data:
  """Random gradients, losses and so on, float64."""
  rng = np.random.default_rng(seed)

  def draw() -> Any:
    return _of_shapes(
      lambda shape: rng.standard_normal((num_steps, NUM_TASKS, *shape))
    )

  grads = draw()
  extra = extra_args(rng, num_steps, NUM_TASKS)
  active = np.ones((num_steps, NUM_TASKS), bool)
  return Data(grads, extra, active, draw())


def flat(tree: Any, lead: int) -> np.ndarray:
  """The leaves side by side, float64: `lead` axes stay, the others merge."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
  return np.concatenate(
    [leaf.reshape(*leaf.shape[:lead], -1) for leaf in leaves], axis=-1
  )


def to_dtype(data: Data, dtype: Any) -> Data:
  """Gradients in `dtype`, extra args in the solver's."""

  def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)

  return Data(
    cast(data.grads, dtype),
    cast(data.extra, solver_dtype()),
    jnp.asarray(data.active),
    cast(data.second, dtype),
  )


def tasks_of(data: Data, tasks: Sequence[int]) -> Data:
  """The data of some of the tasks, in that order."""
  chosen = np.asarray(tasks)
  return jax.tree.map(lambda leaf: np.asarray(leaf)[:, chosen], data)


def row_of(data: Data, step: int) -> Data:
  return jax.tree.map(lambda leaf: leaf[step], data)


def extra_of(row: Data) -> dict[str, Any]:
  """All extra args of one step but `active`."""
  if row.second is None:
    return row.extra
  return row.extra | {"second_grads": row.second}


# The cases: what a run is tried with.
def inactive(tasks: Any, steps: slice = slice(None)) -> np.ndarray:
  """The mask [steps, T] that leaves these tasks out."""
  mask = np.ones((NUM_STEPS, NUM_TASKS), bool)
  mask[steps, tasks] = False
  return mask


def intermittent() -> np.ndarray:
  """Each task is absent now and then; in one step all are."""
  mask = np.random.default_rng(7).uniform(size=(NUM_STEPS, NUM_TASKS)) < 0.7
  mask[20] = False
  return mask


def spoilt(data: Data, where: np.ndarray, value: float) -> Data:
  """Puts `value` into all that belongs to the tasks in `where` [steps, T]."""

  def spoil(leaf: Any) -> np.ndarray:
    leaf = np.array(leaf)
    leaf[where] = value
    return leaf

  return Data(
    jax.tree.map(spoil, data.grads),
    jax.tree.map(spoil, data.extra),
    data.active,
    jax.tree.map(spoil, data.second),
  )


#: The exponents of the scales 2^e that the gradients are multiplied with,
#: about 1e-15, 1e-6, 1e6 and 1e15: a power of two scales without rounding, so
#: that only an absolute constant shows, and the Gram matrix stays between 1e-30
#: and 1e31, inside the range of float32.
EXPONENTS = (-50, -20, 20, 50)
#: The step and the task that is NaN in the case "shows", in which no mask is.
SHOWS = (4, 1)


@functools.cache
def cases() -> Mapping[str, Data]:
  """Name -> data of all that a T=3 run is tried with."""
  base = data()
  absent = intermittent()
  masked = base._replace(active=absent)
  shows = np.zeros((NUM_STEPS, NUM_TASKS), bool)
  shows[SHOWS] = True

  def of_gradients(change: Callable[[np.ndarray], np.ndarray]) -> Data:
    return base._replace(
      grads=jax.tree.map(change, base.grads),
      second=jax.tree.map(change, base.second),
    )

  def without_task_1(leaf: np.ndarray) -> np.ndarray:
    leaf = np.copy(leaf)
    leaf[:, 1] = 0.0
    return leaf

  return {
    "base": base,
    "another": data(seed=11),
    "permuted": tasks_of(base, ORDER),
    "without_1": base._replace(active=inactive(1)),
    "only_2": base._replace(active=inactive([0, 1])),
    "none": base._replace(active=inactive([0, 1, 2])),
    "absent": masked,
    "absent_nan": spoilt(masked, ~absent, np.nan),
    "absent_inf": spoilt(masked, ~absent, np.inf),
    "zero_1": of_gradients(without_task_1),
    "zero": of_gradients(np.zeros_like),
    "shows": base._replace(grads=spoilt(base, shows, np.nan).grads),
  } | {
    f"scale {e}": of_gradients(lambda leaf, e=e: leaf * 2.0**e)
    for e in EXPONENTS
  }


class Run(NamedTuple):
  """What a run returned.

  Attributes:
    updates: Array [steps, P], float64.
    weights: Array [steps, T] of the state, float64; None without weights.
    states: The states after each step, leaves [steps, ...].
    raw: The updates as they came, leaves [steps, *param.shape].
  """

  updates: np.ndarray
  weights: Any
  states: Any
  raw: Any


def steps(tx: Any, start: Any, data: Data) -> tuple[Any, Any]:
  """Updates and states of all steps, in a scan."""

  def step(state: Any, row: Data) -> tuple[Any, Any]:
    updates, state = tx.update(
      row.grads, state, start, active=row.active, **extra_of(row)
    )
    return state, (updates, state)

  return jax.lax.scan(step, tx.init(start), data)[1]


def _to_run(updates: Any, states: Any) -> Run:
  updates, states = jax.tree.map(np.asarray, (updates, states))
  weights = getattr(states, "weights", None)
  if weights is not None:
    weights = np.asarray(weights, np.float64)
  return Run(flat(updates, 1), weights, states, updates)


@functools.cache
def case_runs(name: str) -> Mapping[str, Run]:
  """The run of every case, from one compiled program."""
  tx, start = build(name), params()
  rows = [to_dtype(case, "float32") for case in cases().values()]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
  run = jax.jit(jax.vmap(lambda data: steps(tx, start, data)))
  outputs = jax.tree.map(np.asarray, run(stacked))
  return {
    case: _to_run(*jax.tree.map(lambda leaf, i=i: leaf[i], outputs))
    for i, case in enumerate(cases())
  }


@functools.cache
def _compiled(
  name: str, tasks: tuple[int, ...], options: tuple[Any, ...], dtype: str
) -> Callable[[Data], tuple[Any, Any]]:
  """A jitted scan over steps; cached, since compiling is what tests cost."""
  tx = build(name, tasks, **{k: _thaw(v) for k, v in options})
  return jax.jit(lambda data: steps(tx, params(dtype), data))


def _freeze(value: Any) -> Any:
  if isinstance(value, dict):
    return ("dict", tuple((k, _freeze(v)) for k, v in value.items()))
  return value


def _thaw(value: Any) -> Any:
  if isinstance(value, tuple) and value and value[0] == "dict":
    return {k: _thaw(v) for k, v in value[1]}
  return value


def run(
  name: str,
  data: Data,
  tasks: Sequence[int] = TASKS,
  dtype: str = "float32",
  **options: Any,
) -> Run:
  """All steps of `data` with one method; options must be hashable or dicts.

  Each other method, number of tasks, dtype and set of options is a program to
  compile.
  """
  frozen = tuple((k, _freeze(v)) for k, v in sorted(options.items()))
  compiled = _compiled(name, tuple(tasks), frozen, dtype)
  return _to_run(*compiled(to_dtype(data, dtype)))


def runner(tx: Any, dtype: str = "float32") -> Callable[[Data], Run]:
  """Function from data to a run of what was built elsewhere, compiled once."""
  start = params(dtype)
  compiled = jax.jit(lambda data: steps(tx, start, data))
  return lambda data: _to_run(*compiled(to_dtype(data, dtype)))


# References.
def limited(name: str, weights: np.ndarray, grads: np.ndarray) -> np.ndarray:
  """What the weights come to once the update's norm is limited, [steps, T].

  The limit is the rule's `max_norm`; weights that were limited already stay.
  """
  max_norm = getattr(build(name).rule, "max_norm", None)
  if max_norm is None:
    return weights
  norms = np.linalg.norm(np.einsum("st,stp->sp", weights, grads), axis=1)
  factors = np.where(norms > max_norm, max_norm / np.maximum(norms, 1e-300), 1)
  return weights * factors[:, None]


@functools.cache
def expected_weights(name: str, case: str, tasks: tuple[int, ...]) -> Any:
  """The weights that the reference applies in a case, for some of the tasks."""
  some = tasks_of(cases()[case], tasks)
  grads = flat(some.grads, 2)
  references = REFERENCES | own_methods.REFERENCES
  extra = some.extra | {"second_grads": flat(some.second, 2)}
  weights = references[name](
    len(tasks), grads, extra, **info(name).example(tasks)
  )
  return limited(name, weights, grads)


def registered(function: Any, **row: Any) -> Any:
  """The method that `optax_mtl.method` makes of a test's own rule."""
  row = {"paper": "p", "url": "u", "weights_sum": "1"} | row
  return optax_mtl.method(**row)(function)


def traced(tx: Any, row: Data, params: Any, **changes: Any) -> Any:
  """Shapes and dtypes of a first state, an update and the next state."""
  # A lambda of its own each time: `eval_shape` remembers functions.
  state = jax.eval_shape(lambda: tx.init(params))
  extra = extra_of(row) | changes
  updates, new_state = jax.eval_shape(
    lambda g, s, p, e: tx.update(g, s, p, **e), row.grads, state, params, extra
  )
  return state, updates, new_state


def signature(tree: Any) -> Any:
  """Structure, shapes, dtypes and weak types."""
  return jax.tree.structure(tree), [
    (leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)
  ]


def per_task_rows(states: Any) -> dict[str, np.ndarray]:
  """The leaves of states with one entry per task, but for the weights."""
  leaves = jax.tree_util.tree_leaves_with_path(states)
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in leaves
    if leaf.ndim > 1 and leaf.shape[1] == NUM_TASKS
    if jax.tree_util.keystr(path) != ".weights"
  }


def is_random(name: str) -> bool:
  """Whether the method draws random numbers: it keeps a key, uint32."""
  state = jax.eval_shape(lambda: build(name).init(params()))
  return any(leaf.dtype == jnp.uint32 for leaf in jax.tree.leaves(state))


class Stepper(NamedTuple):
  """One step of training with adam, compiled once.

  Attributes:
    init: Function from params to a state.
    step: Function `(params, state, row) -> (params, state)`, jitted; it raises
      when it is traced a second time.
  """

  init: Any
  step: Any


@functools.cache
def stepper(name: str) -> Stepper:
  """A training step without `active`; optax's adam needs standard promotion."""
  tx = optax.chain(build(name), optax.adam(0.1))

  def step(params: Any, state: Any, row: Data) -> Any:
    updates, state = tx.update(row.grads, state, params, **extra_of(row))
    return optax.apply_updates(params, updates), state

  # The count is by source, so that other methods' steps would be counted too.
  chex.clear_trace_counter()
  return Stepper(tx.init, jax.jit(chex.assert_max_traces(step, n=1)))


def assert_close(
  actual: Any, desired: Any, size: Any, rtol: float, message: str = ""
) -> None:
  """Entries differ by at most `rtol` of `size`, the size of what was summed."""
  error = np.abs(np.asarray(actual) - np.asarray(desired))
  bound = rtol * np.broadcast_to(size, error.shape)
  assert (error <= bound).all(), (
    f"{message}: off by {np.max(error):.3g}, allowed {np.max(bound):.3g}"
  )
