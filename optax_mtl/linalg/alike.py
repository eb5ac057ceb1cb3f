"""Many small arrays as a few larger ones.

XLA's CPU backend compiles code of its own for most operations on each array,
some 10 ms for a reduction, so that what is done leaf by leaf to a network of
200 leaves takes it seconds. Elementwise operations are the exception: those
that are the same on arrays of one shape share their code.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optax_mtl import _jax_internals

# A stack has at most so many entries: it stays in the cache, where a copy of
# it costs least, and memory is bounded.
_MOST = 1 << 19

# Copies of fewer bytes are written out as loads and stores, and what optimizes
# these takes time that grows with the square of their number: 200 of them
# compile for a second or more, 8 for 10 ms.
_WRITTEN_OUT = 1 << 10
_TOGETHER = 8


def stack(arrays: Sequence[jax.Array]) -> jax.Array:
  """Arrays of one kind behind one another, copied in two rounds if tiny.

  Args:
    arrays: Arrays of one shape and dtype, at least one.

  Returns:
    Array [n, *shape]; an array alone is that array.
  """
  if len(arrays) == 1:
    return arrays[0]
  tiny = arrays[0].size * arrays[0].dtype.itemsize < _WRITTEN_OUT
  if not tiny or len(arrays) <= _TOGETHER:
    return jnp.stack(arrays)
  parts = [
    jnp.stack(arrays[start : start + _TOGETHER])
    for start in range(0, len(arrays), _TOGETHER)
  ]
  # Two rounds are made one without the barrier.
  return jnp.concatenate(jax.lax.optimization_barrier(parts))


def kinds(arrays: Sequence[jax.Array]) -> list[list[int]]:
  """Which arrays are of one kind: of one shape, dtype and sharding.

  Args:
    arrays: Arrays of any shapes and dtypes.

  Returns:
    Lists of positions, in the order in which a kind first came. Shardings count
    where they are part of the type.

  Example:
    >>> import jax.numpy as jnp
    >>> kinds([jnp.ones((3, 4)), jnp.ones(4), jnp.ones((3, 4))])
    [[0, 2], [1]]
  """
  found: dict[object, list[int]] = {}
  for position, array in enumerate(arrays):
    kind = (array.shape, array.dtype, _jax_internals.type_of(array))
    found.setdefault(kind, []).append(position)
  return list(found.values())


def alike(arrays: Sequence[jax.Array], small: int) -> list[list[int]]:
  """Which arrays may be stacked: the positions of small ones of one kind.

  Args:
    arrays: Arrays of any shapes and dtypes.
    small: How many entries an array may have that is not left alone.

  Returns:
    Lists of positions, in the order in which a kind first came.

  Example:
    >>> import jax.numpy as jnp
    >>> alike([jnp.ones((3, 4)), jnp.ones(4), jnp.ones((3, 4))], small=100)
    [[0, 2], [1]]
  """
  groups: list[list[int]] = []
  for same in kinds(arrays):
    size = arrays[same[0]].size
    most = max(1, _MOST // max(1, size)) if size <= small else 1
    groups += [same[at : at + most] for at in range(0, len(same), most)]
  return groups
