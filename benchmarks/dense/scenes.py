"""Images of simple geometry, with labels for every pixel.

Spheres, boxes and cylinders stand on a textured ground before a wall, under one
lamp, seen by a pinhole camera. Rays are cast for all pixels of many images at
once, in NumPy, in float64: one seed gives the same bytes.

>>> scenes = render(2, size=16, seed=1)
>>> scenes["image"].shape, scenes["labels"]["normals"].shape
((2, 16, 16, 3), (2, 16, 16, 3))
>>> [str(name) for name in np.array(CLASSES)[np.unique(
...   scenes["labels"]["segmentation"])]]
['ground', 'wall', 'sphere', 'box', 'cylinder']
"""

import dataclasses
from typing import Any

import numpy as np

CLASSES = ("ground", "wall", "sphere", "box", "cylinder")
_SPHERE, _BOX, _CYLINDER = 2, 3, 4

#: Objects in a scene, at most; surfaces are these, the ground and the wall.
_SLOTS = 5
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


@dataclasses.dataclass(frozen=True)
class Scenes:
  """What stands where in N scenes.

  The world has y upwards and the ground at y = 0. The camera stands at x = z =
  0 and looks along z, downwards by its pitch.

  Attributes:
    kind: int [N, S], the class of each object; 0 where the slot is empty.
    centre: [N, S, 2], x and z.
    radius: [N, S], of spheres and cylinders; of boxes half of the width.
    height: [N, S], of boxes and cylinders.
    across: [N, S], of boxes half of the other side.
    yaw: [N, S], of boxes, in radians.
    wall: [N, 2], the wall's distance along z, and how far it is turned.
    camera: [N, 2], the camera's height, and its pitch in radians.
    lamp: [N, 3], where it is.
    colours: [N, 2, 2 + S, 3], two of each surface.
    waves: [N, 2 + S, 4], wave vector and phase of each surface's texture.
  """

  kind: np.ndarray
  centre: np.ndarray
  radius: np.ndarray
  height: np.ndarray
  across: np.ndarray
  yaw: np.ndarray
  wall: np.ndarray
  camera: np.ndarray
  lamp: np.ndarray
  colours: np.ndarray
  waves: np.ndarray

  def __getitem__(self, rows: slice) -> "Scenes":
    """Some of the scenes."""
    return Scenes(
      **{
        field.name: getattr(self, field.name)[rows]
        for field in dataclasses.fields(self)
      }
    )


def draw(count: int, rng: np.random.Generator) -> Scenes:
  """Draws scenes: two to five objects each.

  Args:
    count: N.
    rng: Where chance comes from.

  Returns:
    The scenes.
  """
  shape = count, _SLOTS
  kind = rng.integers(_SPHERE, _CYLINDER + 1, shape)
  present = rng.integers(2, _SLOTS + 1, (count, 1))
  kind[np.arange(_SLOTS) >= present] = 0
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
    colours=rng.uniform(0.15, 1.0, (count, 2, 2 + _SLOTS, 3)),
    waves=rng.normal(0.0, 2.5, (count, 2 + _SLOTS, 4)),
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


# -- where rays hit ------------------------------------------------------------

#: Ray parameters [N, P], infinite where nothing is hit, and unit normals
#: [N, P, 3].
Hits = tuple[np.ndarray, np.ndarray]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.einsum("...i,...i->...", a, b)


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.sqrt(_dot(vectors, vectors))[..., None]


