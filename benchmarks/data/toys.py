"""Objectives given by a formula, with the Pareto fronts that are known.

A toy is a function of a parameter vector; there is no data and no network.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Toy:
  """Two objectives of one parameter vector.

  Attributes:
    name: A name for tables and file names.
    dim: Number of parameters.
    losses: `params [dim] -> losses [2]`, for jit, vmap and grad.
    start: `key -> params [dim]`, a random starting point.
    front: `n -> [n, 2]`, n points along the Pareto front, from the end that is
      best for task 0, as a NumPy array.
    starts: float64 [S, dim], the starting points of the papers; S may be 0.
    hypervolume: Of the whole front, reference point (1, 1); None if unknown.
  """

  name: str
  dim: int
  losses: Callable[[jax.Array], jax.Array]
  start: Callable[[jax.Array], jax.Array]
  front: Callable[[int], np.ndarray]
  starts: np.ndarray
  hypervolume: float | None = None


def fonseca(dim: int = 20) -> Toy:
  """The problem of Fonseca and Fleming on which Pareto MTL is shown.

  `f(x) = 1 - exp(-Σ (x_i ∓ 1/√d)²)`, minus for the first and plus for the
  second. The Pareto set is the segment between the two minima, so the front is
  `(1 - exp(-(u-1)²), 1 - exp(-(u+1)²))` for `u` from 1 to -1. It is concave:
  minima of weighted sums lie at its two ends only.

  Args:
    dim: Number of parameters d, at least 1.

  Returns:
    A `Toy`; its `start` is uniform on (-0.5, 0.5).

  Example:
    >>> toy = fonseca(4)
    >>> [round(float(loss), 4) for loss in toy.losses(jnp.full(4, 0.5))]
    [0.0, 0.9817]
  """
  if dim < 1:
    raise ValueError(f"dim must be at least 1; got {dim}.")
  centre = 1 / math.sqrt(dim)

  def losses(params: jax.Array) -> jax.Array:
    first = jnp.sum(jnp.square(params - centre))
    second = jnp.sum(jnp.square(params + centre))
    # expm1 keeps the digits of small losses.
    return -jnp.expm1(-jnp.stack([first, second]))

  def front(n: int) -> np.ndarray:
    u = np.linspace(1.0, -1.0, n)
    return -np.expm1(-np.stack([(u - 1) ** 2, (u + 1) ** 2], axis=1))

  return Toy(
    name="fonseca",
    dim=dim,
    losses=losses,
    start=lambda key: jax.random.uniform(
      key, (dim,), jnp.float32, minval=-0.5, maxval=0.5
    ),
    front=front,
    starts=np.zeros((0, dim)),
    hypervolume=math.exp(-4)
    + math.exp(-2) * math.sqrt(2 * math.pi) * math.erf(math.sqrt(2)),
  )


def _clip_below(x: jax.Array, floor: float) -> jax.Array:
  # jnp.maximum halves the slope at a tie, and the start (0, 0) sits on two.
  return jnp.where(x >= floor, x, floor)


def valleys(scale: float = 0.1) -> Toy:
  """The two-parameter landscape drawn for CAGrad, Nash-MTL and FAMO.

  Two steep valleys with conflicting gradients lead to a shallow basin that
  holds the Pareto set. `scale` multiplies the first loss: 0.1 as for Nash-MTL
  and FAMO, 1 as for CAGrad. Losses can be negative.

  Args:
    scale: Factor on the first loss.

  Returns:
    A `Toy` with two parameters; `starts` are those of the Nash-MTL paper, or of
    the CAGrad paper if `scale` is 1.

  References:
    Liu et al., Conflict-averse gradient descent for multi-task learning,
    NeurIPS 2021. Navon et al., Multi-task learning as a bargaining game, ICML
    2022.

  Example:
    >>> valleys().losses(jnp.zeros(2)).tolist()
    [0.0, 0.0]
  """

  def losses(params: jax.Array) -> jax.Array:
    x1, x2 = params[0], params[1]
    f1 = jnp.abs(0.5 * (-x1 - 7) - jnp.tanh(-x2))
    f2 = jnp.abs(0.5 * (-x1 + 3) + jnp.tanh(-x2) + 2)
    f1 = jnp.log(_clip_below(f1, 5e-6)) + 6
    f2 = jnp.log(_clip_below(f2, 5e-6)) + 6
    bowl = 0.1 * jnp.square(-x2 - 8)
    q1 = (jnp.square(-x1 + 7) + bowl) / 10 - 20
    q2 = (jnp.square(-x1 - 7) + bowl) / 10 - 20
    c1 = _clip_below(jnp.tanh(0.5 * x2), 0.0)
    c2 = _clip_below(jnp.tanh(-0.5 * x2), 0.0)
    return jnp.stack([scale * (c1 * f1 + c2 * q1), c1 * f2 + c2 * q2])

  def front(n: int) -> np.ndarray:
    # Below zero both losses are tanh(-x2 / 2) q_i. A stationary point of a
    # weighted sum has the weights that cancel its slope in x1; its x2 is where
    # the slope in x2 vanishes too, found by bisection.
    x1 = np.linspace(7.0, -7.0, n)
    low, high = np.full(n, -12.0), np.full(n, -8.0)
    for _ in range(60):
      x2 = (low + high) / 2
      above = _valley_slope(x1, x2) > 0
      high, low = np.where(above, x2, high), np.where(above, low, x2)
    q = _valley_bowls(x1, x2) * np.tanh(-x2 / 2)[:, None]
    return q * np.asarray([scale, 1.0])

  nash = [[-8.5, 7.5], [0.0, 0.0], [9.0, 9.0], [-7.5, -0.5], [9.0, -1.0]]
  cagrad = [[-8.5, 7.5], [-8.5, -5.0], [9.0, 9.0]]
  return Toy(
    name="valleys",
    dim=2,
    losses=losses,
    start=lambda key: jax.random.uniform(
      key, (2,), jnp.float32, minval=-10.0, maxval=10.0
    ),
    front=front,
    starts=np.asarray(cagrad if scale == 1 else nash),
  )


def _valley_bowls(x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
  bowl = 0.1 * (x2 + 8) ** 2
  return np.stack(
    [((x1 - 7) ** 2 + bowl) / 10 - 20, ((x1 + 7) ** 2 + bowl) / 10 - 20], axis=1
  )


def _valley_slope(x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
  """Slope in x2 of the weighted sum whose slope in x1 is zero at x1.

  The weights (x1 + 7) and (7 - x1) cancel the slopes in x1, 2 (x1 -+ 7) / 10.
  """
  q = _valley_bowls(x1, x2)
  weights = np.stack([7 + x1, 7 - x1], axis=1)
  mean = np.sum(weights * q, axis=1)
  t = np.tanh(-x2 / 2)
  return mean * (-0.5) * (1 - t**2) + t * 0.02 * (x2 + 8) * weights.sum(1)
