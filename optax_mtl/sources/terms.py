"""Terms that are functions of their own, each on a batch of its own."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optax_mtl import _jax_programs, linalg
from optax_mtl.sources import losses as losses_lib
from optax_mtl.sources import masks, miscompiled, pairs, pullbacks, units
from optax_mtl.sources.arguments import Arguments
from optax_mtl.sources.averaged import AveragedTaskGradients, Axes
from optax_mtl.sources.backward import row_of
from optax_mtl.sources.convolutions import canonicalize
from optax_mtl.sources.masks import Heads
from optax_mtl.sources.stacked import StackedTaskGradients
from optax_mtl.sources.trunk import Row, fill, from_rows, stack_rows


class Term:
  """One term of a step, run forward.

  Attributes:
    loss: Its loss, a scalar.
    aux: What else its function returned.
  """

  def __init__(
    self, loss_of: Callable[[Any], tuple[jax.Array, Any]], params: Any
  ):
    """Runs a term.

    Args:
      loss_of: Function from the params to the term's loss and anything else.
      params: The params.
    """
    self._loss_of, self._params = loss_of, params
    self.loss, vjp, self.aux = jax.vjp(loss_of, params, has_aux=True)

    def pullback(cotangent: jax.Array) -> list[jax.Array]:
      return jax.tree.leaves(vjp(cotangent)[0])

    self._one = pullbacks.one_like(self.loss)
    self._program = _jax_programs.trace(pullback, self._one)

  def row(self, after: Any = None) -> Row:
    """The term's gradient, None for leaves that it does not touch.

    Args:
      after: Tree of arrays that are to be there before it is computed.

    Returns:
      The leaves.
    """
    one = self._one if after is None else units.after(after, self._one)
    return row_of(self._program, one)

  def anew(self) -> list[jax.Array]:
    """The term's gradient from another run of its function."""

    def gradient(params: Any) -> list[jax.Array]:
      return jax.tree.leaves(jax.grad(self._loss_of, has_aux=True)(params)[0])

    return canonicalize(gradient, self._params)(self._params)


