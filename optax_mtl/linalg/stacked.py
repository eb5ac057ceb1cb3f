"""Gram matrix, weighted combination and finiteness of stacked task gradients.

The three operations every method is made of, on trees whose leaves are
`[T, *shape]`, the task first. None of them makes a `[T, P]` array of all
parameters, and none copies a leaf:

* sharded leaves, and GPU and TPU, get one `dot_general` per leaf over all
  non-task axes, which the partitioner turns into local products and one
  all-reduce of a `[T, T]` matrix (a reshape to `[T, -1]` would gather the
  leaf);
* on one CPU device that `dot_general` is 5 to 30 times slower than reading the
  data, so there a loop over cache-sized blocks takes its place
  (`cpu.py`).

Which of the two applies is not known while tracing. It is decided when the
program is lowered, the first point at which both the platform and the number
of devices are certain. Each takes that decision in the same way: hence they are
one module, a few lines above 400.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _jax_internals
from optax_mtl._dtypes import solver_dtype
from optax_mtl.linalg import cpu, entries
from optax_mtl.linalg.rows import choose

# Below this many entries in the whole tree a plain product takes microseconds
# and the second branch is not worth its compile time; of more leaves than this
# the plain products are what compiles for long.
_SMALL_TREE = 1 << 16
_FEW_LEAVES = 16

# Terms of a weighted sum that are written out in one fusion. More compile
# slowly.
_UNROLL = 16

# Columns of a leaf whose weighted sum is not worth code of its own: for 2 or 3
# tasks a call takes no longer up to here and twice as long at 16,384; for 10 it
# takes 4 microseconds more, and its code takes 10 milliseconds to compile.
_COMBINED_BY_CALL = 4096

# From so many tasks on a call is the faster one for any leaf: 0.9 to 2 times as
# fast with 48 tasks, 1.1 to 5 with 64, up to 10 with 128. XLA's own product
# with a vector reads an entry of every task in turn, and where a leaf has a
# power of two of columns all of these want the same places of the cache. With
# 17 to 32 tasks a call takes up to 1.4 times as long.
_BY_CALL_FROM = 40


def _inexact(leaf: Any) -> jax.Array:
  """The leaf as an array, integers as `solver_dtype()`."""
  leaf = jnp.asarray(leaf)
  if jnp.issubdtype(leaf.dtype, jnp.inexact):
    return leaf
  return leaf.astype(solver_dtype())


def _at_least_float32(dtype: Any) -> Any:
  """The dtype that sums of `dtype` are accumulated in."""
  return jnp.dtype("float32") if jnp.finfo(dtype).bits < 32 else dtype


def _replicated(leaves: Sequence[jax.Array]) -> dict[str, Any]:
  """Keyword arguments for products [T, T] of leaves whose types are sharded."""
  if leaves and _jax_internals.has_explicit_mesh(leaves):
    return {"out_sharding": jax.sharding.PartitionSpec(None, None)}
  return {}


def _by_leaf(leaves: Sequence[jax.Array]) -> bool:
  """Whether a product for each leaf is best, or all there is, anywhere."""
  small = sum(leaf.size for leaf in leaves) <= _SMALL_TREE
  few = len(leaves) <= _FEW_LEAVES
  return (small and few) or _jax_internals.has_explicit_mesh(leaves)


def _plain_gram(*leaves: jax.Array, num_tasks: int) -> jax.Array:
  """One `dot_general` per leaf: partitions well, and is best off the CPU."""
  total = jnp.zeros((num_tasks, num_tasks), solver_dtype())
  kwargs = _replicated(leaves)
  for leaf in leaves:
    axes = tuple(range(1, leaf.ndim))
    for part in cpu.real_parts(leaf):
      product = jax.lax.dot_general(
        part,
        part,
        ((axes, axes), ((), ())),
        # The GPU's default for float32 is TF32, wrong in the third digit.
        precision="highest",
        preferred_element_type=solver_dtype(),
        **kwargs,
      )
      # `+` takes three times as long to trace, which hundreds of leaves feel.
      total = jax.lax.add(total, product)
  return total


@functools.partial(jax.jit, static_argnames="num_tasks", inline=False)
def _gram(leaves: list[jax.Array], num_tasks: int) -> jax.Array:
  plain = functools.partial(_plain_gram, num_tasks=num_tasks)
  if _by_leaf(leaves):
    total = plain(*leaves)
  else:

    def on_cpu(*leaves: jax.Array) -> jax.Array:
      local = functools.partial(cpu.gram, num_tasks=num_tasks)
      return _jax_internals.if_local(local, plain, *leaves)

    total = jax.lax.platform_dependent(*leaves, cpu=on_cpu, default=plain)
  # One triangle decides for both: products of equal rows may be summed in
  # another order above the diagonal than below it.
  return jnp.tril(total) + jnp.tril(total, -1).T


def gram(tree: Any, num_tasks: int) -> jax.Array:
  """Inner products of the tasks' gradients.

  Args:
    tree: A pytree with leaves `[T, *shape]` of any float or complex dtype. A
      complex leaf contributes the real part of `<g_i, conj(g_j)>`.
    num_tasks: The number of tasks T.

  Returns:
    `[T, T]` of `solver_dtype()`, exactly symmetric; zeros for an empty tree.
    Products are summed in that dtype whatever the leaves' dtype is. A NaN in
    row i is seen in row and column i only.

  Example:
    >>> import jax.numpy as jnp
    >>> grads = {"w": jnp.array([[3.0, 0.0], [1.0, 2.0]]), "b": jnp.ones((2,))}
    >>> gram(grads, 2)
    Array([[10.,  4.],
           [ 4.,  6.]], dtype=float32)
  """
  return _gram([_inexact(leaf) for leaf in jax.tree.leaves(tree)], num_tasks)


def _plain_squares(*leaves: jax.Array, num_tasks: int) -> jax.Array:
  """Sums of squares of each task's entries, a reduction per leaf."""
  total = jnp.zeros((num_tasks,), solver_dtype())
  for leaf in leaves:
    for part in cpu.real_parts(leaf):
      squares = jnp.square(part.astype(solver_dtype()))
      total = total + jnp.sum(squares, axis=tuple(range(1, leaf.ndim)))
  return total


