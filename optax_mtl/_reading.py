"""What an optimizer's state says: methods' states, and figures to log."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_mtl import _checks, metrics
from optax_mtl._transformation import WeightState
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.wrappers.track import TrackMemory


def _found(state: Any, *types: type) -> dict[str, Any]:
  """Path -> what is of these types in a state."""
  leaves = jax.tree_util.tree_leaves_with_path(
    state, is_leaf=lambda x: isinstance(x, types)
  )
  return {
    jax.tree_util.keystr(path): leaf
    for path, leaf in leaves
    if isinstance(leaf, types)
  }


def method_states(opt_state: Any) -> dict[str, Any]:
  """Every method's state in that of an optimizer, by where it stands.

  They are found by their type, through chains, partitions, hyperparameters and
  wrappers of any kind: what else is called `weights` there, as a param or a
  hyperparameter, is not taken for a method's.

  Args:
    opt_state: The state of an optimizer.

  Returns:
    Path -> a `WeightState`; for a method without weights a
    `wrappers.TrackMemory`, if it stands in `optax_mtl.track`, for its state has
    a type of its own.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optax_mtl
    >>> tx = optax.partition(
    ...   {"trunk": optax_mtl.mgda(2), "head": optax_mtl.equal_weighting(2)},
    ...   {"weights": "trunk", "bias": "head"},
    ... )
    >>> state = tx.init({"weights": jnp.zeros(2), "bias": jnp.zeros(1)})
    >>> for path in optax_mtl.method_states(state):
    ...   print(path)
    .inner_states['head'].inner_state
    .inner_states['trunk'].inner_state
  """
  return _found(opt_state, WeightState, TrackMemory)


def method_state(opt_state: Any, where: str = "") -> Any:
  """The state of the one method of an optimizer.

  Args:
    opt_state: The state of an optimizer.
    where: A part of the path at which it stands, as `method_states` has them,
      to choose among several.

  Returns:
    A `WeightState`: `method_state(opt_state).weights`.

  Raises:
    ValueError: There is none, or more than one.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optax_mtl
    >>> tx = optax.chain(optax_mtl.mgda(2), optax.adam(1e-3))
    >>> state = tx.init({"weights": jnp.zeros(3)})
    >>> print(optax_mtl.method_state(state).weights)
    [0. 0.]
  """
  return _one(
    method_states(opt_state),
    where,
    "method_state",
    "no state of a method that weighs tasks, or that optax_mtl.track is "
    "around: pass the state as the optimizer's init and update return it. What "
    "was read from a file is restored into tx.init(params) first.",
  )


def _one(
  found: Mapping[str, Any], where: str, function: str, missing: str
) -> Any:
  """The only one whose path has `where` in it."""
  chosen = {path: state for path, state in found.items() if where in path}
  if len(chosen) == 1:
    return next(iter(chosen.values()))
  if not found:
    raise ValueError(f"{function} found {missing}")
  paths = ", ".join(repr(path) for path in found)
  raise ValueError(
    f"{function} found {len(chosen)} methods"
    + (f" with {where!r} in their path" if where else "")
    + f", and there are states of methods at {paths}: say which with where=, a "
    "part of its path."
  )


def _no_names(names: Any) -> TypeError:
  """What to say of something that holds no names."""
  return TypeError(
    "names must be the losses as a dict by the tasks' names, or a sequence of "
    f"names in the order of the rows, got {type(names).__name__}."
  )


def _task_names(
  names: Any, num_tasks: int, leading_axes: int = 0
) -> tuple[str, ...]:
  """One name a task, of what has them: losses have these leading axes alone."""
  if names is None:
    return tuple(str(task) for task in range(num_tasks))
  if isinstance(names, TaskGradients):
    found = names.names or _task_names(None, names.num_tasks)
  elif isinstance(names, Mapping):
    for name, value in names.items():
      nested = isinstance(value, (Mapping, list, tuple))
      if nested or getattr(value, "ndim", 0) > leading_axes:
        raise TypeError(
          f"names must be the losses, got a dict whose {name!r} is no scalar: "
          "the keys of gradients and params are no tasks' names."
        )
    found = _checks.task_names(names) or ()
  elif isinstance(names, str) or not isinstance(names, Sequence):
    raise _no_names(names)
  else:
    if not all(isinstance(name, (str, int)) for name in names):
      raise _no_names(names)
    found = tuple(str(name) for name in names)
  if len(found) != num_tasks or len(set(found)) != num_tasks:
    raise ValueError(
      f"names must hold a name for each of the {num_tasks} tasks of this "
      f"state, all different, got {', '.join(found)}."
    )
  return found


def _mean(values: jax.Array, counts: jax.Array, axis: int) -> jax.Array:
  """Means of what counts; NaN where nothing does."""
  number = jnp.sum(counts, axis=axis, dtype=values.dtype)
  total = jnp.sum(jnp.where(counts, values, 0), axis=axis)
  return jnp.where(number > 0, total / jnp.maximum(number, 1), jnp.nan)


def diagnostics(
  opt_state: Any,
  names: Mapping[str, Any] | Sequence[str] | TaskGradients | None = None,
  *,
  where: str = "",
  learning_rate: ArrayLike = 1.0,
  cosines: bool = True,
) -> dict[str, jax.Array]:
  """Figures for a logger, of a method that `optax_mtl.track` is around.

  Each is a mean over the steps that the state holds, the last `window` ones or
  those since the start, in which it is defined: that of a task over the steps
  in which it took part with a finite gradient, that of two over those of both.
  Where there is no such step it is NaN.

  * `weight/<task>`: its weight. Not there for a method without weights.
  * `norm/<task>`: the length of its gradient.
  * `effective_rate/<task>`: `η ⟨g_i, d⟩ / ‖g_i‖²`, with `d` the direction of
    the update, before the optimizer that follows: the learning rate with which
    descent on this loss alone would lower it as far. It is `η w_i` where no
    other gradient has a part in it, more where others help, and negative where
    the update raises the loss. With the representation source it is not known
    for a method without weights.
  * `present/<task>`: the share of the steps in which it took part with a finite
    gradient.
  * `cosine/<task>/<task>`: of two gradients.
  * `conflict_rate`, `alignment`: as in `optax_mtl.metrics`, of steps with two
    tasks or more.

  It may be called inside of a jitted step, or outside of it now and then. Of a
  state with leading axes, as of many seeds under `vmap`, the figures have them
  too.

  Args:
    opt_state: The state of an optimizer.
    names: What has the tasks' names: the losses, if they are a dict; a sequence
      in the order of the rows; task gradients. A state holds arrays alone, and
      knows no names. None: the rows' numbers.
    where: A part of the path at which the method stands, to choose among
      several.
    learning_rate: Scalar, `η`. Default 1.
    cosines: Whether to have a figure for each pair of tasks.

  Returns:
    Name -> scalar, in the order of the names.

  Raises:
    TypeError: `names` holds none, or `learning_rate` is a schedule.
    ValueError: `track` is around no method in this optimizer, or around several
      of that path; or the names are not those of T tasks.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optax_mtl
    >>> tx = optax_mtl.track(optax_mtl.mgda(num_tasks=2))
    >>> tx = optax.chain(tx, optax.sgd(0.1))
    >>> params, losses = jnp.zeros(2), {"b": jnp.ones(()), "a": jnp.ones(())}
    >>> grads = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> _, state = tx.update(grads, tx.init(params), params, losses=losses)
    >>> for name, value in optax_mtl.diagnostics(state, losses).items():
    ...   print(f"{name} {value:.2f}")
    alignment 0.00
    conflict_rate 0.00
    cosine/a/b 0.00
    effective_rate/a 0.80
    effective_rate/b 0.20
    norm/a 1.00
    norm/b 2.00
    present/a 1.00
    present/b 1.00
    weight/a 0.80
    weight/b 0.20
  """
  memory: TrackMemory = _one(
    _found(opt_state, TrackMemory),
    where,
    "diagnostics",
    "nothing that was recorded: put optax_mtl.track around the method, "
    "optax.chain(optax_mtl.track(method), optax.adam(1e-3)).",
  )
  # Some frameworks wrap the arrays.
  rows = jax.tree.map(jnp.asarray, memory._replace(inner=None))
  num_tasks = rows.gram_rows.shape[-1]
  task_names = _task_names(names, num_tasks, rows.gram_rows.ndim - 3)
  if callable(learning_rate):
    raise TypeError(
      "learning_rate must be a number, got a function: of a schedule, pass the "
      "rate of this step, schedule(step)."
    )
  rate = jnp.asarray(learning_rate, rows.slope_rows.dtype)
  of_tasks, of_pairs, of_all = _means(rows, rate, cosines)
  figures = {
    f"{kind}/{name}": value
    for kind, values in of_tasks.items()
    for name, value in zip(task_names, values, strict=True)
  }
  for (i, j), value in of_pairs.items():
    key = f"cosine/{task_names[i]}/{task_names[j]}"
    if key in figures:
      raise ValueError(
        f"{key!r} would be that of two pairs of tasks: rename those with a "
        "slash in their name, or leave the pairs out with cosines=False."
      )
    figures[key] = value
  # As they come out of a jitted function.
  return dict(sorted((figures | of_all).items()))


@functools.partial(jax.jit, static_argnames="cosines")
def _means(
  rows: TrackMemory, learning_rate: jax.Array, cosines: bool
) -> tuple[
  dict[str, list[jax.Array]],
  dict[tuple[int, int], jax.Array],
  dict[str, jax.Array],
]:
  """The figures of each task, of pairs, and of all.

  Compiled, also where it is called outside of a jitted step: a scalar for each
  pair of tasks would be a call for each.
  """
  gram, counted = rows.gram_rows, rows.counted_rows
  num_tasks = gram.shape[-1]
  squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
  alive = counted & (squares > 0)
  rates = rows.slope_rows / jnp.where(alive, squares, 1)
  sloped = alive & rows.sloped_rows[..., None]
  written = jnp.broadcast_to(rows.written_rows[..., None], counted.shape)
  by_task = {
    "norm": _mean(jnp.sqrt(squares), counted, -2),
    "effective_rate": _mean(rates, sloped, -2) * learning_rate,
    "present": _mean(counted.astype(rates.dtype), written, -2),
  }
  if rows.weight_rows is not None:
    by_task["weight"] = _mean(rows.weight_rows, counted, -2)
  of_pairs: dict[tuple[int, int], jax.Array] = {}
  if cosines:
    pairs = alive[..., :, None] & alive[..., None, :]
    means = _mean(metrics.conflict_cosines(gram), pairs, -3)
    of_pairs = {
      (i, j): means[..., i, j]
      for i in range(num_tasks)
      for j in range(i + 1, num_tasks)
    }
  several, directed = (
    jnp.sum(tasks, axis=-1, dtype=jnp.int32) > 1 for tasks in (counted, alive)
  )
  of_all = {
    "conflict_rate": _mean(metrics.conflict_rate(gram, counted), several, -1),
    "alignment": _mean(metrics.alignment(gram, counted), directed, -1),
  }
  of_tasks = {
    kind: [values[..., task] for task in range(num_tasks)]
    for kind, values in by_task.items()
  }
  return of_tasks, of_pairs, of_all
