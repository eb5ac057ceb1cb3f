"""One step of a method on many gradient matrices at once, compiled once.

Compiling is what these tests cost. So a method is compiled once for each number
of tasks and each choice among its algorithms; all numbers that it takes are
traced, with a value for each matrix.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optax_mtl
from optax_mtl._dtypes import solver_dtype

#: What `run` fills its matrices up to, to compile once: [COUNT, TASKS, WIDTH].
COUNT, TASKS, WIDTH = 64, 3, 7
#: In float64: the solvers stop at 16 to 800 roundings (1.8e-13), and the Gram
#: matrices of random gradients have condition numbers up to about 1e4.
RTOL = 1e-9
#: Two gradients with an angle of 135°, and three orthogonal ones.
CONFLICT = [[1, 0], [-1, 1]]
ORTHOGONAL = [[1, 0, 0], [0, 2, 0], [0, 0, 3]]

#: What the numbers are that are always traced, where a test gives no other.
_TRACED = {
  "pcgrad": {"seed": 0},
  "gradvac": {"seed": 0, "initial_cosine": 0.0, "beta": 0.01},
  "cagrad": {"c": 0.5, "rescale": 1},
  # `inf` is no limit.
  "nash_mtl": {"max_norm": 1.0},
  "fairgrad": {"alpha": 1.0, "max_norm": 1.0},
  "pcd": {"tau": 0.02, "primary": 0},
  "conic_grad": {"c": 0.75},
  "grad_ops": {"alpha": 0.0},
}
# Several algorithms that share nearly all operations: cheaper without jit,
# where each operation is compiled once for all of them.
_OPERATION_BY_OPERATION = ("conflict_free",)
_EQUAL_SHARES = ("upgrad", "dual_proj", "aligned_mtl", "cagrad")
# Where one of these is given the program is another, the same for each value.
_GIVEN = ("cap",)


class Found(NamedTuple):
  """What a method did with N matrices.

  Attributes:
    updates: Array [N, P], float64.
    weights: Array [N, T], float64.
    memory: What the rule remembers, leaves [N, ...].
  """

  updates: np.ndarray
  weights: np.ndarray
  memory: Any


@functools.cache
def _compiled(name, num_tasks, options, traced, dtype):
  def one(grads, values, extra):
    tx = optax_mtl.METHODS[name](
      num_tasks, **dict(options), **dict(zip(traced, values, strict=True))
    )
    updates, state = tx.update(grads, tx.init(grads[0]), **extra)
    return updates, state.weights, state.memory

  if name in _OPERATION_BY_OPERATION and dtype == "float64":
    return jax.vmap(one)
  return jax.jit(jax.vmap(one))


def run_batch(
  name, grads, *, dtype="float32", traced=None, extra=None, **options
) -> Found:
  """One step from a fresh state on each matrix.

  Args:
    name: The method's.
    grads: Array [N, T, P].
    dtype: "float32", or "float64" in x64 mode.
    traced: Name -> array [N, ...], arguments with a value for each matrix.
    extra: Name -> array [N, ...], extra args of the update.
    **options: Other arguments of the method, hashable.

  Returns:
    What it did.
  """

  def cast(value):
    value = np.asarray(value)
    keep = np.issubdtype(value.dtype, np.integer) or value.dtype == bool
    return value if keep else jnp.asarray(value, dtype)

  traced = {} if traced is None else traced
  extra = {} if extra is None else extra
  with jax.enable_x64(dtype == "float64"):
    compiled = _compiled(
      name, grads.shape[1], tuple(sorted(options.items())), tuple(traced), dtype
    )
    updates, weights, memory = compiled(
      jnp.asarray(grads, dtype),
      tuple(cast(v) for v in traced.values()),
      {k: cast(v) for k, v in extra.items()},
    )
  return Found(
    np.asarray(updates, np.float64), np.asarray(weights, np.float64), memory
  )


def run(name, grads, active=None, losses=None, **options) -> Found:
  """The same in float64, on up to `COUNT` matrices.

  Up to `TASKS` tasks all of them are one program: matrices are repeated, and
  tasks that are missing are absent ones, with gradients and losses that must
  not matter.

  Args:
    name: The method's.
    grads: Array [N, T, P], P up to `WIDTH`.
    active: Array [T] or [N, T] of bool, or None for all.
    losses: Array [N, T], or None.
    **options: The method's arguments; those that are traced may have a first
      axis of length N.

  Returns:
    What it did.
  """
  grads = np.asarray(grads, float)
  count, num_tasks, num_params = grads.shape
  rows = np.arange(COUNT) % count

  def fill(values, absent):
    """[COUNT, T, ...] to [COUNT, TASKS, ...]."""
    shape = (COUNT, max(TASKS - num_tasks, 0), *values.shape[2:])
    return np.concatenate([values, np.full(shape, absent)], axis=1)

  padded = np.zeros((COUNT, num_tasks, WIDTH))
  padded[:, :, :num_params] = grads[rows]
  # Far larger than what takes part, so that a trace of it shows.
  padded = fill(padded, 1e6 * np.abs(grads).max())
  active = np.ones(num_tasks, bool) if active is None else np.asarray(active)
  active = active[rows] if active.ndim > 1 else np.tile(active, (COUNT, 1))
  extra = {"active": fill(active, False)}
  if losses is not None:
    extra["losses"] = fill(np.asarray(losses, float)[rows], 1e6)
  numbers = dict(_TRACED.get(name, {}))
  numbers |= {k: options[k] for k in _GIVEN if k in options}
  if name in _EQUAL_SHARES:
    numbers["preference"] = np.full(num_tasks, 1 / num_tasks)
  if name == "fairgrad":
    numbers["preference"] = np.ones(num_tasks)
  static = {k: v for k, v in options.items() if k not in numbers}
  traced = {}
  for key, value in numbers.items():
    value = np.asarray(options.get(key, value))
    if key == "preference":
      value = value[rows] if value.ndim > 1 else np.tile(value, (COUNT, 1))
      traced[key] = fill(value, 0.0)
    else:
      value = value[rows] if value.ndim else value
      traced[key] = np.broadcast_to(value, (COUNT,))
  found = run_batch(
    name, padded, dtype="float64", traced=traced, extra=extra, **static
  )
  assert not np.nan_to_num(found.updates[:, num_params:]).any()
  assert (found.weights[:, num_tasks:] == 0).all()
  return Found(
    found.updates[:count, :num_params],
    found.weights[:count, :num_tasks],
    jax.tree.map(lambda leaf: leaf[:count], found.memory),
  )


@functools.cache
def gradients(num_tasks):
  """Random gradients [COUNT, T, WIDTH], conflicting as often as not."""
  rng = np.random.default_rng(num_tasks)
  return rng.standard_normal((COUNT, num_tasks, WIDTH))


def lengths(rows):
  """Lengths of the last axis, which stays."""
  return np.linalg.norm(rows, axis=-1, keepdims=True)


def assert_same(actual, desired, rtol=RTOL):
  """Row by row, relative to the row's length."""
  error = np.linalg.norm(actual - desired, axis=-1)
  size = np.linalg.norm(desired, axis=-1)
  assert (error <= rtol * size).all(), np.max(error / size)


