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
  (`_linalg_cpu.py`).

Which of the two applies is not known while tracing. It is decided when the
program is lowered, the first point at which both the platform and the number
of devices are certain.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from optax_mtl import _linalg_cpu
from optax_mtl._dtypes import solver_dtype

# Below this many entries in the whole tree a plain product takes microseconds
# and the second branch is not worth its compile time.
_SMALL_TREE = 1 << 16

# Terms of a weighted sum that are written out in one fusion. More compile
# slowly.
_UNROLL = 16

# Columns of a leaf that is not worth code of its own.
_TINY = 1024


# A boolean that is True where the arrays of the program being lowered live
# whole on one device: a program for one device, or the body of a `shard_map`.
# It takes no inputs, hence needs no rules for vmap or differentiation.
_is_local_p = Primitive("mtl_is_local")


@_is_local_p.def_abstract_eval
def _is_local_abstract_eval():
  return jax.core.ShapedArray((), jnp.bool_)


@_is_local_p.def_impl
def _is_local_impl():
  # Without a program to lower nothing is known: take the form that is right
  # everywhere.
  return np.bool_(False)


def _is_local_lowering(ctx):
  where = ctx.module_context.axis_context
  if hasattr(where, "manual_axes"):  # inside shard_map
    names = frozenset(where.mesh.axis_names)
    local = where.mesh.size == 1 or frozenset(where.manual_axes) == names
  else:
    local = getattr(where, "num_devices", None) == 1
  return [mlir.ir_constant(np.bool_(local))]


mlir.register_lowering(_is_local_p, _is_local_lowering)


def _inexact(leaf) -> jax.Array:
  """The leaf as an array, integers as `solver_dtype()`."""
  leaf = jnp.asarray(leaf)
  if jnp.issubdtype(leaf.dtype, jnp.inexact):
    return leaf
  return leaf.astype(solver_dtype())


def _at_least_float32(dtype) -> jnp.dtype:
  """The dtype that sums of `dtype` are accumulated in."""
  return jnp.dtype("float32") if jnp.finfo(dtype).bits < 32 else dtype


def _explicit_mesh(leaves) -> bool:
  """Whether a leaf's sharding is part of its type."""
  explicit = jax.sharding.AxisType.Explicit
  return any(
    explicit in jax.typeof(leaf).sharding.mesh.axis_types for leaf in leaves
  )


def _plain_gram(*leaves, num_tasks: int) -> jax.Array:
  """One `dot_general` per leaf: partitions well, and is best off the CPU."""
  total = jnp.zeros((num_tasks, num_tasks), solver_dtype())
  kwargs = {}
  if leaves and _explicit_mesh(leaves):
    kwargs["out_sharding"] = jax.sharding.PartitionSpec(None, None)
  for leaf in leaves:
    axes = tuple(range(1, leaf.ndim))
    for part in _linalg_cpu.real_parts(leaf):
      total = total + jax.lax.dot_general(
        part,
        part,
        ((axes, axes), ((), ())),
        # The GPU's default for float32 is TF32, wrong in the third digit.
        precision="highest",
        preferred_element_type=solver_dtype(),
        **kwargs,
      )
  return total


@functools.partial(jax.jit, static_argnames="num_tasks", inline=False)
def _gram(leaves, num_tasks: int) -> jax.Array:
  plain = functools.partial(_plain_gram, num_tasks=num_tasks)
  size = sum(leaf.size for leaf in leaves)
  if size <= _SMALL_TREE or _explicit_mesh(leaves):
    total = plain(*leaves)
  else:

    def cpu(*leaves):
      local = functools.partial(_linalg_cpu.gram, num_tasks=num_tasks)
      return jax.lax.cond(_is_local_p.bind(), local, plain, *leaves)

    total = jax.lax.platform_dependent(*leaves, cpu=cpu, default=plain)
  # One triangle decides for both: products of equal rows may be summed in
  # another order above the diagonal than below it.
  return jnp.tril(total) + jnp.tril(total, -1).T


def gram(tree, num_tasks: int) -> jax.Array:
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


# Jitted so that leaves of one shape are traced and lowered once.
@jax.jit
def _combine_leaf(leaf, weights, keep) -> jax.Array:
  """`sum_t weights[t] * leaf[t]` over the kept rows, in the leaf's dtype."""
  num_tasks = leaf.shape[0]
  acc = _at_least_float32(leaf.dtype)
  weights = weights.astype(acc)
  small = leaf.size <= _SMALL_TREE
  if num_tasks > _UNROLL and (small or (keep is None and leaf.dtype == acc)):
    # A product with a vector. On CPU it writes the result twice where the leaf
    # has more than two axes, which is little beside reading that many tasks.
    rows = leaf.astype(acc)
    if keep is not None:
      mask = keep.reshape((num_tasks,) + (1,) * (leaf.ndim - 1))
      rows = jnp.where(mask, rows, jnp.zeros((), acc))
    # XLA compiles code for every product with a vector, but calls a library for
    # one with a matrix: two equal rows save most of the compile time where
    # leaves are tiny, and many.
    tiny = leaf.size <= num_tasks * _TINY
    left = jnp.stack([weights, weights]) if tiny else weights[None]
    return jax.lax.dot_general(
      left,
      rows,
      (((1,), (0,)), ((), ())),
      precision="highest",
      preferred_element_type=acc,
    )[0].astype(leaf.dtype)

  # Written out, the sum is one fusion that reads every row once and selects
  # as it reads. XLA's CPU backend takes up to 1000 times as long to reduce
  # over the task axis of a leaf with three axes.
  def term(t):
    row = leaf[t].astype(acc)
    if keep is not None:
      # By selection: 0 * nan is nan.
      row = jnp.where(keep[t], row, jnp.zeros((), acc))
    return row * weights[t]

  total = None
  for start in range(0, num_tasks, _UNROLL):
    stop = min(start + _UNROLL, num_tasks)
    for t in range(start, stop):
      total = term(t) if total is None else total + term(t)
    if stop < num_tasks:
      # A fusion of several dozen terms compiles slowly and runs no faster.
      total = jax.lax.optimization_barrier(total)
  return total.astype(leaf.dtype)


def combine(tree, weights, keep=None):
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


def finite(tree, num_tasks: int) -> jax.Array:
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
  result = jnp.ones((num_tasks,), jnp.bool_)
  for leaf in jax.tree.leaves(tree):
    leaf = _inexact(leaf)
    axes = tuple(range(1, leaf.ndim))
    for part in _linalg_cpu.real_parts(leaf):
      # x * 0 is 0 or nan. XLA's CPU backend sums floats fast; `all(isfinite)`
      # takes up to 10 times as long, and a maximum of |x| may lose a nan.
      zeros = part.astype(_at_least_float32(part.dtype)) * 0
      result = result & (jnp.sum(zeros, axis=axes) == 0)
  return result
