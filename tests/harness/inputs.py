"""What runs are given: params, gradients, extra args, and the cases."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common.matrices import FAMILIES as FAMILIES
from harness.methods import NUM_TASKS
from optax_mtl._dtypes import solver_dtype

#: Long enough for several epochs of `dwa`'s example.
NUM_STEPS = 50
#: The permutation of the tasks that the runs are tried with.
ORDER = (2, 0, 1)

#: Leaf path -> shape. A scalar is among them, and a leaf of several axes.
_SHAPES = {"head": (2,), "trunk": {"bias": (), "kernel": (2, 5)}}
SHARED = {"head": False, "trunk": True}


class Data(NamedTuple):
  """What a run over several steps is given.

  Attributes:
    grads: Tree with leaves [steps, T, *param.shape].
    extra: Name -> array [steps, T], every extra arg that any method needs: a
      method lets pass what it does not know.
    active: Array [steps, T] of bool.
    second: Like `grads`, from another batch.
  """

  grads: Any
  extra: dict[str, Any]
  active: Any
  second: Any = None


def _of_shapes(make: Callable[[tuple[int, ...]], Any]) -> Any:
  return jax.tree.map(make, _SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def params(dtype: Any = np.float32) -> Any:
  """The params of every run."""
  return _of_shapes(lambda shape: jnp.full(shape, 0.5, dtype))


def num_params() -> int:
  return sum(np.size(leaf) for leaf in jax.tree.leaves(params()))


def extra_args(
  rng: np.random.Generator, num_steps: int, num_tasks: int
) -> dict[str, np.ndarray]:
  """Every extra arg [T] that some method reads, float64; add new ones here."""
  shape = (num_steps, num_tasks)
  losses = np.exp(0.3 * rng.standard_normal(shape))
  return {
    "losses": losses,
    "kpis": rng.uniform(0.05, 0.95, shape),
    "preference": np.tile([1.0, 2.0, 2.0][:num_tasks], (num_steps, 1)),
    # After a step the losses of its batch are lower by up to a fifth.
    "previous_losses": losses * rng.uniform(0.8, 1.0, shape),
    "traces": 1 + losses**2,
  }


def data(seed: int = 0, num_steps: int = NUM_STEPS) -> Data:
  """Random gradients, losses and so on, float64."""
  rng = np.random.default_rng(seed)

  def draw() -> Any:
    return _of_shapes(
      lambda shape: rng.standard_normal((num_steps, NUM_TASKS, *shape))
    )

  grads = draw()
  extra = extra_args(rng, num_steps, NUM_TASKS)
  active = np.ones((num_steps, NUM_TASKS), bool)
  return Data(grads, extra, active, draw())


def flat(tree: Any, lead: int) -> np.ndarray:
  """The leaves side by side, float64: `lead` axes stay, the others merge."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
  return np.concatenate(
    [leaf.reshape(*leaf.shape[:lead], -1) for leaf in leaves], axis=-1
  )


def to_dtype(data: Data, dtype: Any) -> Data:
  """Gradients in `dtype`, extra args in the solver's."""

  def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)

  return Data(
    cast(data.grads, dtype),
    cast(data.extra, solver_dtype()),
    jnp.asarray(data.active),
    cast(data.second, dtype),
  )


def tasks_of(data: Data, tasks: Sequence[int]) -> Data:
  """The data of some of the tasks, in that order."""
  chosen = np.asarray(tasks)
  return jax.tree.map(lambda leaf: np.asarray(leaf)[:, chosen], data)


def row_of(data: Data, step: int) -> Data:
  return jax.tree.map(lambda leaf: leaf[step], data)


def extra_of(row: Data) -> dict[str, Any]:
  """All extra args of one step but `active`."""
  if row.second is None:
    return row.extra
  return row.extra | {"second_grads": row.second}


# The cases: what a run is tried with.
def inactive(tasks: Any, steps: slice = slice(None)) -> np.ndarray:
  """The mask [steps, T] that leaves these tasks out."""
  mask = np.ones((NUM_STEPS, NUM_TASKS), bool)
  mask[steps, tasks] = False
  return mask


def intermittent() -> np.ndarray:
  """Each task is absent now and then; in one step all are."""
  mask = np.random.default_rng(7).uniform(size=(NUM_STEPS, NUM_TASKS)) < 0.7
  mask[20] = False
  return mask


def spoilt(data: Data, where: np.ndarray, value: float) -> Data:
  """Puts `value` into all that belongs to the tasks in `where` [steps, T]."""

  def spoil(leaf: Any) -> np.ndarray:
    leaf = np.array(leaf)
    leaf[where] = value
    return leaf

  return Data(
    jax.tree.map(spoil, data.grads),
    jax.tree.map(spoil, data.extra),
    data.active,
    jax.tree.map(spoil, data.second),
  )


#: The exponents of the scales 2^e that the gradients are multiplied with,
#: about 1e-15, 1e-6, 1e6 and 1e15: a power of two scales without rounding, so
#: that only an absolute constant shows, and the Gram matrix stays between 1e-30
#: and 1e31, inside the range of float32.
EXPONENTS = (-50, -20, 20, 50)
#: The step and the task that is NaN in the case "shows", in which no mask is.
SHOWS = (4, 1)


@functools.cache
def cases() -> Mapping[str, Data]:
  """Name -> data of all that a T=3 run is tried with."""
  base = data()
  absent = intermittent()
  masked = base._replace(active=absent)
  shows = np.zeros((NUM_STEPS, NUM_TASKS), bool)
  shows[SHOWS] = True

  def of_gradients(change: Callable[[np.ndarray], np.ndarray]) -> Data:
    return base._replace(
      grads=jax.tree.map(change, base.grads),
      second=jax.tree.map(change, base.second),
    )

  def without_task_1(leaf: np.ndarray) -> np.ndarray:
    leaf = np.copy(leaf)
    leaf[:, 1] = 0.0
    return leaf

  return {
    "base": base,
    "another": data(seed=11),
    "permuted": tasks_of(base, ORDER),
    "without_1": base._replace(active=inactive(1)),
    "only_2": base._replace(active=inactive([0, 1])),
    "none": base._replace(active=inactive([0, 1, 2])),
    "absent": masked,
    "absent_nan": spoilt(masked, ~absent, np.nan),
    "absent_inf": spoilt(masked, ~absent, np.inf),
    "zero_1": of_gradients(without_task_1),
    "zero": of_gradients(np.zeros_like),
    "shows": base._replace(grads=spoilt(base, shows, np.nan).grads),
  } | {
    f"scale {e}": of_gradients(lambda leaf, e=e: leaf * 2.0**e)
    for e in EXPONENTS
  }