class TermTaskGradients(pullbacks.UnstoredTaskGradients):
  """Gradients of terms, none of which is stored.

  Attributes:
    terms: T terms, None for one that is absent.
    chunk_size: How many gradients are held while the Gram matrix is computed.
  """

  def __init__(
    self,
    terms: Sequence[Term | None],
    params_like: Any,
    chunk_size: int,
    *,
    names: tuple[str, ...] | None = None,
    shared: Any = None,
    heads: Heads = "sum",
  ):
    """See the attributes."""
    super().__init__(
      len(terms),
      params_like,
      names=names,
      shared=shared,
      heads=heads,
      present=tuple(term is not None for term in terms),
    )
    self.terms = terms
    self.chunk_size = chunk_size

  @property
  def _like(self) -> list[Any]:
    return jax.tree.leaves(self._params_like)

  def _row(self, task: int, after: Any = None) -> Row:
    term = self.terms[task]
    return [None] * len(self._like) if term is None else term.row(after)

  def _fill(self, row: Row) -> list[jax.Array]:
    return [fill(*pair) for pair in zip(row, self._like, strict=True)]

  def _map_rows(
    self, fun: Callable[[list[jax.Array]], Any], mask: Sequence[bool] | None
  ) -> Any:
    results: list[Any] = []
    for task in range(self.num_tasks):
      # One after another, so that no two gradients are held.
      row = self._row(task, results[-1] if results else None)
      results.append(fun(masks.pick_leaves(mask, self._fill(row))))
    return jax.tree.map(lambda *parts: jnp.stack(parts), *results)

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return self.gram_of(mask, lambda leaves: leaves)

  def gram_of(
    self, mask: Sequence[bool] | None, change: Callable[[Any], Any]
  ) -> jax.Array:
    """The Gram matrix of what a linear function makes of each gradient.

    Args:
      mask: Over which leaves; None: all.
      change: Function from a list of leaves, some of which may be None, or of
        several gradients' leaves [n, ...], to one alike.

    Returns:
      Array [T, T].
    """
    like = masks.pick_leaves(mask, self._like)

    def picked(task: int) -> Row:
      return masks.pick_leaves(mask, self._row(task))

    if self.num_tasks <= 2 * self.chunk_size:
      # Pairs of chunks are no fewer gradients than all.
      rows = [change(picked(task)) for task in range(self.num_tasks)]
      return linalg.gram(stack_rows(rows, like), self.num_tasks)

    def by_number(task: jax.Array) -> list[jax.Array]:
      def branch(row: Callable[[], Row]) -> Callable[[], list[jax.Array]]:
        return lambda: [fill(*p) for p in zip(row(), like, strict=True)]

      branches = [
        branch(functools.partial(picked, t)) for t in range(self.num_tasks)
      ]
      nothing = branch(lambda: [None] * len(like))
      return jax.lax.switch(task, [*branches, nothing])

    return pairs.gram(
      # Outside of the branches, where devices may wait for each other.
      lambda tasks: change(jax.lax.map(by_number, tasks)),
      self.num_tasks,
      self.chunk_size,
    )

  def _gradient_of(self, task: jax.Array | int) -> Any:
    structure = jax.tree.structure(self._params_like)
    if isinstance(task, int):
      return jax.tree.unflatten(structure, self._fill(self._row(task)))
    # Each branch runs its term anew: what the forward passes of all terms left
    # would else have to be there for whichever is chosen.
    branches = [
      (lambda: self._fill([None] * len(self._like)))
      if term is None
      else term.anew
      for term in self.terms
    ]
    return jax.tree.unflatten(structure, jax.lax.switch(task, branches))

  def _combine(
    self,
    weights: jax.Array,
    mask: Sequence[bool] | None,
    head_weights: jax.Array,
    keep: jax.Array | None,
  ) -> Any:
    flags = [True] * len(self._like) if mask is None else mask
    total: list[jax.Array | None] = [None] * len(self._like)
    for task in range(self.num_tasks):
      for i, leaf in enumerate(self._row(task)):
        if leaf is None:
          continue
        weight = (weights if flags[i] else head_weights)[task]
        term = pullbacks.scaled(leaf, weight)
        if keep is not None:
          # By selection: 0 times NaN is NaN.
          term = jnp.where(keep[task], term, jnp.zeros_like(term))
        old = total[i]
        total[i] = term if old is None else old + term
    return jax.tree.unflatten(
      jax.tree.structure(self._params_like),
      [
        fill(x, like).astype(like.dtype)
        for x, like in zip(total, self._like, strict=True)
      ],
    )


class _AveragedTerms(AveragedTaskGradients):
  """Means over devices of terms' gradients.

  The Gram matrix is made of averaged gradients: a column of it, as `J` of one
  of them, would run each term backwards again.
  """

  local: TermTaskGradients

  def _gram(self, mask: Sequence[bool] | None) -> jax.Array:
    return self.local.gram_of(mask, self.axes.mean)


def _batches(args: Sequence[Any], keys: Sequence[Any]) -> dict[Any, Any]:
  """The batches of the terms that are there, the last positional argument."""
  if len(args) < 2:
    raise TypeError(
      "Terms are called with (params, {name: batch, ...}), both by position; "
      f"got {len(args)} positional argument{'' if len(args) == 1 else 's'}. "
      "() is the batch of a term without data."
    )
  if not isinstance(args[-1], Mapping):
    raise TypeError(
      "Terms are called with (params, {name: batch, ...}): the last argument "
      f"must be a dict of batches, got {type(args[-1]).__name__}."
    )
  batches: Mapping[Any, Any] = args[-1]
  unknown = [repr(key) for key in batches if key not in keys]
  if unknown:
    raise ValueError(
      f"There are batches for {', '.join(unknown)}, but no such terms: they "
      f"are {', '.join(map(repr, keys))}."
    )
  present = {key: batches[key] for key in keys if batches.get(key) is not None}
  if not present:
    raise ValueError(
      "All terms are absent: there must be a batch for at least one of "
      f"{', '.join(map(repr, keys))}; () is the batch of a term without data."
    )
  return present


def arguments_of(batch: Any) -> tuple[Any, ...]:
  """What a term is called with after the params: a plain tuple is several."""
  return batch if type(batch) is tuple else (batch,)


