"""Task gradients measured at a shared representation (MGDA-UB)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optax_mtl import _checks
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pullbacks, units
from optax_mtl.sources.averaged import Axes, AxisName
from optax_mtl.sources.backward import differentiate
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.representation_gradients import (
  ApartTaskGradients,
  TogetherTaskGradients,
)


def value_and_representation_grads(
  trunk_fn: Callable[..., Any],
  heads_fn: Callable[..., Any],
  has_aux: bool = False,
  *,
  chunk_size: int | None = None,
  shared: Any = None,
  heads: Heads = "sum",
  axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, Any]]:
  """Losses, and task gradients measured at a shared representation.

  A method sees the Gram matrix of the gradients with respect to the trunk's
  output. Each loss is pulled back through the heads once, by itself, without
  what it does not depend on; the update then takes one backward pass through
  the trunk. So heads that share nothing cost what the sum of the losses costs.
  This is the upper bound of Sener & Koltun (MGDA-UB), here for every method
  that uses a Gram matrix. Zero combinations are the same at the representation
  and at the params if the trunk's Jacobian has full rank; that a combination
  descends every task at the representation does not make it do so at the
  params.

  That goes for up to 16 losses that `heads_fn` puts together from single ones,
  as in a list, a dict or a `jnp.stack`. A vector that is computed as one (the
  result of a `vmap` over stacked heads), more losses, and those with a
  `chunk_size` are pulled back by one program, which runs through all heads for
  each task, and for the update once more.

  What is kept for each task is its gradient at the representation, and those of
  the heads that it reads. Where heads are much smaller than the representation,
  T of these, twice while the Gram matrix is computed, are the most memory that
  a step takes; a `chunk_size` does not change that.

  Where each is pulled back by itself, a loss whose derivative is NaN or inf
  spoils no other: see `value_and_task_grads`.

  Args:
    trunk_fn: Function `(params, *args) -> representation`, an array or a pytree
      of arrays that all tasks read. With `has_aux`, a pair with any pytree.
    heads_fn: Function `(params, representation, *args) -> losses`, in the forms
      that `value_and_task_grads` takes. With `has_aux`, a pair with any pytree.
    has_aux: Whether both return pairs.
    chunk_size: How many tasks to differentiate at once, by one program that is
      compiled once. None: each by a program of its own, and where that is not
      to be had all at once, but on CPU one.
    shared: Which leaves of the params take the method's weights, as for
      `value_and_task_grads`: as a rule those that `trunk_fn` reads. It changes
      nothing of the Gram matrix, which is the one at the representation. None:
      all leaves.
    heads: "sum" or "weighted", what the other leaves get.
    axis_name: As for `value_and_task_grads`: the axis over whose devices the
      batch, and with it the representation, is spread.

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
  axes = Axes(axis_name)

  def value_and_grads(params: Any, *args: Any) -> tuple[Any, Any]:
    miscompiled.warn_on_cpu()
    _checks.check_inexact(params, "params")
    in_trunk = masks.trunk_of(shared, params)
    params = axes.spread(params)
    names = losses_lib.Recorder()

    def trunk_of(params: Any) -> tuple[Any, Any]:
      return losses_lib.split(trunk_fn(params, *args), has_aux, "trunk_fn")

    def heads_of(params: Any, representation: Any) -> tuple[jax.Array, Any]:
      value, aux = losses_lib.split(
        heads_fn(params, representation, *args), has_aux, "heads_fn"
      )
      return names.stack(value), aux

    z, trunk_vjp, trunk_aux = jax.vjp(trunk_of, params, has_aux=True)
    what = "the representation"
    if not has_aux and type(z) is tuple and len(z) == 2:
      what += " (a pair; if it is one with aux, say so with has_aux=True)"
    _checks.check_inexact(z, what)
    losses, backward, heads_aux = differentiate(
      lambda both: heads_of(*both), (params, z)
    )

    def through_trunk(at_z: Any) -> list[jax.Array]:
      return jax.tree.leaves(trunk_vjp(at_z)[0])

    def pullback(cotangent: jax.Array) -> Any:
      direct, at_z = backward.of_all(cotangent)
      (through,) = trunk_vjp(at_z)
      return jax.tree.map(jnp.add, direct, through)

    like = pullbacks.like(params)
    facts: dict[str, Any] = {
      "names": names.names,
      "shared": in_trunk,
      "heads": heads,
    }
    each = backward.of_each(chunk_size)
    if each is None:
      grads = TogetherTaskGradients(
        pullback,
        canonicalize(lambda cotangent: backward.of_all(cotangent)[1], losses),
        lambda cotangent: backward.of_all(cotangent)[0],
        lambda at_z: trunk_vjp(at_z)[0],
        z,
        pullbacks.like(losses),
        like,
        chunk_size,
        **facts,
      )
    else:
      count = len(jax.tree.leaves(like))
      grads = ApartTaskGradients(
        [(row[:count], row[count:]) for row in each],
        through_trunk,
        z,
        like,
        **facts,
      )
    value = names.back(axes.losses(losses, params))
    aux = (trunk_aux, heads_aux)
    return ((value, aux) if has_aux else value), axes.of(grads)

  return value_and_grads