@functools.partial(jax.jit, static_argnames="num_tasks", inline=False)
def _squared_norms(leaves: list[jax.Array], num_tasks: int) -> jax.Array:
  plain = functools.partial(_plain_squares, num_tasks=num_tasks)
  if _by_leaf(leaves):
    return plain(*leaves)

  def on_cpu(*leaves: jax.Array) -> jax.Array:
    local = functools.partial(cpu.squares, num_tasks=num_tasks)
    return _jax_internals.if_local(local, plain, *leaves)

  return jax.lax.platform_dependent(*leaves, cpu=on_cpu, default=plain)


def squared_norms(tree: Any, num_tasks: int) -> jax.Array:
  """The diagonal of the Gram matrix, at the cost of reading the data once.

  Args:
    tree: A pytree with leaves `[T, *shape]` of any float or complex dtype.
    num_tasks: The number of tasks T.

  Returns:
    `[T]` of `solver_dtype()`, summed in that dtype; zeros for an empty tree.

  Example:
    >>> import jax.numpy as jnp
    >>> grads = {"w": jnp.array([[3.0, 0.0], [1.0, 2.0]]), "b": jnp.ones((2,))}
    >>> squared_norms(grads, 2)
    Array([10.,  6.], dtype=float32)
  """
  leaves = [_inexact(leaf) for leaf in jax.tree.leaves(tree)]
  return _squared_norms(leaves, num_tasks)


@jax.jit
def scaled(leaf: jax.Array, factor: jax.Array) -> jax.Array:
  """`leaf * factor`, computed in float32 at least, in the leaf's dtype."""
  with jax.numpy_dtype_promotion("standard"):
    return (leaf * factor).astype(leaf.dtype)


