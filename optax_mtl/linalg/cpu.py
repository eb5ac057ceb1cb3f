"""The Gram matrix on one CPU device, near the memory's limit.

XLA's product of a `[T, P]` array with its own transpose repacks one operand,
all of it, on one thread: for T=2 and P=1e7 some 75 ms where reading the data
takes 2. Everything is well once the operands sit in the cache, so:

* one loop runs over column blocks of all large leaves, each a few hundred
  kilobytes. One loop for all, a `switch` picking the leaf a block comes from,
  because a loop per leaf would cost 50 ms of compile time per leaf; only a few
  very large leaves have their own;
* up to `_PAIRS` tasks the block's rows are multiplied pair by pair into
  accumulators of a few thousand lanes, which vectorizes and is added up once
  at the end; above, the block's Gram matrix is a small dense product;
* leaves that fit in the cache are multiplied directly, and tiny ones of one
  width are first stacked, a bounded number of columns at a time.

The accumulators also make the result more accurate than one long sum. The
diagonal alone is summed in the same way, which writes no squares down.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from optax_mtl import _jax_internals
from optax_mtl._dtypes import solver_dtype
from optax_mtl.linalg import entries
from optax_mtl.linalg.alike import alike, stack

# Up to this many tasks the loop multiplies pairs of rows; a dense product's
# packing costs more than the arithmetic there.
_PAIRS = 4

# Blocks of pairs are added up over this many slices before they touch the
# accumulators, which saves loads and stores.
_SLICES = 4

# Leaves of this many blocks get a loop of their own, unless they are more than
# `_MAX_LOOPS`.
_OWN_LOOP = 16
_MAX_LOOPS = 4

# Leaves of at most this many entries stay in the cache while a plain product
# repacks them.
_DIRECT = 1 << 19

# Leaves of at most this many columns are stacked with others of their width:
# up to here that halves the time of 2 tasks and takes a quarter of that of 128.
# Of 10 tasks with 512 columns it doubles the time, and with 4096 it takes four
# times as long; to compile, a product of a stack takes as long as one of each.
_STACKED = 128

# For products with one gradient XLA compiles code for each leaf, and calls a
# library for two stacks: leaves of at most this many columns are stacked.
_STACKED_FOR_ONE = 4096

# Columns of a block whose squares are summed: of ten tasks it stays in the
# cache. They are summed in so many lanes, which vectorizes.
_SQUARED = 1 << 14
_LANES = 1 << 10


def block_columns(num_tasks: int, total: int) -> int:
  """Columns per block, a power of two, for so many columns in all."""
  if num_tasks <= 2:
    # Small blocks while everything stays in the cache, long reads beyond.
    return 1 << 12 if total <= 1 << 21 else 1 << 15
  return 1 << 13 if _PAIRS < num_tasks <= 16 else 1 << 14


def direct_columns(num_tasks: int) -> int:
  """Leaves of at most so many columns are multiplied without a loop."""
  return 1 << 12 if num_tasks <= 2 else _DIRECT // num_tasks


def real_parts(leaf: jax.Array) -> tuple[jax.Array, ...]:
  """The leaf, or its real and its imaginary part."""
  if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
    return (jnp.real(leaf), jnp.imag(leaf))
  return (leaf,)


def _product(block: jax.Array, other: jax.Array | None = None) -> jax.Array:
  """Inner products of the rows of `[T, columns]` or `[leaves, T, columns]`.

  With those of another block `[S, columns]` or `[leaves, S, columns]`, or its
  own.
  """
  axes = (1,) if block.ndim == 2 else (0, 2)
  return jax.lax.dot_general(
    block,
    block if other is None else other,
    ((axes, axes), ((), ())),
    precision="highest",
    preferred_element_type=solver_dtype(),
  )


#: Rows [T, P], and the function that makes them real.
_Source = tuple[jax.Array, Callable[[jax.Array], jax.Array]]
#: Which leaf a block comes from, and which block of it that is.
_Which = tuple[jax.Array, jax.Array]


def _read(
  source: _Source,
  row: int,
  column: jax.Array,
  shape: tuple[int, int],
) -> jax.Array:
  """A `shape` piece of a source from `row` and `column` on."""
  rows, part = source
  start = (jnp.int32(row), jnp.asarray(column, jnp.int32))
  piece = jax.lax.dynamic_slice(
    rows, start, shape, allow_negative_indices=False
  )
  return part(piece).astype(solver_dtype())


def _blocks(
  sources: Sequence[_Source], num_tasks: int, columns: int
) -> tuple[_Which, Callable[[_Which], jax.Array]]:
  """The numbers of all whole blocks of the sources, and how to read one."""
  counts = [rows.shape[1] // columns for rows, _ in sources]
  # Block b of the loop is block `number[b]` of the leaf `leaf[b]`.
  leaf = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
  number = np.concatenate([np.arange(n, dtype=np.int32) for n in counts])

  def reader(source: _Source) -> Callable[[jax.Array], jax.Array]:
    return lambda n: _read(source, 0, n * columns, (num_tasks, columns))

  def block(which: _Which) -> jax.Array:
    leaf, number = which
    readers = [reader(source) for source in sources]
    if len(readers) == 1:
      return readers[0](number)
    return jax.lax.switch(leaf, readers, number)

  return (jnp.asarray(leaf), jnp.asarray(number)), block


def _sum_over(
  sources: Sequence[_Source],
  num_tasks: int,
  columns: int,
  axes: frozenset[str],
  fun: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """The sum of a function of the sources' whole blocks, each [T, columns]."""
  numbers, block = _blocks(sources, num_tasks, columns)

  def add(total: jax.Array, which: _Which) -> tuple[jax.Array, None]:
    return total + fun(block(which)), None

  like = jax.ShapeDtypeStruct((num_tasks, columns), solver_dtype())
  zeros = jnp.zeros(jax.eval_shape(fun, like).shape, solver_dtype())
  return jax.lax.scan(add, _jax_internals.vary(zeros, axes), numbers)[0]


