"""The backward pass of several losses: of each by itself, or of all at once."""

from collections.abc import Callable
from typing import Any

import jax

from optax_mtl import _jax_programs
from optax_mtl.sources import miscompiled, pullbacks, units
from optax_mtl.sources.convolutions import canonical_program, canonicalize
from optax_mtl.sources.trunk import Row

#: Up to so many tasks each has a backward pass of its own in the program. It
#: runs in less time than one that is batched, and compiles in more: see
#: docs/performance.md.
_EACH = 16

#: From this many params on, CPUs differentiate one task after another: side by
#: side, the tasks' gradients do not fit the cache.
_LARGE = 1 << 18


def row_of(program: _jax_programs.Program, cotangent: Any) -> Row:
  """The leaves that a pullback returns, None for those it never touches."""
  leaves = canonical_program(program)(cotangent)
  touched = _jax_programs.depends(program)
  # A linear function is zero where it does not depend on its argument.
  return [x if t else None for x, t in zip(leaves, touched, strict=True)]


class Backward:
  """The backward pass of a function that returns losses [T].

  Where the function puts its vector together from single losses, as from a
  list or with `jnp.stack`, each can be pulled back by itself, without what the
  others alone depend on. All start from one forward pass.

  Attributes:
    losses_like: `ShapeDtypeStruct` of the losses.
    params: The params.
  """

  def __init__(
    self,
    push: Callable[[Any], jax.Array],
    losses: jax.Array,
    params: Any,
  ):
    """See the attributes.

    Args:
      push: The function's derivative, from tangents of the params to those of
        the losses.
      losses: The losses [T].
      params: The params.
    """
    self.losses_like = pullbacks.like(losses)
    self.params = params
    self._push = push
    self._ones = pullbacks.one_like(losses)

  def of_all(self, cotangent: jax.Array) -> Any:
    """The gradient of the losses, weighted by a cotangent [T]."""
    return jax.linear_transpose(self._push, self.params)(cotangent)[0]

  def of_each(self, chunk_size: int | None) -> list[Row] | None:
    """The gradient of each loss, pulled back by itself.

    Args:
      chunk_size: As `units.map_rows` takes it.

    Returns:
      T lists of leaves; None where that is not to be had: the losses come as a
      vector that is computed as one, there are many, or a chunk size says that
      all are to be pulled back by the same program.
    """
    if chunk_size is not None or self.losses_like.shape[0] > _EACH:
      return None
    program = _jax_programs.trace(self._push, self.params)
    entries = _jax_programs.entries(program)
    if entries is None:
      return None

    def pull(entry: Callable[[Any], jax.Array]) -> Row:
      def pullback(one: jax.Array) -> list[jax.Array]:
        (gradient,) = jax.linear_transpose(entry, self.params)(one)
        return jax.tree.leaves(gradient)

      one = self._ones[:1]
      return row_of(_jax_programs.trace(pullback, one), one)

    return [pull(entry) for entry in entries]

  def map_tasks(self, fun: Callable[[Any], Any], chunk_size: int | None) -> Any:
    """`fun` of each task's gradient, all pulled back by one program, stacked.

    Args:
      fun: A function of a gradient that returns a pytree.
      chunk_size: As `units.map_rows` takes it; None also is all at once where
        that fits the cache.

    Returns:
      The results, stacked: a tree with leaves [T, ...].
    """

    def row(unit: jax.Array) -> Any:
      return fun(self.of_all(unit))

    cotangents = pullbacks.unit_cotangents(self.losses_like)
    size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
    if chunk_size is None and size < _LARGE:
      if not miscompiled.batches_wrongly():
        return units.at_once(row, cotangents)
    return units.map_rows(
      canonicalize(row, self.losses_like), cotangents, chunk_size
    )


def differentiate(
  fun: Callable[[Any], tuple[jax.Array, Any]], params: Any
) -> tuple[jax.Array, Backward, Any]:
  """Runs a function forward.

  Args:
    fun: Function from the params to losses [T] and anything else.
    params: The params.

  Returns:
    The losses, their backward pass, and what else the function returned.
  """
  losses, push, aux = jax.linearize(fun, params, has_aux=True)
  return losses, Backward(push, losses, params), aux
