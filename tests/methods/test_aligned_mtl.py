"""Aligned-MTL: an orthogonal frame of one length in the gradients' place."""

import numpy as np
from families import DELTA, DEPENDENT, assert_at_most, cases, sizes, solved
from one_step import (
  ORTHOGONAL,
  RTOL,
  assert_oracles,
  assert_same,
  gradients,
  run,
)
from shares import assert_preference_is_shared


def test_oracles():
  assert_oracles(
    "aligned_mtl",
    [
      ({}, ORTHOGONAL, [1 / 3, 1 / 3, 1 / 3]),
      ({"scale": "median"}, ORTHOGONAL, [2 / 3, 2 / 3, 2 / 3]),
      ({"scale": "rmse"}, ORTHOGONAL, [np.sqrt(14 / 3) / 3] * 3),
      # Of rank one: a frame of one vector √2 long, half of it from each.
      ({}, [[3, 4], [3, 4]], [3, 4]),
      # A task without gradient has no part in the frame, and keeps its share.
      ({}, [[3, 0, 0], [0, 0, 0], [0, 1, 0]], [1 / 3, 1 / 3, 0]),
      ({"preference": np.ones(3)}, ORTHOGONAL, [1, 1, 1]),
    ],
  )


def test_singular_values_are_equal():
  """The update is linear in the preference: e_i gives row i of B G."""
  grads = gradients(3)[:16]
  values = np.linalg.svd(grads, compute_uv=False)
  left, _, right = np.linalg.svd(grads, full_matrices=False)
  common = {
    "min": values[:, 2],
    "median": values[:, 1],
    "rmse": np.sqrt(np.mean(values**2, axis=1)),
  }
  for scale, length in common.items():
    found = run(
      "aligned_mtl",
      np.repeat(grads, 3, axis=0),
      preference=np.tile(np.eye(3), (16, 1)),
      scale=scale,
    )
    frames = found.updates.reshape(16, 3, -1)
    np.testing.assert_allclose(
      np.linalg.svd(frames, compute_uv=False),
      np.repeat(length[:, None], 3, axis=1),
      rtol=RTOL,
    )
    # The nearest such frame: B is symmetric and positive.
    assert_same(frames, left @ right * length[:, None, None], 1e-8)


def test_the_preference_is_shared():
  assert_preference_is_shared("aligned_mtl")


@sizes
def test_its_length_is_that_of_the_least_singular_value(num_tasks):
  """|d|^2 = lambda_min p . p, where all eigenvalues are kept."""
  data, found = cases(num_tasks), solved("aligned_mtl", num_tasks)
  rows = data.without(
    *DEPENDENT, "scaled_1e2", "scaled_1e6", "zero_rows"
  ) & data.present.all(axis=1)
  values = np.linalg.svd(data.grads, compute_uv=False)
  expected = values[:, -1] / np.sqrt(num_tasks)
  error = np.abs(np.linalg.norm(found.updates, axis=1) - expected)
  # Eigenvalues are known to roundings of the largest, their roots to half that.
  condition = (values[:, 0] / np.maximum(values[:, -1], 1e-30)) ** 2
  bound = 0.5 * DELTA * condition * expected
  assert_at_most(error, bound, data.names, rows)
  # The rank never makes it long: the frame is no longer than the gradients.
  bound = values[:, 0] * (1 + DELTA * num_tasks)
  assert_at_most(np.linalg.norm(found.updates, axis=1), bound, data.names)
