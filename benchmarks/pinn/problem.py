"""What a physics-informed problem is: terms on points of their own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.pinn.derivatives import Field

#: `{"layers": ...}`, and what else is trained.
Params = dict[str, Any]

#: The term that a method singles out, where it does: the equation itself.
RESIDUAL = "residual"


@dataclasses.dataclass(frozen=True)
class Term:
  """One loss: what has to vanish, and where.

  Attributes:
    residuals: `(field, params, points) -> [N]`. It sees the network as a field,
      so that tests can hand it the exact solution; `params` is for what is
      trained beside the network.
    sample: From a key to fresh points [M, d].
    scale: The loss is so many times the mean square, as where a paper adds up
      the means over four sides.
  """

  residuals: Callable[[Field, Params, jax.Array], jax.Array]
  sample: Callable[[jax.Array], jax.Array]
  scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Published:
  """One figure that somebody else reports.

  Attributes:
    method: Theirs, by our name where it is ours.
    error: Relative L2 error, as reported: text.
    source: Who, and in which setting.
  """

  method: str
  error: str
  source: str


# Equal is the same: what is compiled for a problem is kept by it.
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """An equation, a network for it, and its solution.

  Attributes:
    name: A key of `PROBLEMS`.
    terms: Name to term; `RESIDUAL` is always there.
    init: From a key to params.
    predict: `(params, points [N, d]) -> values [N] or [N, C]`.
    points: [N, d], where the error is measured.
    solution: [N] or [N, K], the exact values there, of the first K outputs.
    axes: Coordinate name to the grid's values, if the points are a grid with
      the first axis outermost: for pictures.
    rate: Adam's learning rate over the steps.
    steps: How many the tables here are for.
    published: What others report.
    scaled: How the setting differs from the published one.
  """

  name: str
  terms: Mapping[str, Term]
  init: Callable[[jax.Array], Params]
  predict: Callable[[Params, jax.Array], jax.Array]
  points: np.ndarray
  solution: np.ndarray
  axes: Mapping[str, np.ndarray]
  rate: optax.Schedule
  steps: int
  published: tuple[Published, ...] = ()
  scaled: str = ""

  @property
  def task_names(self) -> list[str]:
    """In the order of the rows of task gradients."""
    return sorted(self.terms)

  @property
  def num_tasks(self) -> int:
    """How many terms."""
    return len(self.terms)

  def residuals(
    self, name: str, params: Params, points: jax.Array
  ) -> jax.Array:
    """The residuals [N] of one term at its points."""
    field = lambda x: self.predict(params, x)  # noqa: E731
    return self.terms[name].residuals(field, params, points)

  def loss(self, name: str, params: Params, points: jax.Array) -> jax.Array:
    """The loss of one term, a scalar."""
    residuals = self.residuals(name, params, points)
    return self.terms[name].scale * jnp.mean(jnp.square(residuals))

  def sample(self, key: jax.Array) -> dict[str, jax.Array]:
    """Fresh points for every term."""
    keys = jax.random.split(key, self.num_tasks)
    return {
      name: self.terms[name].sample(key)
      for name, key in zip(self.task_names, keys, strict=True)
    }

  def solved(self, params: Params) -> jax.Array:
    """The network's values at `points`, in the shape of `solution`."""
    values = self.predict(params, jnp.asarray(self.points, jnp.float32))
    return values[:, : self.solution.shape[1]] if values.ndim > 1 else values

  def error(self, params: Params) -> jax.Array:
    """The relative L2 error, a scalar: 1 for a field that is zero."""
    found = self.solved(params)
    exact = jnp.asarray(self.solution, found.dtype)
    return jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)


def grid(*axes: np.ndarray) -> np.ndarray:
  """All points [N, d] of a grid, the first axis outermost.

  Example:
    >>> grid(np.array([0.0, 1.0]), np.array([5.0, 6.0])).tolist()
    [[0.0, 5.0], [0.0, 6.0], [1.0, 5.0], [1.0, 6.0]]
  """
  return np.stack(
    [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1
  )


def uniform(
  number: int, low: tuple[float, ...], high: tuple[float, ...]
) -> Callable[[jax.Array], jax.Array]:
  """A function from a key to points [number, d], uniform in a box.

  A side of the box has `low` equal to `high` in one coordinate.
  """

  def sample(key: jax.Array) -> jax.Array:
    unit = jax.random.uniform(key, (number, len(low)))
    start = jnp.asarray(low, jnp.float32)[None]
    return start + unit * (jnp.asarray(high, jnp.float32)[None] - start)

  return sample


def on_sides(
  *sides: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
  """Points of several boxes, one after the other."""

  def sample(key: jax.Array) -> jax.Array:
    keys = jax.random.split(key, len(sides))
    return jnp.concatenate(
      [side(key) for side, key in zip(sides, keys, strict=True)]
    )

  return sample
