"""Where rays hit spheres, boxes and cylinders, a ground and a wall.

All rays of many scenes at once, in float64.
"""

import dataclasses

import numpy as np

CLASSES = ("ground", "wall", "sphere", "box", "cylinder")
SPHERE, BOX, CYLINDER = 2, 3, 4

#: Objects in a scene, at most; surfaces are these, the ground and the wall.
SLOTS = 5


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


#: Ray parameters [N, P], infinite where nothing is hit, and unit normals
#: [N, P, 3].
Hits = tuple[np.ndarray, np.ndarray]


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Inner products [...] of vectors [..., 3]."""
  return np.einsum("...i,...i->...", a, b)


def unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors [..., 3] of length 1."""
  return vectors / np.sqrt(dot(vectors, vectors))[..., None]


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
  t = _first_root(dot(rays, rays), dot(rays, away), dot(away, away) - radius**2)
  return t, (_at(start, rays, t) - centre) / radius[..., None]


def _cylinder(start: np.ndarray, rays: np.ndarray, it: Scenes, s: int) -> Hits:
  radius, height = it.radius[:, s, None], it.height[:, s, None]
  flat = np.array([0, 2])
  away = start[..., flat] - it.centre[:, s, None]
  ahead = rays[..., flat]
  side = _first_root(
    dot(ahead, ahead), dot(ahead, away), dot(away, away) - radius**2
  )
  y = _at(start, rays, side)[..., 1]
  side = np.where((y >= 0) & (y <= height), side, np.inf)
  down = rays[..., 1]
  top = (height - start[..., 1]) / np.where(down < 0, down, -1.0)
  off = away + top[..., None] * ahead
  on_top = (down < 0) & (top > 0) & (dot(off, off) <= radius**2)
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


_SHAPES = {SPHERE: _sphere, BOX: _box, CYLINDER: _cylinder}


def nearest_object(
  start: np.ndarray, rays: np.ndarray, scenes: Scenes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ray parameter, normal and surface of the first object on each ray."""
  shape = rays.shape[:2]
  t = np.full(shape, np.inf)
  normal = np.zeros(rays.shape)
  surface = np.zeros(shape, np.int64)
  start = np.broadcast_to(start, rays.shape)
  for slot in range(SLOTS):
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


def cast(
  start: np.ndarray, rays: np.ndarray, scenes: Scenes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The same with ground (surface 0) and wall (1): every ray hits something."""
  t, normal, surface = nearest_object(start, rays, scenes)
  distance, turned = scenes.wall[:, 0], scenes.wall[:, 1]
  zero = np.zeros_like(turned)
  facing = np.stack([np.sin(turned), zero, -np.cos(turned)], axis=-1)[:, None]
  on_wall = np.stack([zero, zero, distance], axis=-1)[:, None]
  planes = (
    (np.array([[[0.0, 1.0, 0.0]]]), np.zeros((1, 1, 3))),
    (facing, on_wall),
  )
  for index, (upward, point) in enumerate(planes):
    slope = dot(rays, upward)
    new = dot(point - start, upward) / np.where(slope < 0, slope, -1.0)
    closer = (slope < 0) & (new < t)
    t = np.where(closer, new, t)
    normal = np.where(closer[..., None], upward, normal)
    surface = np.where(closer, index, surface)
  return t, normal, surface
