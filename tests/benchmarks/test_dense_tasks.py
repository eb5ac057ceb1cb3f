"""Losses, indicators and metrics over the pixels that have labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.dense import problem
from benchmarks.dense import tasks as tasks_lib
from benchmarks.dense.tasks import TASKS

KINDS = ("depth", "edges", "normals", "segmentation")

#: For what runs once: the compiler's best would take longer.
once = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@pytest.fixture(scope="module")
def outputs_and_labels():
  """Random outputs, and labels of rendered scenes, a third of them masked."""
  rng = np.random.default_rng(0)
  data = problem.scenes.render(3, 8, 0)
  outputs = {
    name: jnp.asarray(rng.normal(size=(3, 8, 8, TASKS[name].channels)), "f")
    for name in KINDS
  }
  mask = jnp.asarray(rng.uniform(size=(3, 8, 8)) < 2 / 3)
  return outputs, {name: data["labels"][name] for name in KINDS}, mask


def by_hand(name, output, label):
  """Losses and indicators of single pixels, in NumPy."""
  output = np.asarray(output, np.float64)
  if name == "segmentation":
    logs = output - np.log(np.exp(output).sum(axis=-1, keepdims=True))
    each = -np.take_along_axis(logs, label[..., None], axis=-1)[..., 0]
    return each, output.argmax(axis=-1) == label
  if name == "depth":
    off = abs(output - label)[..., 0]
    return off, off < 0.5
  if name == "normals":
    unit = output / np.sqrt((output**2).sum(-1, keepdims=True) + 1e-6)
    cosine = (unit * label).sum(axis=-1)
    return 1 - cosine, cosine > np.cos(np.pi / 6)
  share = 1 / (1 + np.exp(-output[..., 0]))
  each = np.where(label, -0.85 * np.log(share), -0.15 * np.log(1 - share))
  return each, None


@pytest.mark.standard_promotion
def test_losses_are_means_over_the_pixels_that_have_labels(outputs_and_labels):
  outputs, labels, mask = outputs_and_labels

  @once
  def all_of_them(outputs, mask):
    return {
      name: [
        of(TASKS[name], outputs[name], labels[name], mask)
        for of in (tasks_lib.loss, tasks_lib.kpi)
      ]
      for name in KINDS
    }

  found = all_of_them(outputs, mask)
  mask = np.asarray(mask)
  for name in KINDS:
    each, right = by_hand(name, outputs[name], labels[name])
    loss, kpi = found[name]
    # Sums of some hundred numbers near 1 in float32.
    assert float(loss) == pytest.approx(each[mask].mean(), rel=1e-5)
    if right is None:
      hit = np.asarray(outputs[name][..., 0] > 0)[mask]
      true = labels[name][mask] > 0
      both = (hit & true).sum()
      want = 2 * both / (hit.sum() + true.sum())
    else:
      want = right[mask].mean()
    assert float(kpi) == pytest.approx(want, rel=1e-5)


@pytest.mark.standard_promotion
def test_without_a_label_losses_are_zero_and_nothing_is_nan(outputs_and_labels):
  outputs, labels, mask = outputs_and_labels
  # Where a direction has no length, too.
  outputs = outputs | {"normals": jnp.zeros_like(outputs["normals"])}

  @once
  def losses_and_slopes(outputs, mask):
    def losses(outputs):
      values = [
        tasks_lib.loss(TASKS[name], outputs[name], labels[name], mask)
        for name in KINDS
      ]
      return sum(values), jnp.stack(values)

    return jax.grad(losses, has_aux=True)(outputs)

  slopes, losses = losses_and_slopes(outputs, jnp.zeros_like(mask))
  assert (losses == 0).all()
  assert all((slope == 0).all() for slope in slopes.values())
  slopes, losses = losses_and_slopes(outputs, mask)
  assert jnp.isfinite(losses).all()
  for slope in slopes.values():
    assert jnp.isfinite(slope).all()
    # A pixel without a label moves nothing.
    assert (slope[~mask] == 0).all() and (slope[mask] != 0).any()


@pytest.mark.standard_promotion
def test_metrics_add_up_over_parts_of_a_data_set(outputs_and_labels):
  outputs, labels, mask = outputs_and_labels

  @once
  def counted(outputs, labels, mask):
    return {
      name: tasks_lib.counts(TASKS[name], outputs[name], labels[name], mask)
      for name in KINDS
    }

  parts = [
    counted(*jax.tree.map(lambda x, i=i: x[i : i + 1], outputs_and_labels))
    for i in range(3)
  ]
  found = {
    name: tasks_lib.metric(TASKS[name], sum(np.asarray(p[name]) for p in parts))
    for name in KINDS
  }
  mask = np.asarray(mask)
  kept = {name: np.asarray(outputs[name])[mask] for name in KINDS}
  true = {name: np.asarray(labels[name])[mask] for name in KINDS}
  chosen = kept["segmentation"].argmax(axis=-1)
  ious = [
    ((chosen == c) & (true["segmentation"] == c)).sum()
    / ((chosen == c) | (true["segmentation"] == c)).sum()
    for c in range(5)
  ]
  assert found["segmentation"] == pytest.approx(np.mean(ious), rel=1e-6)
  off = kept["depth"] - true["depth"]
  assert found["depth"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-5)
  cosine = 1 - by_hand("normals", outputs["normals"], labels["normals"])[0]
  angle = np.degrees(np.arccos(cosine[mask])).mean()
  assert found["normals"] == pytest.approx(angle, rel=1e-5)
  share = 1 / (1 + np.exp(-kept["edges"][:, 0]))
  edge = true["edges"] > 0
  scores = [
    2 * ((share > t) & edge).sum() / ((share > t).sum() + edge.sum())
    for t in np.arange(0.05, 1, 0.05)
  ]
  assert found["edges"] == pytest.approx(max(scores), rel=1e-6)
  assert np.isnan(tasks_lib.metric(TASKS["depth"], np.zeros(2)))


def test_classes_that_do_not_occur_do_not_count():
  confusion = np.diag([3.0, 1.0, 0.0, 0.0, 0.0])
  confusion[0, 1] = 1
  # 3 of 4, and 1 of 2.
  assert tasks_lib.metric(TASKS["segmentation"], confusion) == 0.625
