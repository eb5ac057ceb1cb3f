"""What update rules do entry by entry: over the tasks, on real numbers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from optax_mtl.linalg.cpu import real_parts

_Carry = TypeVar("_Carry")

# Tasks that are written out: then a whole rule is one fusion, which reads each
# row once, and compiles in tens of milliseconds. More are taken in a loop.
UNROLLED = 16


def over_tasks(
  function: Callable[[_Carry, Any], _Carry], first: _Carry, rows: Any
) -> _Carry:
  """A function of what there is so far and the next task's rows.

  Reductions over the tasks' axis are slow on CPUs, where the leaf has further
  axes; this is elementwise.

  Args:
    function: Function `(carry, row) -> carry`.
    first: What there is before the first task.
    rows: Tree of arrays [T, ...].

  Returns:
    What there is after the last.
  """
  num_tasks = jax.tree.leaves(rows)[0].shape[0]
  if num_tasks <= UNROLLED:
    each = [jax.tree.map(lambda x, t=t: x[t], rows) for t in range(num_tasks)]
    return functools.reduce(function, each, first)
  return jax.lax.scan(lambda c, row: (function(c, row), None), first, rows)[0]


def split(leaves: Sequence[jax.Array]) -> list[jax.Array]:
  """The leaves as real arrays, complex ones as two: their entries are two."""
  return [part for leaf in leaves for part in real_parts(leaf)]


def joined(
  parts: Sequence[jax.Array], like: Sequence[jax.Array]
) -> list[jax.Array]:
  """What `split` took apart; `like` says which leaves are complex."""
  left = iter(parts)
  return [
    jax.lax.complex(next(left), next(left))
    if jax.numpy.iscomplexobj(leaf)
    else next(left)
    for leaf in like
  ]