def _plain_cross_gram(
  leaves: Sequence[jax.Array],
  others: Sequence[jax.Array],
  num_tasks: int,
  columns: int,
) -> jax.Array:
  """One `dot_general` per pair of leaves."""
  total = jnp.zeros((num_tasks, columns), solver_dtype())
  kwargs = _replicated([*leaves, *others])
  for left, right in zip(leaves, others, strict=True):
    axes = tuple(range(1, left.ndim))
    pairs = zip(cpu.real_parts(left), cpu.real_parts(right), strict=True)
    for left, right in pairs:
      product = jax.lax.dot_general(
        left.astype(solver_dtype()),
        right.astype(solver_dtype()),
        ((axes, axes), ((), ())),
        precision="highest",
        **kwargs,
      )
      total = jax.lax.add(total, product)
  return total


@functools.partial(jax.jit, static_argnames=("num_tasks", "columns"))
def _cross_gram(
  leaves: list[jax.Array],
  others: list[jax.Array],
  num_tasks: int,
  columns: int,
) -> jax.Array:
  sizes = {"num_tasks": num_tasks, "columns": columns}
  plain = functools.partial(_plain_cross_gram, **sizes)
  # Large leaves are multiplied one by one either way.
  if len(leaves) <= _FEW_LEAVES or _by_leaf([*leaves, *others]):
    return plain(leaves, others)

  def on_cpu(leaves: list[jax.Array], others: list[jax.Array]) -> jax.Array:
    local = functools.partial(cpu.cross_gram, **sizes)
    return _jax_internals.if_local(local, plain, leaves, others)

  return jax.lax.platform_dependent(leaves, others, cpu=on_cpu, default=plain)


def cross_gram(tree: Any, other: Any, num_tasks: int) -> jax.Array:
  """Inner products of the gradients of two trees.

  Args:
    tree: A pytree with leaves `[T, *shape]`.
    other: One of the same structure, with leaves `[S, *shape]`.
    num_tasks: The number of tasks T.

  Returns:
    `[T, S]` of `solver_dtype()`, entry [t, s] the real part of
    `<tree_t, conj(other_s)>`; zeros [T, T] for empty trees.

  Example:
    >>> import jax.numpy as jnp
    >>> cross_gram(jnp.array([[3.0, 0.0], [1.0, 2.0]]), jnp.eye(2), 2)
    Array([[3., 0.],
           [1., 2.]], dtype=float32)
  """
  leaves = [_inexact(leaf) for leaf in jax.tree.leaves(tree)]
  others = [_inexact(leaf) for leaf in jax.tree.leaves(other)]
  columns = others[0].shape[0] if others else num_tasks
  return _cross_gram(leaves, others, num_tasks=num_tasks, columns=columns)


def project(tree: Any, gradient: Any, num_tasks: int) -> jax.Array:
  """Inner products of the tasks' gradients with one gradient.

  Args:
    tree: A pytree with leaves `[T, *shape]`.
    gradient: One of the same structure, with leaves `[*shape]`.
    num_tasks: The number of tasks T.

  Returns:
    `[T]` of `solver_dtype()`.
  """
  row = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], gradient)
  return cross_gram(tree, row, num_tasks)[:, 0]


# Jitted so that leaves of one shape are traced and lowered once.
@jax.jit
def _combine_leaf(
  leaf: jax.Array, weights: jax.Array, keep: jax.Array | None
) -> jax.Array:
  """`sum_t weights[t] * leaf[t]` over the kept rows, in the leaf's dtype."""
  weights = weights.astype(_at_least_float32(leaf.dtype))
  num_tasks = leaf.shape[0]
  tiny = leaf.size <= num_tasks * _COMBINED_BY_CALL
  small = leaf.size <= _SMALL_TREE
  plain = keep is None and leaf.dtype == weights.dtype
  if num_tasks > _UNROLL and (small or plain):
    return _combine_by_product(leaf, weights, keep, tiny)
  if tiny:
    # One fusion for each of hundreds of tiny leaves compiles for seconds; off
    # the CPU fusions are merged, and calls are not.
    return jax.lax.platform_dependent(
      leaf,
      weights,
      cpu=lambda leaf, weights: _combine_by_product(leaf, weights, keep, True),
      default=lambda leaf, weights: _combine_by_terms(leaf, weights, keep),
    )
  return _combine_by_terms(leaf, weights, keep)


