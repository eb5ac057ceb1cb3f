"""Images of simple geometry, with labels for every pixel.

Spheres, boxes and cylinders stand on a textured ground before a wall, under one
lamp, seen by a pinhole camera. Rays are cast for all pixels of many images at
once, in NumPy, in float64: one seed gives the same bytes.

>>> from benchmarks.dense.casting import CLASSES
>>> scenes = render(2, size=16, seed=1)
>>> scenes["image"].shape, scenes["labels"]["normals"].shape
((2, 16, 16, 3), (2, 16, 16, 3))
>>> [str(name) for name in np.array(CLASSES)[np.unique(
...   scenes["labels"]["segmentation"])]]
['ground', 'wall', 'sphere', 'box', 'cylinder']
"""

from typing import Any

import numpy as np

from benchmarks.dense.casting import (
  CYLINDER,
  SLOTS,
  SPHERE,
  Scenes,
  cast,
  dot,
  nearest_object,
  unit,
)

#: How far right and up the image reaches, one unit before the camera: a field
#: of view of 62 degrees.
_HALF_WIDTH = 0.6
#: Images whose rays are cast together: arrays that fit in a cache.
_CHUNK = 32
#: Shadow rays start so far off the surface, in the units of the scene, whose
#: objects are about 1 wide.
_OFF_SURFACE = 1e-4
#: A depth sensor sees nothing of surfaces nearly along its line of sight: below
#: this cosine.
_GRAZING = 0.1

#: `{"image": ..., "labels": {task: ...}, "masks": {task: ...}}`.
Batch = dict[str, Any]


def draw(count: int, rng: np.random.Generator) -> Scenes:
  """Draws scenes: two to five objects each.

  Args:
    count: N.
    rng: Where chance comes from.

  Returns:
    The scenes.
  """
  shape = count, SLOTS
  kind = rng.integers(SPHERE, CYLINDER + 1, shape)
  present = rng.integers(2, SLOTS + 1, (count, 1))
  kind[np.arange(SLOTS) >= present] = 0
  distance = rng.uniform(2.5, 6.0, shape)
  centre = np.stack(
    [distance * rng.uniform(-0.5, 0.5, shape), distance], axis=-1
  )
  return Scenes(
    kind=kind,
    centre=centre,
    radius=rng.uniform(0.4, 0.9, shape),
    height=rng.uniform(0.6, 2.0, shape),
    across=rng.uniform(0.4, 0.9, shape),
    yaw=rng.uniform(0.0, np.pi / 2, shape),
    wall=np.stack(
      [rng.uniform(7.5, 9.5, count), rng.uniform(-0.3, 0.3, count)], axis=-1
    ),
    camera=np.stack(
      [rng.uniform(1.5, 2.5, count), rng.uniform(0.1, 0.3, count)], axis=-1
    ),
    # Above and behind the camera, to either side of it.
    lamp=rng.uniform([-4.0, 4.0, -3.0], [4.0, 7.0, 1.0], (count, 3)),
    colours=rng.uniform(0.15, 1.0, (count, 2, 2 + SLOTS, 3)),
    waves=rng.normal(0.0, 2.5, (count, 2 + SLOTS, 4)),
  )


def camera_axes(pitch: np.ndarray) -> np.ndarray:
  """The camera's axes right, up and forward, in the world.

  Args:
    pitch: [N], how far it looks down, in radians.

  Returns:
    [N, 3, 3], an axis a row.
  """
  sine, cosine = np.sin(pitch), np.cos(pitch)
  zero, one = np.zeros_like(pitch), np.ones_like(pitch)
  rows = [
    [one, zero, zero],
    [zero, cosine, sine],
    [zero, -sine, cosine],
  ]
  return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def pixel_rays(size: int) -> np.ndarray:
  """Rays of one camera, in its axes: [size², 3], 1 along its view.

  So a ray's parameter at a point is the point's depth.
  """
  edge = _HALF_WIDTH * (1 - 1 / size)
  right, up = np.meshgrid(
    np.linspace(-edge, edge, size), np.linspace(edge, -edge, size)
  )
  return np.stack([right, up, np.ones_like(up)], axis=-1).reshape(-1, 3)


def edges_of(surface: np.ndarray) -> np.ndarray:
  """Pixels whose right or lower neighbour shows another surface.

  All objects are convex, so this is where class or depth jumps.

  Args:
    surface: int [N, H, W].

  Returns:
    bool [N, H, W].

  Example:
    >>> edges_of(np.array([[[0, 0, 2], [0, 0, 0]]])).astype(int).tolist()
    [[[0, 1, 1], [0, 0, 0]]]
  """
  edges = np.zeros(surface.shape, bool)
  edges[:, :, :-1] |= surface[:, :, :-1] != surface[:, :, 1:]
  edges[:, :-1] |= surface[:, :-1] != surface[:, 1:]
  return edges


def _salient(surface: np.ndarray) -> np.ndarray:
  """The object that covers the most pixels; nothing if none is in sight."""
  flat = surface.reshape(len(surface), -1)
  counts = np.stack([(flat == 2 + s).sum(axis=1) for s in range(SLOTS)], 1)
  largest = 2 + counts.argmax(axis=1)
  return surface == largest[:, None, None]


