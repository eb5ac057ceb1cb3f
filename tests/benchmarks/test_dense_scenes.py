"""The rendered scenes: what geometry says that they must hold."""

import dataclasses

import numpy as np

from benchmarks.dense import scenes


def a_scene(**replaced):
  """One scene with a level camera 0.8 above the ground, and no objects."""
  drawn = scenes.draw(1, np.random.default_rng(0))
  fields = {
    "kind": np.zeros((1, 5), int),
    "camera": np.array([[0.8, 0.0]]),
    "wall": np.array([[9.0, 0.0]]),
  } | replaced
  return dataclasses.replace(drawn, **fields)


def seen(scene, size=64):
  """Labels of one scene without its axis, and the points that are seen."""
  labels = {name: x[0] for name, x in scenes._seen(scene, size).items()}
  rays = scenes.pixel_rays(size).reshape(size, size, 3)
  return labels, rays, rays * labels["depth"].astype(np.float64)


#: Of a depth of at most 12 in float32.
ROUNDING = 12 * 2**-23


def test_ground_and_wall_are_where_they_were_put():
  labels, rays, _ = seen(a_scene())
  depth = labels["depth"][..., 0]
  down = -rays[..., 1]
  on_wall = labels["segmentation"] == 1
  # The line of sight meets the ground at height / slope, or the wall before.
  with np.errstate(divide="ignore"):
    ground = np.where(down > 0, 0.8 / down, np.inf)
  np.testing.assert_array_equal(on_wall, ground > 9.0)
  expected = np.minimum(ground, 9.0)
  np.testing.assert_allclose(depth, expected, atol=ROUNDING)
  assert (labels["normals"][on_wall] == [0, 0, -1]).all()
  assert (labels["normals"][~on_wall] == [0, 1, 0]).all()


def test_a_sphere_is_round():
  """Level with the camera, straight ahead: 5 away, of radius 0.8."""
  kind = np.array([[2, 0, 0, 0, 0]])
  ones = np.ones((1, 5))
  scene = a_scene(
    kind=kind, radius=0.8 * ones, centre=np.stack([0 * ones, 5 * ones], -1)
  )
  # An odd size: one pixel looks straight ahead.
  labels, rays, points = seen(scene, 65)
  centre = np.array([0.0, 0.0, 5.0])
  on_it = labels["segmentation"] == 2
  # Its outline is a cone with sine 0.8 / 5.
  cosines = rays[..., 2] / np.linalg.norm(rays, axis=-1)
  np.testing.assert_array_equal(on_it, cosines > np.sqrt(1 - (0.8 / 5) ** 2))
  assert abs(labels["depth"][32, 32, 0] - 4.2) < ROUNDING
  away = points[on_it] - centre
  np.testing.assert_allclose(np.linalg.norm(away, axis=-1), 0.8, atol=1e-5)
  assert (points[on_it][:, 2] < 5).all(), "The near side."
  np.testing.assert_allclose(labels["normals"][on_it], away / 0.8, atol=1e-5)


def neighbours(x):
  """The nine pixels around each inner one: [9, H - 2, W - 2, ...]."""
  height, width = x.shape[:2]
  return np.stack(
    [
      x[i : height - 2 + i, j : width - 2 + j]
      for i in range(3)
      for j in range(3)
    ]
  )


def test_normals_are_the_slopes_of_depth():
  """Of all shapes: unit vectors, and what finite differences say."""
  drawn = scenes.draw(6, np.random.default_rng(3))
  flat = curved = 0
  for index in range(6):
    labels, _, points = seen(drawn[index : index + 1], 128)
    normals = labels["normals"].astype(np.float64)
    assert abs(np.linalg.norm(normals, axis=-1) - 1).max() < 4 * 2**-23
    across = points[1:-1, 2:] - points[1:-1, :-2]
    upward = points[:-2, 1:-1] - points[2:, 1:-1]
    slope = np.cross(across, upward)
    # A surface that is seen faces the camera.
    slope *= -np.sign(np.sum(slope * points[1:-1, 1:-1], -1, keepdims=True))
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
    off = np.linalg.norm(slope - normals[1:-1, 1:-1], axis=-1)
    around = neighbours(normals)
    bend = np.linalg.norm(around - around[4], axis=-1).max(axis=0)
    smooth = ~neighbours(labels["edges"]).any(axis=0)
    plane, bent = smooth & (bend < 1e-6), smooth & (bend > 1e-3) & (bend < 0.1)
    # Roundings of depth, over the distance of two pixels: 0.02 times depth.
    assert off[plane].max() < 1e-3
    # Central differences are of second order in the change to a neighbour, at
    # most 0.1; near an outline, where it grows from pixel to pixel, with a
    # factor of 1.
    assert off[bent].max(initial=0) < 2 * 0.1**2
    flat, curved = flat + plane.sum(), curved + bent.sum()
  assert flat > 10_000 and curved > 500


def test_edges_are_where_class_or_depth_jumps():
  labels = scenes.render(8, 128, 5)["labels"]
  masks = scenes.render(8, 128, 5)["masks"]
  edges = labels["edges"].astype(bool)
  segments, depth = labels["segmentation"], labels["depth"][..., 0]
  for axis in (1, 2):
    pairs = [slice(None)] * 3, [slice(None)] * 3
    pairs[0][axis], pairs[1][axis] = slice(None, -1), slice(1, None)
    here, there = map(tuple, pairs)
    given = {name: mask[here] & mask[there] for name, mask in masks.items()}
    other = (segments[here] != segments[there]) & given["segmentation"]
    # The ground itself rises by less from a pixel to the next.
    jump = depth[here] / np.where(given["depth"], depth[there], 1)
    jump = (abs(np.log(np.where(given["depth"], jump, 1))) > 0.2) & (
      given["depth"]
    )
    assert other.sum() > 500 and jump.sum() > 500
    assert edges[here][other | jump].all()
  # And they are lines.
  assert 0.01 < edges.mean() < 0.1


def test_one_seed_is_the_same_bytes():
  first, again, other = (scenes.render(3, 16, seed) for seed in (1, 1, 2))
  for batch in (first, again, other):
    assert batch["image"].min() >= 0 and batch["image"].max() <= 1
  assert first["image"].tobytes() == again["image"].tobytes()
  for part in ("labels", "masks"):
    for name, array in first[part].items():
      assert array.tobytes() == again[part][name].tobytes()
  assert first["image"].tobytes() != other["image"].tobytes()


def test_labels_are_missing_as_asked_and_zero_there():
  batch = scenes.render(40, 16, 0, missing=0.25)
  absent = {}
  for name, mask in batch["masks"].items():
    label = batch["labels"][name]
    assert np.isfinite(label).all()
    assert (label[~mask] == 0).all()
    absent[name] = ~mask.any(axis=(1, 2))
    assert absent[name].sum() == 10
    # Where there are labels, most pixels have one.
    assert mask[~absent[name]].mean() > 0.8
  assert (absent["depth"] != absent["normals"]).any()
  for name in ("segmentation", "depth", "normals"):
    assert not batch["masks"][name][~absent[name]].all()
