"""What the tests of all methods share: data, builders, compiled runs."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from optax_mtl._dtypes import solver_dtype

#: Three tasks: the fewest with pairs that differ. No axis of a param has this
#: length, so that a leaf of a state is per task if its first axis has.
NUM_TASKS = 3
TASKS = tuple(range(NUM_TASKS))
#: Long enough for several epochs of `dwa`'s example.
NUM_STEPS = 50
NAMES = sorted(optax_mtl.METHODS)

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
  """

  grads: Any
  extra: dict[str, Any]
  active: Any


def build(name: str, tasks=TASKS, **options):
  """The method `name` for these task numbers, as its row's example says."""
  function = optax_mtl.METHODS[name]
  return function(len(tasks), **function.info.example(tasks), **options)


def claims(name: str) -> frozenset[str]:
  return optax_mtl.METHODS[name].info.claims


def params(dtype=np.float32):
  """The params of every run."""
  return jax.tree.map(
    lambda shape: jnp.full(shape, 0.5, dtype),
    _SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )


def num_params() -> int:
  return sum(np.size(leaf) for leaf in jax.tree.leaves(params()))


def extra_args(rng, num_steps: int, num_tasks: int) -> dict[str, np.ndarray]:
  """Every extra arg that some method needs, float64; add new ones here."""
  shape = (num_steps, num_tasks)
  return {
    "losses": np.exp(0.3 * rng.standard_normal(shape)),
    "kpis": rng.uniform(0.05, 0.95, shape),
    "preference": np.tile([1.0, 2.0, 2.0][:num_tasks], (num_steps, 1)),
  }


def data(seed: int = 0, num_steps: int = NUM_STEPS) -> Data:
  """Random gradients, losses and so on, float64."""
  rng = np.random.default_rng(seed)
  grads = jax.tree.map(
    lambda shape: rng.standard_normal((num_steps, NUM_TASKS, *shape)),
    _SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )
  extra = extra_args(rng, num_steps, NUM_TASKS)
  return Data(grads, extra, np.ones((num_steps, NUM_TASKS), bool))


def flat(tree: Any, lead: int) -> np.ndarray:
  """The leaves side by side, float64: `lead` axes stay, the others merge."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
  return np.concatenate(
    [leaf.reshape(*leaf.shape[:lead], -1) for leaf in leaves], axis=-1
  )


def to_dtype(data: Data, dtype: Any) -> Data:
  """Gradients in `dtype`, extra args in the solver's."""
  return Data(
    jax.tree.map(lambda g: jnp.asarray(g, dtype), data.grads),
    {k: jnp.asarray(v, solver_dtype()) for k, v in data.extra.items()},
    jnp.asarray(data.active),
  )


def tasks_of(data: Data, tasks) -> Data:
  """The data of some of the tasks, in that order."""
  tasks = np.asarray(tasks)
  return jax.tree.map(lambda leaf: np.asarray(leaf)[:, tasks], data)


class Run(NamedTuple):
  """What a run returned.

  Attributes:
    updates: Array [steps, P], float64.
    weights: Array [steps, T], float64.
    states: The states after each step, leaves [steps, ...].
    raw: The updates as they came, leaves [steps, *param.shape].
  """

  updates: np.ndarray
  weights: np.ndarray
  states: Any
  raw: Any


@functools.cache
def _compiled(name: str, tasks: tuple[int, ...], options: tuple, dtype: str):
  """A jitted scan over steps; cached, since compiling is what tests cost."""
  tx = build(name, tasks, **{k: _thaw(v) for k, v in options})

  @jax.jit
  def run(data):
    start = params(dtype)

    def step(state, row):
      updates, state = tx.update(
        row.grads, state, start, active=row.active, **row.extra
      )
      return state, (updates, state)

    return jax.lax.scan(step, tx.init(start), data)[1]

  return run


def _freeze(value):
  if isinstance(value, dict):
    return ("dict", tuple((k, _freeze(v)) for k, v in value.items()))
  return value


def _thaw(value):
  if isinstance(value, tuple) and value and value[0] == "dict":
    return {k: _thaw(v) for k, v in value[1]}
  return value


def run(name, data, tasks=TASKS, dtype="float32", **options) -> Run:
  """All steps of `data` with one method; options must be hashable or dicts."""
  frozen = tuple((k, _freeze(v)) for k, v in sorted(options.items()))
  compiled = _compiled(name, tuple(tasks), frozen, dtype)
  updates, states = compiled(to_dtype(data, dtype))
  return Run(
    flat(updates, 1), np.asarray(states.weights, np.float64), states, updates
  )


class Stepper(NamedTuple):
  """One step of training with adam, compiled once.

  Attributes:
    init: Function from params to a state.
    step: Function `(params, state, row) -> (params, state)`, jitted.
    traces: Holds one entry for each time that `step` was traced.
  """

  init: Any
  step: Any
  traces: list


@functools.cache
def stepper(name: str) -> Stepper:
  """A training step without `active`; optax's adam needs standard promotion."""
  tx = optax.chain(build(name), optax.adam(0.1))
  traces = []

  @jax.jit
  def step(params, state, row):
    traces.append(None)
    updates, state = tx.update(row.grads, state, params, **row.extra)
    return optax.apply_updates(params, updates), state

  return Stepper(tx.init, step, traces)


def is_random(name: str) -> bool:
  """Whether the method draws random numbers: it keeps a key, uint32."""
  state = jax.eval_shape(lambda: build(name).init(params()))
  return any(leaf.dtype == jnp.uint32 for leaf in jax.tree.leaves(state))


def assert_close(actual, desired, size, rtol, message=""):
  """Entries differ by at most `rtol` of `size`, the size of what was summed."""
  error = np.abs(np.asarray(actual) - np.asarray(desired))
  bound = rtol * np.broadcast_to(size, error.shape)
  assert (error <= bound).all(), (
    f"{message}: off by {np.max(error):.3g}, allowed {np.max(bound):.3g}"
  )