def _colours(scenes: Scenes, surface: np.ndarray, at: np.ndarray) -> np.ndarray:
  """The surfaces' own colours [N, P, 3]: two, that alternate in waves."""
  rows = np.arange(len(surface))[:, None]
  wave = scenes.waves[rows, surface]
  share = 0.5 + 0.5 * np.sin(dot(wave[..., :3], at) + wave[..., 3])
  first, second = scenes.colours[:, 0], scenes.colours[:, 1]
  a, b = first[rows, surface], second[rows, surface]
  return a + share[..., None] * (b - a)


def _seen(scenes: Scenes, size: int) -> dict[str, np.ndarray]:
  """Labels of a chunk of scenes, and their images without noise."""
  height, pitch = scenes.camera[:, 0], scenes.camera[:, 1]
  axes = camera_axes(pitch)
  start = np.stack([0 * height, height, 0 * height], axis=-1)[:, None]
  rays = pixel_rays(size) @ axes
  depth, normal, surface = cast(start, rays, scenes)
  points = start + depth[..., None] * rays
  to_lamp = scenes.lamp[:, None] - points
  blocked, _, _ = nearest_object(
    points + _OFF_SURFACE * normal, to_lamp, scenes
  )
  towards = dot(normal, unit(to_lamp))
  lit = (towards > 0) & (blocked > 1)
  shading = 0.35 + 0.65 * np.where(lit, towards, 0.0)
  colours = _colours(scenes, surface, points)
  kinds = np.concatenate(
    [np.tile([0, 1], (len(surface), 1)), scenes.kind], axis=1
  )
  frame = len(surface), size, size
  surface = surface.reshape(frame)
  rows = np.arange(len(surface))[:, None, None]
  return {
    "segmentation": kinds[rows, surface].astype(np.int32),
    "depth": depth.reshape(*frame, 1).astype(np.float32),
    "normals": (normal @ axes.swapaxes(1, 2))
    .reshape(*frame, 3)
    .astype(np.float32),
    "edges": edges_of(surface).astype(np.int32),
    "saliency": _salient(surface).astype(np.int32),
    "shadow": (~lit).reshape(frame).astype(np.int32),
    "albedo": colours.reshape(*frame, 3).astype(np.float32),
    "shading": shading.reshape(*frame, 1).astype(np.float32),
    "image": (colours * shading[..., None]).reshape(*frame, 3),
    "facing": -dot(normal, unit(rays)).reshape(frame),
  }


def _discs(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
  """One disc an image, bool [N, H, W]: a seventh of the pixels or less."""
  centre = rng.uniform(0, size, (count, 2, 1, 1))
  radius = rng.uniform(0.05, 0.2, (count, 1, 1)) * size
  row, column = np.mgrid[:size, :size]
  return np.hypot(row - centre[:, 0], column - centre[:, 1]) < radius


def render(
  count: int,
  size: int = 32,
  seed: int = 0,
  *,
  noise: float = 0.04,
  missing: float = 0.0,
) -> Batch:
  """Draws scenes and renders them.

  Not every pixel has a label. In each image an annotator left out one disc of
  the segmentation, and the depth sensor saw nothing in another one, nor where
  it looked along a surface; depth and normals have no label there. Of a share
  of the images a task has no label at all, each task of others.

  Args:
    count: N images.
    size: H = W, pixels.
    seed: Chance starts here.
    noise: Standard deviation of the noise of each colour of each pixel.
    missing: Share of the images without a task's labels.

  Returns:
    A dict of "image", float32 [N, H, W, 3] in [0, 1]; "labels", of each task an
    int32 array [N, H, W] or a float32 array [N, H, W, C], zero where there is
    no label; and "masks", of each task a bool array [N, H, W], True where there
    is one. Depth is that along the camera's view. Normals are unit vectors in
    the camera's axes, right, up and forward.
  """
  rng = np.random.default_rng(seed)
  scenes = draw(count, rng)
  noises = noise * rng.standard_normal((count, size, size, 3))
  left_out, unseen = (_discs(count, size, rng) for _ in range(2))
  chunks = [
    _seen(scenes[first : first + _CHUNK], size)
    for first in range(0, count, _CHUNK)
  ]
  labels = {
    name: np.concatenate([chunk[name] for chunk in chunks])
    for name in chunks[0]
  }
  image = np.clip(labels.pop("image") + noises, 0.0, 1.0)
  sensed = (labels.pop("facing") > _GRAZING) & ~unseen
  everywhere = np.ones(sensed.shape, bool)
  given = {"segmentation": ~left_out, "depth": sensed, "normals": sensed}
  masks: dict[str, np.ndarray] = {}
  for name, label in labels.items():
    without = rng.permutation(count) < round(missing * count)
    mask = given.get(name, everywhere) & ~without[:, None, None]
    masks[name] = mask
    kept = mask if label.ndim == mask.ndim else mask[..., None]
    labels[name] = np.where(kept, label, np.zeros((), label.dtype))
  return {
    "image": image.astype(np.float32),
    "labels": labels,
    "masks": masks,
  }
