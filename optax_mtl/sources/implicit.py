"""The source that stores no gradients: `M[:, t] = J (Jᵀ e_t)`."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from optax_mtl import _jax_programs, linalg
from optax_mtl._dtypes import solver_dtype
from optax_mtl.sources import masks, pairs, units
from optax_mtl.sources.convolutions import canonical_program
from optax_mtl.sources.pullbacks import (
  PullbackTaskGradients,
  divide,
  is_half,
  power_of_two,
  unit_cotangents,
)


def _conjugate(leaf: jax.Array) -> jax.Array:
  return jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf


class ImplicitTaskGradients(PullbackTaskGradients):
  """Task gradients of which nothing is stored, a Gram matrix by columns.

  Column t is `J (Jᵀ e_t)`, with `J` by transposing the pullback: that shares
  the forward pass and works where a rule for reverse mode is all there is. The
  last column needs no `J`: all of it but the diagonal entry stands in the other
  columns, and that entry is the squared length of `Jᵀ e_t`.

  Where the pullback cannot be transposed, or would return the products in half
  precision, they are taken between chunks of gradients instead, two chunks at a
  time: up to T(T + 1)/2 backward passes, and no more memory.
  """

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    push = self._pushforward(mask)
    if push is None:
      return self._gram_of_pairs(mask)

    def gradient(unit: jax.Array) -> list[jax.Array]:
      return masks.pick(mask, self.pullback(unit))

    cotangents = unit_cotangents(self.losses_like)
    last = [leaf[None] for leaf in gradient(cotangents[-1])]
    square = linalg.gram(last, 1)
    if self.num_tasks == 1:
      return square
    columns = units.map_rows(
      lambda unit: push(gradient(unit)), cotangents[:-1], self.chunk_size
    ).astype(solver_dtype())
    # Column t and row t are the same number up to rounding; a solver may rely
    # on their being equal.
    first, rest = columns[:, :-1], columns[:, -1:]
    return jnp.block([[(first + first.T) / 2, rest], [rest.T, square]])

  def _project(
    self, gradient: list[jax.Array], mask: Sequence[bool] | None
  ) -> jax.Array:
    push = self._pushforward(mask)
    if push is None:
      return super()._project(gradient, mask)
    return push(gradient).astype(solver_dtype())

  def _pushforward(
    self, mask: Sequence[bool] | None
  ) -> Callable[[list[jax.Array]], jax.Array] | None:
    """`J` as a function of a gradient over the mask's leaves, if it exists."""
    if is_half(self.losses_like.dtype):
      return None

    def push(gradient: list[jax.Array]) -> jax.Array:
      # A gradient is the conjugate of the direction of steepest ascent.
      tangent = masks.put(
        mask, [_conjugate(leaf) for leaf in gradient], self.params_like
      )
      transposed = jax.linear_transpose(self.plain_pullback, self.losses_like)
      return transposed(tangent)[0]

    example = masks.pick(mask, self.params_like)
    try:
      program = _jax_programs.trace(push, example)
    except Exception:
      # A backward pass that is not linear, or whose rule JAX cannot transpose
      # (`while_loop`, callbacks), raises what it likes while being traced. The
      # pullback itself has been traced before, so the error is not the user's.
      return None
    canonical = canonical_program(program)
    if not _jax_programs.computes_in(program, jnp.float16):
      return canonical

    def scaled(gradient: list[jax.Array]) -> jax.Array:
      # A product of two gradients of 256 is more than float16 holds.
      sizes = [jnp.max(jnp.abs(x)).astype(solver_dtype()) for x in gradient]
      scale = power_of_two(jnp.max(jnp.stack(sizes)))
      unit = [divide(x, scale) for x in gradient]
      return canonical(unit).astype(solver_dtype()) * scale

    return scaled

  def _gram_of_pairs(self, mask: Sequence[bool] | None) -> jax.Array:
    """The Gram matrix from chunks of gradients, two at a time."""
    size = self.num_tasks if self.chunk_size is None else self.chunk_size

    def row(task: jax.Array) -> list[jax.Array]:
      unit = (jnp.arange(self.num_tasks) == task).astype(self.losses_like.dtype)
      return masks.pick(mask, self.pullback(unit))

    return pairs.gram(
      lambda tasks: units.at_once(row, tasks),
      self.num_tasks,
      min(size, self.num_tasks),
    )
