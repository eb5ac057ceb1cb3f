"""Sets of preferences, and the two meanings of the word.

A *direction* `u` asks for losses on the ray `L ∝ u`: with (1, 0) the loss of
the second task is to be zero. A *weight* `r` asks for `r_1 L_1 = ... = r_T
L_T`: with (1, 0) the first task is the one that matters. `invert_preference`
turns one into the other.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from optax_mtl import _checks


def uniform_directions(num_directions: int) -> np.ndarray:
  """Unit vectors at equal angles over the positive quadrant, for two tasks.

  `(cos(k π / 2K), sin(k π / 2K))` for `k = 0 .. K`, with `K = num_directions -
  1`, as in Pareto MTL; for more tasks see `das_dennis_directions`.

  Args:
    num_directions: How many, at least 2.

  Returns:
    Array [num_directions, 2], float64.

  Raises:
    ValueError: `num_directions` is below 2.

  Example:
    >>> import optax_mtl
    >>> print(optax_mtl.pareto.uniform_directions(3).round(3) + 0.0)
    [[1.    0.   ]
     [0.707 0.707]
     [0.    1.   ]]
  """
  _checks.check_whole("num_directions", num_directions)
  if num_directions < 2:
    raise ValueError(
      f"num_directions must be at least 2, got {num_directions}."
    )
  angles = np.linspace(0, np.pi / 2, num_directions)
  return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def das_dennis_directions(num_tasks: int, num_partitions: int) -> np.ndarray:
  """Unit vectors through a regular grid on the simplex, for any `num_tasks`.

  The grid of Das & Dennis: all points whose coordinates are multiples of
  `1 / num_partitions`, each scaled to length 1.

  Args:
    num_tasks: The number of tasks `T`, at least 1.
    num_partitions: How finely each edge of the simplex is divided, at least 1.

  Returns:
    Array [K, T], float64, `K = binomial(num_partitions + T - 1, T - 1)`.

  Raises:
    ValueError: An argument is below 1.

  Example:
    >>> import optax_mtl
    >>> optax_mtl.pareto.das_dennis_directions(3, 4).shape
    (15, 3)
  """
  _checks.check_whole("num_tasks", num_tasks)
  _checks.check_whole("num_partitions", num_partitions)
  if num_tasks < 1 or num_partitions < 1:
    raise ValueError(
      "num_tasks and num_partitions must be at least 1, got "
      f"{num_tasks} and {num_partitions}."
    )
  slots = num_partitions + num_tasks - 1
  points = np.empty((math.comb(slots, num_tasks - 1), num_tasks))
  # Stars and bars: the gaps between T - 1 bars are the coordinates.
  for row, bars in enumerate(
    itertools.combinations(range(slots), num_tasks - 1)
  ):
    edges = (-1, *bars, slots)
    points[row] = [b - a - 1 for a, b in itertools.pairwise(edges)]
  return points / np.linalg.norm(points, axis=1, keepdims=True)


def invert_preference(preference: jax.typing.ArrayLike) -> jax.Array:
  """Turns a direction into the weight that asks for the same point, or back.

  `r_i ∝ 1 / u_i`, scaled to length 1; a zero entry is taken as the smallest
  positive number that the dtype resolves beside 1.

  Args:
    preference: Array [..., T], non-negative, floating point.

  Returns:
    Array [..., T] of length 1 along the last axis.

  Raises:
    ValueError: A known entry is negative or not finite, or all are zero.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import optax_mtl
    >>> weight = optax_mtl.pareto.invert_preference(jnp.array([3.0, 4.0]))
    >>> print(np.asarray(weight).round(3))
    [0.8 0.6]
  """
  preference = jnp.asarray(preference)
  _checks.check_preference(preference, "preference")
  smallest = jnp.finfo(preference.dtype).eps * jnp.max(
    preference, axis=-1, keepdims=True
  )
  inverse = 1 / jnp.maximum(preference, smallest)
  return inverse / jnp.linalg.norm(inverse, axis=-1, keepdims=True)
