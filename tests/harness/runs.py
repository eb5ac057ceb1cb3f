"""Compiled runs over several steps, and one step of training."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from harness.inputs import Data, cases, extra_of, flat, params, to_dtype
from harness.methods import TASKS, build


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