def _check_call(
  key: Any, function: Callable[..., Any], num_args: int, batch: Any
) -> None:
  """Raises if a term does not take as many arguments as its batch makes."""
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):  # A builtin, which says nothing of itself.
    return
  try:
    signature.bind(*range(num_args))
  except TypeError as error:
    how = (
      f"a tuple of {len(batch)}, which are its arguments"
      if type(batch) is tuple
      else f"a {type(batch).__name__}, which is one argument: "
      "a tuple is several"
    )
    raise TypeError(
      f"The term {key!r} cannot be called with {num_args} arguments "
      f"({error}). Its batch is {how}."
    ) from error


def value_and_grads_of(
  functions: Mapping[Any, Callable[..., Any]],
  has_aux: bool,
  *,
  argnums: int | Sequence[int],
  source: Literal["stacked", "implicit"],
  chunk_size: int | None,
  shared: Any,
  heads: Heads,
  axes: Axes,
) -> Callable[..., tuple[Any, Any]]:
  """What `value_and_task_batch_grads` returns for a dict of functions."""
  try:
    keys = sorted(functions)
  except TypeError as error:
    raise TypeError(
      "The terms' names must be of one type, so that they can be sorted, got "
      f"{', '.join(map(repr, functions))}."
    ) from error
  if not keys:
    raise ValueError("There must be at least one term, got an empty dict.")
  for key in keys:
    if not callable(functions[key]):
      raise TypeError(
        f"the term {key!r} is a {type(functions[key]).__name__}, and no "
        "function (params, *batch) -> loss."
      )

  def loss_of(
    key: Any, batch: Any, arguments: Arguments
  ) -> Callable[[Any], tuple[jax.Array, Any]]:
    # A named tuple is one batch with fields, and not several arguments.
    args = arguments_of(batch)

    def of_params(params: Any) -> tuple[jax.Array, Any]:
      given = (*arguments.join(params), *args)
      _check_call(key, functions[key], len(given), batch)
      out = functions[key](*given)
      value, aux = losses_lib.split(out, has_aux, f"the term {key!r}")
      return losses_lib.scalar(value, f"The term {key!r}"), aux

    return of_params

  def value_and_grads(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    if kwargs:
      raise TypeError(
        "Terms take positional arguments alone, (params, {name: batch, ...}); "
        f"got {', '.join(f'{name}=' for name in kwargs)}. What all terms share "
        "goes between the params and the batches."
      )
    miscompiled.warn_on_cpu()
    batches = _batches(args, keys)
    arguments = Arguments(argnums, args[:-1])
    params = own = axes.spread(arguments.params)
    facts: dict[str, Any] = {
      "names": tuple(map(str, keys)),
      "shared": masks.trunk_of(shared, params),
      "heads": heads,
    }
    like = pullbacks.like(params)
    untouched: Row = [None] * len(jax.tree.leaves(params))
    terms: dict[Any, Term] = {}
    rows: dict[Any, Row] = {}
    for number, (key, batch) in enumerate(batches.items()):
      if (
        source == "stacked"
        and chunk_size
        and number
        and not (number % chunk_size)
      ):
        # Nothing of a group begins before the gradients of the last are there.
        params = units.after(list(rows.values()), own)
      terms[key] = Term(loss_of(key, batch, arguments), params)
      if source == "stacked":
        rows[key] = terms[key].row()
    if source == "stacked":
      grads = from_rows(
        [rows.get(key, untouched) for key in keys],
        like,
        present=tuple(key in terms for key in keys),
        **facts,
      )
      if isinstance(grads, StackedTaskGradients) and grads.present is None:
        grads = grads.tree
      grads = axes.of(grads)
    else:
      local = TermTaskGradients(
        [terms.get(key) for key in keys],
        like,
        1 if chunk_size is None else chunk_size,
        **facts,
      )
      grads = _AveragedTerms(local, axes) if axes.names else local
    first = next(iter(terms.values())).loss
    absent = jnp.full_like(first, jnp.nan)
    values = {key: terms[key].loss if key in terms else absent for key in keys}
    values = axes.losses(values, own)
    if not has_aux:
      return values, grads
    aux = {key: terms[key].aux if key in terms else None for key in keys}
    return (values, aux), grads

  return value_and_grads