def _sum_of_pairs(
  sources: Sequence[_Source],
  num_tasks: int,
  columns: int,
  axes: frozenset[str],
) -> jax.Array:
  """Gram matrix of the sources' whole blocks, pair by pair, for few tasks."""
  numbers, block = _blocks(sources, num_tasks, columns)
  pairs = [(i, j) for i in range(num_tasks) for j in range(i + 1)]
  lanes = columns // _SLICES
  dtype = solver_dtype()

  def multiply_pairs(
    total: tuple[jax.Array, ...], which: _Which
  ) -> tuple[tuple[jax.Array, ...], None]:
    whole = None if len(sources) == 1 else block(which)

    def lane(i: int, k: int) -> jax.Array:
      if whole is not None:
        return whole[i : i + 1, k * lanes : (k + 1) * lanes]
      # Rows read one by one fuse into the products; rows cut out of a block
      # that is itself read in place are a factor of 4 slower.
      column = which[1] * columns + k * lanes
      return _read(sources[0], i, column, (1, lanes))

    sums: list[jax.Array] = []
    for old, (i, j) in zip(total, pairs, strict=True):
      terms = [lane(i, k) * lane(j, k) for k in range(_SLICES)]
      sums.append(old + functools.reduce(jnp.add, terms))
    return tuple(sums), None

  zeros = tuple(
    _jax_internals.vary(jnp.zeros((1, lanes), dtype), axes) for _ in pairs
  )
  total, _ = jax.lax.scan(multiply_pairs, zeros, numbers)
  result = _jax_internals.vary(jnp.zeros((num_tasks, num_tasks), dtype), axes)
  for (i, j), entry in zip(pairs, total, strict=True):
    result = result.at[i, j].set(jnp.sum(entry))
  return result


def _groups(large: Sequence[_Source], columns: int) -> list[list[_Source]]:
  """Which sources share a loop.

  A few very large leaves are worth a loop and its compile time each: it reads
  them in place, where a switch between leaves copies the block.
  """
  own = [x for x in large if x[0].shape[1] >= _OWN_LOOP * columns]
  if len(own) > _MAX_LOOPS:
    own = []
  rest = [x for x in large if not any(x is y for y in own)]
  return [[x] for x in own] + ([rest] if rest else [])


def _sources(rows: jax.Array) -> list[_Source]:
  """The rows as real sources: one, or two of complex rows."""
  if jnp.issubdtype(rows.dtype, jnp.complexfloating):
    return [(rows, jnp.real), (rows, jnp.imag)]
  return [(rows, lambda x: x)]


