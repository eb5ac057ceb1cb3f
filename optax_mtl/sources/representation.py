"""Task gradients measured at a shared representation (MGDA-UB)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks, linalg
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pullbacks, units
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.masks import Heads


class RepresentationTaskGradients(pullbacks.PullbackTaskGradients):
  """Gradients at the trunk's output; the combination runs to the params.

  The Gram matrix is the one at the representation, whichever leaves are shared.

  Attributes:
    at_representation: Function from a cotangent of the losses [T] to the
      gradient with respect to the representation.
  """

  at_params = False

  def __init__(
    self,
    pullback: Callable[[jax.Array], Any],
    at_representation: Callable[[jax.Array], Any],
    losses_like: jax.ShapeDtypeStruct,
    params_like: Any,
    chunk_size: int | None,
    *,
    names: tuple[str, ...] | None = None,
    shared: Any = None,
    heads: Heads = "sum",
  ):
    """See the attributes."""
    super().__init__(
      pullback,
      losses_like,
      params_like,
      chunk_size,
      names=names,
      shared=shared,
      heads=heads,
    )
    self.at_representation = at_representation

  def _measured(self, shared: Any, name: str) -> list[bool] | None:
    if shared is not None:
      raise ValueError(
        f"{name}= chooses among the params' leaves, but with the "
        "representation source the Gram matrix is taken at the "
        f"representation. Leave {name}= out, or use another source."
      )
    return None

  def _map_measured(
    self,
    fun: Callable[[list[jax.Array]], Any],
    mask: Sequence[bool] | None,
  ) -> Any:
    del mask
    return units.map_rows(
      lambda unit: fun(jax.tree.leaves(self.at_representation(unit))),
      pullbacks.unit_cotangents(self.losses_like),
      self.chunk_size,
    )

  def _rows(self) -> Any:
    """The gradients at the representation, stacked."""
    return self._map_measured(lambda row: row, None)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    del mask
    return linalg.gram(self._rows(), self.num_tasks)

  def _squared_norms(self, mask: Sequence[bool] | None) -> jax.Array:
    del mask
    return linalg.squared_norms(self._rows(), self.num_tasks)


def value_and_representation_grads(
  trunk_fn: Callable[..., Any],
  heads_fn: Callable[..., Any],
  has_aux: bool = False,
  *,
  chunk_size: int | None = None,
  shared: Any = None,
  heads: Heads = "sum",
) -> Callable[..., tuple[Any, Any]]:
  """Losses, and task gradients measured at a shared representation.

  A method sees the Gram matrix of the gradients with respect to the trunk's
  output, which costs T backward passes through the heads alone; the update then
  takes one backward pass through the trunk. This is the upper bound of Sener &
  Koltun (MGDA-UB), here for every method that uses a Gram matrix. Zero
  combinations are the same at the representation and at the params if the
  trunk's Jacobian has full rank; that a combination descends every task at the
  representation does not make it do so at the params.

  Args:
    trunk_fn: Function `(params, *args) -> representation`, an array or a pytree
      of arrays that all tasks read. With `has_aux`, a pair with any pytree.
    heads_fn: Function `(params, representation, *args) -> losses`, in the forms
      that `value_and_task_grads` takes. With `has_aux`, a pair with any pytree.
    has_aux: Whether both return pairs.
    chunk_size: How many tasks to differentiate at once. None: all, but on CPU
      one.
    shared: Which leaves of the params take the method's weights, as for
      `value_and_task_grads`: as a rule those that `trunk_fn` reads. It changes
      nothing of the Gram matrix, which is the one at the representation. None:
      all leaves.
    heads: "sum" or "weighted", what the other leaves get.

  Returns:
    A function `(params, *args) -> (losses, grads)`, with `has_aux`
    `((losses, (trunk_aux, heads_aux)), grads)`: losses an array [T] or a dict
    of scalars, as `heads_fn` returned them, and grads a `TaskGradients`.

  Raises:
    TypeError: A param or a loss is not floating point, or `has_aux` is set and
      a function returns no pair.
    ValueError: A loss is not a scalar, `chunk_size` is not positive, `shared`
      selects no leaf, or `heads` is unknown.

  References:
    Sener & Koltun, `Multi-Task Learning as Multi-Objective Optimization
    <https://arxiv.org/abs/1810.04650>`_, NeurIPS 2018.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> trunk = lambda params, x: x * params["trunk"]
    >>> def heads(params, z, x):
    ...   return jnp.stack([z.sum(), (params["head"] * z).sum()])
    >>> params = {"trunk": jnp.array([1.0, 1.0]), "head": jnp.array([0.0, 2.0])}
    >>> losses, grads = optax_mtl.value_and_representation_grads(trunk, heads)(
    ...   params, jnp.array([3.0, 4.0])
    ... )
    >>> print(losses, grads.gram().tolist())
    [7. 8.] [[2.0, 2.0], [2.0, 4.0]]
  """
  _checks.check_choice("heads", heads, ("sum", "weighted"))
  units.check_chunk_size(chunk_size)

  def value_and_grads(params: Any, *args: Any) -> tuple[Any, Any]:
    miscompiled.warn_on_cpu()
    _checks.check_inexact(params, "params")
    in_trunk = masks.trunk_of(shared, params)
    names = losses_lib.Recorder()

    def trunk_of(params: Any) -> tuple[Any, Any]:
      return losses_lib.split(trunk_fn(params, *args), has_aux, "trunk_fn")

    def heads_of(params: Any, representation: Any) -> tuple[jax.Array, Any]:
      value, aux = losses_lib.split(
        heads_fn(params, representation, *args), has_aux, "heads_fn"
      )
      return names.stack(value), aux

    z, trunk_vjp, trunk_aux = jax.vjp(trunk_of, params, has_aux=True)
    _checks.check_inexact(z, "the representation")
    losses, heads_vjp, heads_aux = jax.vjp(heads_of, params, z, has_aux=True)

    def pullback(cotangent: jax.Array) -> Any:
      direct, at_z = heads_vjp(cotangent)
      (through,) = trunk_vjp(at_z)
      return jax.tree.map(jnp.add, direct, through)

    grads = RepresentationTaskGradients(
      canonicalize(pullback, losses),
      canonicalize(lambda cotangent: heads_vjp(cotangent)[1], losses),
      pullbacks.like(losses),
      pullbacks.like(params),
      chunk_size,
      names=names.names,
      shared=in_trunk,
      heads=heads,
    )
    value = names.back(losses)
    aux = (trunk_aux, heads_aux)
    return ((value, aux) if has_aux else value), grads

  return value_and_grads