def _combine_by_product(
  leaf: jax.Array, weights: jax.Array, keep: jax.Array | None, tiny: bool
) -> jax.Array:
  """A product with a vector.

  On CPU it writes the result twice where the leaf has more than two axes, which
  is little beside reading many tasks, or beside compiling.
  """
  rows = leaf.astype(weights.dtype)
  if keep is not None:
    rows = choose(keep, rows)
  # XLA compiles code for every product with a vector, but calls a library for
  # one with a matrix: two equal rows save most of the compile time where leaves
  # are tiny, and many.
  by_call = tiny or leaf.shape[0] >= _BY_CALL_FROM
  left = jnp.stack([weights, weights]) if by_call else weights[None]
  return jax.lax.dot_general(
    left,
    rows,
    (((1,), (0,)), ((), ())),
    precision="highest",
    preferred_element_type=weights.dtype,
  )[0].astype(leaf.dtype)


def _combine_by_terms(
  leaf: jax.Array, weights: jax.Array, keep: jax.Array | None
) -> jax.Array:
  """The sum written out: one fusion, which selects as it reads each row once.

  XLA's CPU backend takes up to 1000 times as long to reduce over the task axis
  of a leaf with three axes.
  """
  num_tasks = leaf.shape[0]

  def term(t: int) -> jax.Array:
    row = leaf[t].astype(weights.dtype)
    if keep is not None:
      # By selection: 0 * nan is nan.
      row = jnp.where(keep[t], row, jnp.zeros((), row.dtype))
    return row * weights[t]

  total = term(0)
  for start in range(0, num_tasks, _UNROLL):
    stop = min(start + _UNROLL, num_tasks)
    for t in range(max(start, 1), stop):
      total = total + term(t)
    if stop < num_tasks:
      # A fusion of several dozen terms compiles slowly and runs no faster.
      total = jax.lax.optimization_barrier(total)
  return total.astype(leaf.dtype)


def combine(
  tree: Any, weights: jax.Array, keep: jax.Array | None = None
) -> Any:
  """Weighted sum of the tasks' gradients.

  Args:
    tree: A pytree with leaves `[T, *shape]`.
    weights: `[T]`, real.
    keep: `[T]` bool, or None for all. Rows where it is False take no part:
      they are left out by selection, so a NaN in one of them stays there.

  Returns:
    The tree with leaves `[*shape]`, each in its own leaf's dtype, summed in
    float32 at least.

  Example:
    >>> import jax.numpy as jnp
    >>> grads = {"w": jnp.array([[3.0, 0.0], [1.0, 2.0]])}
    >>> combine(grads, jnp.array([0.5, 0.5]))
    {'w': Array([2., 1.], dtype=float32)}
  """
  weights = jnp.asarray(weights)
  keep = None if keep is None else jnp.asarray(keep)
  return jax.tree.map(
    lambda leaf: _combine_leaf(_inexact(leaf), weights, keep), tree
  )


def finite(tree: Any, num_tasks: int) -> jax.Array:
  """Which tasks' gradients are finite throughout.

  Args:
    tree: A pytree with leaves `[T, *shape]`.
    num_tasks: The number of tasks T.

  Returns:
    `[T]` bool; all True for an empty tree.

  Example:
    >>> import jax.numpy as jnp
    >>> finite({"w": jnp.array([[3.0, jnp.nan], [1.0, 2.0]])}, 2)
    Array([False,  True], dtype=bool)
  """
  leaves = [_inexact(leaf) for leaf in jax.tree.leaves(tree)]
  return entries.over_entries(
    jnp.isfinite,
    jnp.logical_and,
    _all_of_rows,
    jnp.ones((num_tasks,), jnp.bool_),
    [leaves],
  )


def _all_of_rows(values: jax.Array) -> jax.Array:
  """Which rows `[T, *shape]` are True throughout, [T]."""
  return jnp.all(values, axis=tuple(range(1, values.ndim)))
