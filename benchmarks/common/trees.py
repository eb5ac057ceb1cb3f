"""Matrices as trees with the leaves of networks.

>>> shapes = tree_shapes("mlp", 64)
>>> sum(math.prod(shape) for shape in shapes)
64
>>> matrix = np.zeros((3, 64), np.float32)
>>> [leaf.shape for leaf in as_tree(matrix, shapes).values()][:2]
[(3, 4, 4), (3, 4)]
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Shapes = list[tuple[int, ...]]


def _mlp(width: int, blocks: int) -> Shapes:
  """Three hidden layers, whatever the size."""
  del blocks
  return [(width, width), (width,)] * 3


def _cnn(width: int, blocks: int) -> Shapes:
  """Convolutions 3x3, each with the scale and offset of its normalisation."""
  block: Shapes = [(3, 3, width, width), (width,), (width,)]
  return [(3, 3, 3, width), (width,)] + block * blocks


def _transformer(width: int, blocks: int) -> Shapes:
  """Attention and feed-forward parts with biases, two layer norms a block."""
  block: Shapes = [
    (width, 3 * width),
    (3 * width,),
    (width, width),
    (width,),
    (width, 4 * width),
    (4 * width,),
    (4 * width, width),
    (width,),
  ] + [(width,)] * 4
  return block * blocks


#: Name -> function `(width, blocks)` -> shapes; and how many blocks a network
#: has with under 1e5 parameters, under 1e6, under 1e7, and with more.
_TREES: Mapping[str, tuple[Callable[[int, int], Shapes], tuple[int, ...]]] = {
  "mlp": (_mlp, (1, 1, 1, 1)),
  "cnn": (_cnn, (1, 4, 8, 16)),
  "transformer": (_transformer, (1, 2, 4, 12)),
}
TREES = tuple(_TREES)


def tree_shapes(name: str, num_params: int) -> Shapes:
  """Shapes of a network's leaves, `num_params` entries in all.

  As wide as fits; what is left over is one more leaf, a vector.

  Args:
    name: One of `TREES`.
    num_params: How many entries, at least 32.

  Returns:
    The shapes.
  """
  build, sizes = _TREES[name]
  blocks = sizes[sum(num_params >= limit for limit in (1e5, 1e6, 1e7))]

  def size(width: int) -> int:
    return sum(math.prod(shape) for shape in build(width, blocks))

  width = 1
  while size(2 * width) <= num_params:
    width *= 2
  step = width
  while step := step // 2:
    if size(width + step) <= num_params:
      width += step
  if size(width) > num_params:
    return [(num_params,)]
  shapes = build(width, blocks)
  rest = num_params - size(width)
  return shapes + [(rest,)] * bool(rest)


def as_tree(matrix: np.ndarray, shapes: Shapes) -> dict[str, jax.Array]:
  """The columns of a matrix [T, P] as leaves [T, *shape], in order."""
  leaves: dict[str, jax.Array] = {}
  start = 0
  for index, shape in enumerate(shapes):
    stop = start + math.prod(shape)
    leaf = np.ascontiguousarray(matrix[:, start:stop])
    name = f"leaf_{index:03d}"  # sorted by name they keep their order
    leaves[name] = jnp.asarray(leaf.reshape(len(matrix), *shape))
    start = stop
  return leaves


def as_vector(tree: Mapping[str, jax.Array]) -> np.ndarray:
  """Leaves [*shape] as one vector [P], in the order of `as_tree`."""
  return np.concatenate(
    [np.asarray(leaf).reshape(-1) for leaf in tree.values()]
  )
