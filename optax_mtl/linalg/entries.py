"""What is asked of all entries of many arrays: their sum, their largest.

A network has hundreds of leaves of few shapes. XLA's CPU backend compiles a
kernel of its own for each reduction, and runs it at a fraction of the speed at
which an elementwise operation reads. So arrays of one kind are joined entry by
entry first, eight at a time, and what is left is reduced: that takes half of
the compile time, and a half to a fifth of the run time at any size. A large
array that is alone of its kind is cut into eight pieces, which are joined.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _jax_internals
from optax_mtl._dtypes import solver_dtype
from optax_mtl.linalg.alike import kinds
from optax_mtl.linalg.rows import beside

# Arrays that are joined at once. Of 4 to 32, 8 compile and run fastest.
_TERMS = 8

# An array of at least so many entries is cut: of 2**18 that saves a third of
# the time and of 2**22 three quarters, of 2**14 nothing.
_LARGE = 1 << 16

_Lists = Sequence[Sequence[jax.Array]]


# Jitted so that arrays of one kind are traced and lowered once.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 5, 6))
def _together(
  function: Callable[..., jax.Array],
  join: Callable[[jax.Array, jax.Array], jax.Array],
  reduce: Callable[[jax.Array], jax.Array],
  lists: _Lists,
  numbers: Sequence[jax.Array],
  terms: int,
  rows: int,
) -> jax.Array:
  """`joined` for arrays of one kind, whose first `rows` rows stay apart."""
  with jax.numpy_dtype_promotion("standard"):
    values = [function(*some, *numbers) for some in zip(*lists, strict=True)]
  if (
    terms == 1 or len(values) > 1 or values[0].size < max(_LARGE, terms * rows)
  ):
    return reduce(functools.reduce(join, values))
  flat = values[0].reshape(rows, -1)
  size = flat.shape[1] // terms
  pieces = [flat[:, size * n : size * (n + 1)] for n in range(terms)]
  whole = reduce(functools.reduce(join, pieces))
  rest = flat[:, size * terms :]
  return join(whole, reduce(rest)) if rest.size else whole


def joined(
  function: Callable[..., jax.Array],
  join: Callable[[jax.Array, jax.Array], jax.Array],
  reduce: Callable[[jax.Array], jax.Array],
  initial: jax.Array,
  lists: _Lists,
  numbers: Sequence[jax.Array] = (),
  terms: int = _TERMS,
) -> jax.Array:
  """A function of the entries, joined over arrays of one kind, and reduced.

  For arrays that live whole on one device.

  Args:
    function: Of an array of each list and of the numbers, elementwise. This and
      the next two are static arguments of a jitted function: define them once.
    join: Of two values, elementwise.
    reduce: Of the joined values. The results are joined too.
    initial: What is joined to them; the answer where there are no arrays. An
      array [T] where `reduce` leaves the first axis of arrays [T, ...].
    lists: Lists of arrays, alike.
    numbers: Scalars.
    terms: How many arrays are joined at once. 1 leaves each as it is.

  Returns:
    An array of the shape of `initial`.
  """
  rows = initial.shape[0] if initial.ndim else 1
  parts = [
    _together(
      function,
      join,
      reduce,
      [[x[n] for n in some] for x in lists],
      numbers,
      terms,
      rows,
    )
    for same in kinds(lists[0])
    for some in (same[at : at + terms] for at in range(0, len(same), terms))
  ]
  return functools.reduce(join, parts, initial)


def over_entries(
  function: Callable[..., jax.Array],
  join: Callable[[jax.Array, jax.Array], jax.Array],
  reduce: Callable[[jax.Array], jax.Array],
  initial: jax.Array,
  lists: _Lists,
  numbers: Sequence[jax.Array] = (),
) -> jax.Array:
  """As `joined`, for arrays wherever they live.

  Sharded arrays are reduced one by one: two of one shape may be spread over the
  devices in two ways, and to join these would move one.
  """
  anywhere = functools.partial(joined, function, join, reduce, terms=1)
  if _jax_internals.has_explicit_mesh([x for some in lists for x in some]):
    return anywhere(initial, lists, numbers)
  local = functools.partial(joined, function, join, reduce)
  return _jax_internals.if_local(local, anywhere, initial, lists, numbers)


def _sum(values: jax.Array) -> jax.Array:
  return jnp.sum(values.astype(solver_dtype()))


def _max(values: jax.Array) -> jax.Array:
  return jnp.max(values.astype(solver_dtype()), initial=0)


def total(
  function: Callable[..., jax.Array],
  *lists: Sequence[jax.Array],
  numbers: Sequence[jax.Array] = (),
) -> jax.Array:
  """The sum of a function of all entries.

  Args:
    function: Of an array of each list and of the numbers, elementwise, with
      values that are real and no narrower than they are to be summed. It is a
      static argument of a jitted function: define it once.
    *lists: Lists of arrays, alike.
    numbers: Scalars.

  Returns:
    Scalar of `solver_dtype()`; 0 of no entries.

  Example:
    >>> import jax.numpy as jnp
    >>> total(jnp.square, [jnp.ones(2), 2 * jnp.ones(3), jnp.ones(2)])
    Array(16., dtype=float32)
  """
  zero = jnp.zeros((), solver_dtype())
  return over_entries(function, jnp.add, _sum, zero, lists, numbers)


def largest(arrays: Sequence[jax.Array]) -> jax.Array:
  """The largest absolute value of all entries; NaN if there is one.

  Args:
    arrays: Arrays of any shapes, real or complex.

  Returns:
    Scalar of `solver_dtype()`; 0 of no entries.

  Example:
    >>> import jax.numpy as jnp
    >>> largest([jnp.array([1.0, -3.0]), jnp.ones(3)])
    Array(3., dtype=float32)
  """
  zero = jnp.zeros((), solver_dtype())
  return over_entries(jnp.abs, jnp.maximum, _max, zero, [arrays])


def _row_axes(values: jax.Array) -> tuple[int, ...]:
  return tuple(range(1, values.ndim))


def _sum_of_rows(values: jax.Array) -> jax.Array:
  return jnp.sum(values.astype(solver_dtype()), axis=_row_axes(values))


def _max_of_rows(values: jax.Array) -> jax.Array:
  values = values.astype(solver_dtype())
  return jnp.max(values, axis=_row_axes(values), initial=0)


def row_totals(
  function: Callable[..., jax.Array],
  num_rows: int,
  *lists: Sequence[jax.Array],
  numbers: Sequence[jax.Array] = (),
) -> jax.Array:
  """As `total`, of each row of arrays [T, ...] by itself.

  Args:
    function: As in `total`, of arrays [T, ...].
    num_rows: The number of rows T.
    *lists: Lists of arrays [T, ...], alike.
    numbers: Arrays [T] or scalars.

  Returns:
    Array [T] of `solver_dtype()`; 0 of no entries.

  Example:
    >>> import jax.numpy as jnp
    >>> rows = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    >>> row_totals(jnp.square, 2, [rows, rows])
    Array([50.,  2.], dtype=float32)
  """
  zeros = jnp.zeros((num_rows,), solver_dtype())
  return over_entries(function, jnp.add, _sum_of_rows, zeros, lists, numbers)


def _squares_in(rows: jax.Array, units: jax.Array) -> jax.Array:
  """The squares of entries [T, ...], in units [T] of other sizes."""
  return jnp.square(jnp.abs(rows).astype(units.dtype) / beside(units, rows))


def lengths(arrays: Sequence[jax.Array], num_rows: int) -> jax.Array:
  """The length of each row, whatever its scale; twice the data is read.

  Entries are divided by their row's largest before they are squared, so that
  none overflows, and none underflows that counts.

  Args:
    arrays: Arrays [T, ...], real or complex.
    num_rows: The number of rows T.

  Returns:
    Array [T] of `solver_dtype()`; 0 of no entries.

  Example:
    >>> import jax.numpy as jnp
    >>> lengths([jnp.array([[3e30, 4e30], [0.0, 0.0]])], 2)
    Array([5.e+30, 0.e+00], dtype=float32)
  """
  zeros = jnp.zeros((num_rows,), solver_dtype())
  sizes = over_entries(jnp.abs, jnp.maximum, _max_of_rows, zeros, [arrays])
  units = jnp.where(sizes == 0, jnp.ones_like(sizes), sizes)
  squares = row_totals(_squares_in, num_rows, arrays, numbers=[units])
  return units * jnp.sqrt(squares)


def tree_finite(tree: Any) -> jax.Array:
  """Whether all entries of all leaves are finite, a scalar bool."""
  leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
  fine = jnp.ones((), jnp.bool_)
  return over_entries(jnp.isfinite, jnp.logical_and, jnp.all, fine, [leaves])