def _flat(
  leaves: Sequence[jax.Array], num_tasks: int
) -> tuple[list[jax.Array], frozenset[str]]:
  """The leaves as rows [T, P] over the same axes of a mesh, and these axes."""
  axes = frozenset().union(*map(_jax_internals.varying_axes, leaves))
  # Free: on one device the leaf is contiguous.
  rows = [leaf.reshape(num_tasks, leaf.size // num_tasks) for leaf in leaves]
  return [_jax_internals.vary(x, axes) for x in rows], axes


def gram(*leaves: jax.Array, num_tasks: int) -> jax.Array:
  """Lower triangle (at least) of the Gram matrix, leaves whole on one device.

  Args:
    *leaves: Arrays `[T, *shape]`, floating or complex.
    num_tasks: The number of tasks T.

  Returns:
    `[T, T]` of `solver_dtype()`; entries above the diagonal are not to be
    used.
  """
  flat, axes = _flat(leaves, num_tasks)
  columns = block_columns(num_tasks, sum(rows.shape[1] for rows in flat))
  direct = direct_columns(num_tasks)
  zeros = jnp.zeros((num_tasks, num_tasks), solver_dtype())
  total = _jax_internals.vary(zeros, axes)
  large: list[_Source] = []
  rests: list[jax.Array] = []
  for rows in flat:
    size = rows.shape[1]
    whole = size // columns * columns if size > direct else 0
    if whole:
      large += _sources(rows)
    if whole == size:
      continue
    rests += real_parts(rows[:, whole:])
  for group in alike(rests, num_tasks * _STACKED):
    product = _product(stack([rests[at] for at in group]))
    # As in `stacked.py`: quicker to trace than `+`.
    total = jax.lax.add(total, product)
  if num_tasks > _PAIRS:
    if large:
      total += _sum_over(large, num_tasks, columns, axes, _product)
    return total
  for sources in _groups(large, columns):
    total += _sum_of_pairs(sources, num_tasks, columns, axes)
  return total


def _row_sums(squares: jax.Array) -> jax.Array:
  """Sums `[T]` of squares `[T, columns]`."""
  return jnp.sum(squares, axis=1)


def _squares_in_lanes(block: jax.Array) -> jax.Array:
  """Sums of squares `[T, lanes]` of a block `[T, columns]`."""
  num_tasks, columns = block.shape
  lanes = block.reshape(num_tasks, columns // _LANES, _LANES)
  return jnp.sum(jnp.square(lanes), axis=1)


def squares(*leaves: jax.Array, num_tasks: int) -> jax.Array:
  """Sums of squares of each task's entries, leaves whole on one device.

  Args:
    *leaves: Arrays `[T, *shape]`, floating or complex.
    num_tasks: The number of tasks T.

  Returns:
    `[T]` of `solver_dtype()`.
  """
  flat, axes = _flat(leaves, num_tasks)
  total = _jax_internals.vary(jnp.zeros((num_tasks,), solver_dtype()), axes)
  large: list[_Source] = []
  rests: list[jax.Array] = []
  for rows in flat:
    whole = rows.shape[1] // _SQUARED * _SQUARED
    if whole:
      large += _sources(rows)
    if whole < rows.shape[1]:
      for rest in real_parts(rows[:, whole:]):
        rests.append(rest.astype(solver_dtype()))
  total = entries.joined(jnp.square, jnp.add, _row_sums, total, [rests])
  for sources in _groups(large, _SQUARED):
    lanes = _sum_over(sources, num_tasks, _SQUARED, axes, _squares_in_lanes)
    total = total + jnp.sum(lanes, axis=1)
  return total


def cross_gram(
  leaves: Sequence[jax.Array],
  others: Sequence[jax.Array],
  num_tasks: int,
  columns: int,
) -> jax.Array:
  """Inner products of the gradients of two trees, whole on one device.

  Args:
    leaves: Arrays `[T, *shape]`, floating or complex.
    others: Arrays `[S, *shape]` of the same shapes.
    num_tasks: The number T.
    columns: The number S.

  Returns:
    `[T, S]` of `solver_dtype()`.
  """
  dtype = solver_dtype()
  left, right = (
    [part.astype(dtype) for x in flat for part in real_parts(x)]
    for flat, _ in (_flat(leaves, num_tasks), _flat(others, columns))
  )
  total = jnp.zeros((num_tasks, columns), dtype)
  most = _STACKED_FOR_ONE if min(num_tasks, columns) == 1 else _STACKED
  for group in alike(left, num_tasks * most):
    pair = (stack([side[at] for at in group]) for side in (left, right))
    total = jax.lax.add(total, _product(*pair))
  return total
