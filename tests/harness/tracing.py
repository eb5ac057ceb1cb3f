"""Shapes, dtypes and leaves of states, mostly without compiling."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from harness.inputs import Data, extra_of, params
from harness.methods import NUM_TASKS, build


def traced(tx: Any, row: Data, params: Any, **changes: Any) -> Any:
  """Shapes and dtypes of a first state, an update and the next state."""
  # A lambda of its own each time: `eval_shape` remembers functions.
  state = jax.eval_shape(lambda: tx.init(params))
  extra = extra_of(row) | changes
  updates, new_state = jax.eval_shape(
    lambda g, s, p, e: tx.update(g, s, p, **e), row.grads, state, params, extra
  )
  return state, updates, new_state


def as_text(jaxpr: Any) -> str:
  """A program's text, the same for each trace: a `debug_check` has a number."""
  return re.sub(r"\b\d+:i32\[\] -1", "N:i32[] -1", str(jaxpr))


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


def count(jaxpr: Any, primitives: set[str]) -> int:
  """How often primitives run: the bodies of loops count once per iteration."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in primitives:
      total += 1
    factor = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    for value in eqn.params.values():
      for inner in value if isinstance(value, (list, tuple)) else (value,):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          total += factor * count(inner, primitives)
  return total


def products(function: Any, *args: Any) -> int:
  """Dots in the program, after what is unused was dropped from it."""
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return count(jaxpr, {"dot_general"})