def _first_root(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
  """The smaller t with `a t² + 2 b t + c = 0`; infinite without one ahead."""
  discriminant = b * b - a * c
  root = np.sqrt(np.maximum(discriminant, 0.0))
  # A ray straight down has a = 0 against a cylinder's side, and misses it.
  t = (-b - root) / np.where(a > 0, a, 1.0)
  hits = (discriminant > 0) & (a > 0) & (t > 0)
  return np.where(hits, t, np.inf)


def _at(start: np.ndarray, rays: np.ndarray, t: np.ndarray) -> np.ndarray:
  """The points at t, and at 0 where t is infinite."""
  return start + np.where(np.isfinite(t), t, 0.0)[..., None] * rays


def _sphere(start: np.ndarray, rays: np.ndarray, it: Scenes, s: int) -> Hits:
  radius = it.radius[:, s, None]
  x, z = it.centre[:, s, None, 0], it.centre[:, s, None, 1]
  centre = np.stack([x, radius, z], axis=-1)
  away = start - centre
  t = _first_root(
    _dot(rays, rays), _dot(rays, away), _dot(away, away) - radius**2
  )
  return t, (_at(start, rays, t) - centre) / radius[..., None]


def _cylinder(start: np.ndarray, rays: np.ndarray, it: Scenes, s: int) -> Hits:
  radius, height = it.radius[:, s, None], it.height[:, s, None]
  flat = np.array([0, 2])
  away = start[..., flat] - it.centre[:, s, None]
  ahead = rays[..., flat]
  side = _first_root(
    _dot(ahead, ahead), _dot(ahead, away), _dot(away, away) - radius**2
  )
  y = _at(start, rays, side)[..., 1]
  side = np.where((y >= 0) & (y <= height), side, np.inf)
  down = rays[..., 1]
  top = (height - start[..., 1]) / np.where(down < 0, down, -1.0)
  off = away + top[..., None] * ahead
  on_top = (down < 0) & (top > 0) & (_dot(off, off) <= radius**2)
  top = np.where(on_top, top, np.inf)
  normal = np.zeros(rays.shape)
  normal[..., flat] = (away + _at(0.0, ahead, side)) / radius[..., None]
  normal[top < side] = [0.0, 1.0, 0.0]
  return np.minimum(side, top), normal


def _box(start: np.ndarray, rays: np.ndarray, it: Scenes, s: int) -> Hits:
  sine, cosine = np.sin(it.yaw[:, s]), np.cos(it.yaw[:, s])
  zero, one = np.zeros_like(sine), np.ones_like(sine)
  axes = np.stack(
    [
      np.stack([cosine, zero, sine], axis=-1),
      np.stack([zero, one, zero], axis=-1),
      np.stack([-sine, zero, cosine], axis=-1),
    ],
    axis=-2,
  )
  half = np.stack(
    [it.radius[:, s], it.height[:, s] / 2, it.across[:, s]], axis=-1
  )[:, None]
  x, z = it.centre[:, s, 0], it.centre[:, s, 1]
  centre = np.stack([x, it.height[:, s] / 2, z], axis=-1)[:, None]
  local = (start - centre) @ axes.swapaxes(1, 2)
  ahead = rays @ axes.swapaxes(1, 2)
  # Along an axis that the ray does not move on, both slabs are at infinity, or
  # it never gets between them.
  ahead = np.where(np.abs(ahead) < 1e-12, 1e-12, ahead)
  first, second = (-half - local) / ahead, (half - local) / ahead
  near, far = np.minimum(first, second), np.maximum(first, second)
  axis = near.argmax(axis=-1)
  t = near.max(axis=-1)
  t = np.where((t < far.min(axis=-1)) & (t > 0), t, np.inf)
  sign = -np.sign(np.take_along_axis(ahead, axis[..., None], axis=-1))
  normal = sign * np.take_along_axis(axes, axis[..., None], axis=1)
  return t, normal


_SHAPES = {_SPHERE: _sphere, _BOX: _box, _CYLINDER: _cylinder}


def _nearest_object(
  start: np.ndarray, rays: np.ndarray, scenes: Scenes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ray parameter, normal and surface of the first object on each ray."""
  shape = rays.shape[:2]
  t = np.full(shape, np.inf)
  normal = np.zeros(rays.shape)
  surface = np.zeros(shape, np.int64)
  start = np.broadcast_to(start, rays.shape)
  for slot in range(_SLOTS):
    for kind, shape_of in _SHAPES.items():
      rows = np.flatnonzero(scenes.kind[:, slot] == kind)
      if not rows.size:
        continue
      new, its_normal = shape_of(start[rows], rays[rows], scenes[rows], slot)
      closer = new < t[rows]
      t[rows] = np.where(closer, new, t[rows])
      normal[rows] = np.where(closer[..., None], its_normal, normal[rows])
      surface[rows] = np.where(closer, 2 + slot, surface[rows])
  return t, normal, surface


def _cast(
  start: np.ndarray, rays: np.ndarray, scenes: Scenes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The same with ground (surface 0) and wall (1): every ray hits something."""
  t, normal, surface = _nearest_object(start, rays, scenes)
  distance, turned = scenes.wall[:, 0], scenes.wall[:, 1]
  zero = np.zeros_like(turned)
  facing = np.stack([np.sin(turned), zero, -np.cos(turned)], axis=-1)[:, None]
  on_wall = np.stack([zero, zero, distance], axis=-1)[:, None]
  planes = (
    (np.array([[[0.0, 1.0, 0.0]]]), np.zeros((1, 1, 3))),
    (facing, on_wall),
  )
  for index, (upward, point) in enumerate(planes):
    slope = _dot(rays, upward)
    new = _dot(point - start, upward) / np.where(slope < 0, slope, -1.0)
    closer = (slope < 0) & (new < t)
    t = np.where(closer, new, t)
    normal = np.where(closer[..., None], upward, normal)
    surface = np.where(closer, index, surface)
  return t, normal, surface


# -- what is seen --------------------------------------------------------------


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
  counts = np.stack([(flat == 2 + s).sum(axis=1) for s in range(_SLOTS)], 1)
  largest = 2 + counts.argmax(axis=1)
  return surface == largest[:, None, None]


def _colours(scenes: Scenes, surface: np.ndarray, at: np.ndarray) -> np.ndarray:
  """The surfaces' own colours [N, P, 3]: two, that alternate in waves."""
  rows = np.arange(len(surface))[:, None]
  wave = scenes.waves[rows, surface]
  share = 0.5 + 0.5 * np.sin(_dot(wave[..., :3], at) + wave[..., 3])
  first, second = scenes.colours[:, 0], scenes.colours[:, 1]
  a, b = first[rows, surface], second[rows, surface]
  return a + share[..., None] * (b - a)


def _seen(scenes: Scenes, size: int) -> dict[str, np.ndarray]:
  """Labels of a chunk of scenes, and their images without noise."""
  height, pitch = scenes.camera[:, 0], scenes.camera[:, 1]
  axes = camera_axes(pitch)
  start = np.stack([0 * height, height, 0 * height], axis=-1)[:, None]
  rays = pixel_rays(size) @ axes
  depth, normal, surface = _cast(start, rays, scenes)
  points = start + depth[..., None] * rays
  to_lamp = scenes.lamp[:, None] - points
  blocked, _, _ = _nearest_object(
    points + _OFF_SURFACE * normal, to_lamp, scenes
  )
  towards = _dot(normal, _unit(to_lamp))
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
    "facing": -_dot(normal, _unit(rays)).reshape(frame),
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