def assert_parallel(actual, desired, rtol=RTOL):
  """The same, of the rows' directions."""
  assert_same(actual / lengths(actual), desired / lengths(desired), rtol)


def assert_oracles(name, oracles):
  """Updates worked out by hand, from the method's definition.

  Args:
    name: The method's.
    oracles: Sequence of (options, gradients [T, P], update [P]).
  """
  for options, grads, expected in oracles:
    found = run(name, [grads], **options)
    message = f"{options} {grads}"
    expected = np.asarray(expected, float)
    size = np.linalg.norm(expected) + (0 if np.any(expected) else 1)
    error = np.linalg.norm(found.updates[0] - expected)
    assert error <= 1e-12 * size, (message, found.updates[0])


def step(tx, grads, state=None, **extra):
  """One update of an array of gradients [T, P]; returns updates and state."""
  grads = jnp.asarray(grads, solver_dtype())
  params = jnp.zeros(grads.shape[1], solver_dtype())
  state = tx.init(params) if state is None else state
  extra = {
    k: v if isinstance(v, dict) else jnp.asarray(v) for k, v in extra.items()
  }
  return tx.update(grads, state, params, **extra)


def repeat(tx, grads, steps, **extra):
  """The state after many equal updates."""
  grads = jnp.asarray(grads, solver_dtype())
  extra = {k: jnp.asarray(v, solver_dtype()) for k, v in extra.items()}

  def one(state, _):
    return tx.update(grads, state, **extra)[1], None

  state = tx.init(jnp.zeros(grads.shape[1], solver_dtype()))
  return jax.jit(lambda s: jax.lax.scan(one, s, length=steps)[0])(state)


def train(tx, grads, **extra):
  """Updates [N, P] and states of N steps, one compilation.

  Args:
    tx: The transformation.
    grads: Array [T, P], the same in every step.
    **extra: Arrays [N, ...], extra args of each step.

  Returns:
    The updates and the states, leaves [N, ...].
  """
  grads = jnp.asarray(grads, solver_dtype())

  def one(state, row):
    updates, state = tx.update(grads, state, **row)
    return state, (updates, state)

  def cast(value):
    value = jnp.asarray(value)
    return value if value.dtype == bool else value.astype(solver_dtype())

  extra = {k: cast(v) for k, v in extra.items()}
  state = tx.init(jnp.zeros(grads.shape[1], solver_dtype()))
  return jax.jit(lambda s: jax.lax.scan(one, s, extra)[1])(state)


def together(txs, grads, **extra):
  """Runs of several transformations, one compilation for all.

  Args:
    txs: Name -> transformation.
    grads: Tree with leaves [N, T, *param.shape], the gradients of each step.
    **extra: Arrays [N, ...], extra args of each step.

  Returns:
    Name -> updates and states, leaves [N, ...].
  """
  grads = jax.tree.map(lambda leaf: jnp.asarray(leaf, solver_dtype()), grads)
  params = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0, 0]), grads)
  extra = {k: jnp.asarray(v) for k, v in extra.items()}

  def run(tx, data):
    def one(state, row):
      updates, state = tx.update(row[0], state, params, **row[1])
      return state, (updates, state)

    return jax.lax.scan(one, tx.init(params), data)[1]

  whole = jax.jit(
    lambda data: {name: run(tx, data) for name, tx in txs.items()}
  )
  return whole((grads, extra))


def walk(tx, grads, **extra):
  """As `train`, operation by operation.

  Cheaper for a few steps of several small methods: what is compiled are their
  operations, which they share.
  """
  grads = jnp.asarray(grads, solver_dtype())
  state, outputs = tx.init(jnp.zeros(grads.shape[1], solver_dtype())), []
  for i in range(len(next(iter(extra.values())))):
    row = {k: jnp.asarray(v[i]) for k, v in extra.items()}
    updates, state = tx.update(grads, state, **row)
    outputs.append((updates, state))
  return jax.tree.map(lambda *leaves: np.stack(leaves), *outputs)


def close(actual, desired, rtol=1e-6, atol=0.0):
  """Entry by entry, in float64."""
  np.testing.assert_allclose(
    np.asarray(actual, np.float64), desired, rtol=rtol, atol=atol
  )
