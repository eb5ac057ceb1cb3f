"""The tasks of a dense problem: losses, indicators and metrics over pixels.

Every function takes an output [N, H, W, C], a label and a mask [N, H, W] of
the pixels that have one. Where none has one the loss is 0, and no derivative is
NaN: the task is to be passed as absent.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.dense.casting import CLASSES

#: Thresholds of detections: the survey reports the best one over the data set.
_THRESHOLDS = np.arange(0.05, 1.0, 0.05, dtype=np.float32)
#: A direction is right within 30 degrees, as papers on normals count.
_RIGHT_COSINE = float(np.cos(np.radians(30)))
#: Added to a squared length before the root, so that its slope is finite at 0:
#: outputs are of size 1.
_LENGTH = 1e-6


@dataclasses.dataclass(frozen=True)
class Task:
  """One target for every pixel.

  Attributes:
    kind: "classes" (cross-entropy), "amount" (L1), "direction" (1 - cosine) or
      "detection" (binary cross-entropy).
    channels: C of the output.
    likelihood: What `uncertainty_weighting(kind=)` takes for its loss.
    positive: What a positive pixel weighs in a detection; a negative one weighs
      the rest to 1.
    within: An amount is right if it is off by less: its indicator.
  """

  kind: Literal["classes", "amount", "direction", "detection"]
  channels: int
  likelihood: Literal["classification", "laplace"] = "classification"
  positive: float = 0.5
  within: float = 0.0

  @property
  def metric(self) -> str:
    """The name of what is reported."""
    return {
      "classes": "mIoU",
      "amount": "RMSE",
      "direction": "mean °",
      "detection": "F1",
    }[self.kind]

  @property
  def higher_is_better(self) -> bool:
    """Whether a larger metric is better."""
    return self.kind in ("classes", "detection")


#: By the names of the labels. One pixel in 9 is an edge, and the survey gives
#: the rare ones nearly all of the weight.
TASKS = {
  "segmentation": Task("classes", len(CLASSES)),
  "depth": Task("amount", 1, "laplace", within=0.5),
  "normals": Task("direction", 3, "laplace"),
  "edges": Task("detection", 1, positive=0.85),
  "saliency": Task("detection", 1),
  "albedo": Task("amount", 3, "laplace", within=0.1),
  "shading": Task("amount", 1, "laplace", within=0.1),
  "shadow": Task("detection", 1, positive=0.85),
}


def _unit(vectors: jax.Array) -> jax.Array:
  squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
  return vectors / jnp.sqrt(squared + _LENGTH)


def _cosines(output: jax.Array, label: jax.Array) -> jax.Array:
  return jnp.sum(_unit(output) * label, axis=-1)


def _over(values: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean of values [N, H, W] over the pixels of the mask; 0 of none."""
  kept = jnp.where(mask, values, jnp.zeros((), values.dtype))
  count = jnp.sum(mask, dtype=values.dtype)
  return jnp.sum(kept) / jnp.maximum(count, 1)


def loss(
  task: Task, output: jax.Array, label: jax.Array, mask: jax.Array
) -> jax.Array:
  """The mean loss over the pixels that have a label.

  Args:
    task: Which loss.
    output: [N, H, W, C].
    label: int [N, H, W], or float [N, H, W, C].
    mask: bool [N, H, W].

  Returns:
    A scalar, 0 where no pixel has a label.

  Example:
    >>> output = jnp.array([[[[1.0], [5.0]]]])
    >>> label, mask = jnp.zeros((1, 1, 2, 1)), jnp.array([[[True, False]]])
    >>> print(loss(TASKS["depth"], output, label, mask))
    1.0
  """
  if task.kind == "classes":
    each = optax.softmax_cross_entropy_with_integer_labels(output, label)
  elif task.kind == "amount":
    each = jnp.mean(jnp.abs(output - label), axis=-1)
  elif task.kind == "direction":
    each = 1 - _cosines(output, label)
  else:
    each = optax.sigmoid_binary_cross_entropy(
      output[..., 0], label.astype(output.dtype)
    )
    each *= jnp.where(label > 0, task.positive, 1 - task.positive)
  return _over(each, mask)


def kpi(
  task: Task, output: jax.Array, label: jax.Array, mask: jax.Array
) -> jax.Array:
  """An indicator in [0, 1], larger is better; 0 where no pixel has a label.

  The share of pixels that are right; of a detection, whose pixels are nearly
  all negative, F1.

  Args:
    task: What right means.
    output: [N, H, W, C].
    label: int [N, H, W], or float [N, H, W, C].
    mask: bool [N, H, W].

  Returns:
    A scalar.
  """
  output = jax.lax.stop_gradient(output)
  if task.kind == "detection":
    hits, wrong = _hits_and_misses(output[..., 0] > 0, label > 0, mask)
    return 2 * hits / jnp.maximum(2 * hits + wrong, 1)
  if task.kind == "classes":
    right = jnp.argmax(output, axis=-1) == label
  elif task.kind == "amount":
    right = jnp.all(jnp.abs(output - label) < task.within, axis=-1)
  else:
    right = _cosines(output, label) > _RIGHT_COSINE
  return _over(right.astype(output.dtype), mask)


def _hits_and_misses(
  found: jax.Array, label: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  hits = jnp.sum(found & label & mask, dtype=jnp.float32)
  wrong = jnp.sum((found != label) & mask, dtype=jnp.float32)
  return hits, wrong


def counts(
  task: Task, output: jax.Array, label: jax.Array, mask: jax.Array
) -> jax.Array:
  """What the metric is made of: adds up over the parts of a data set.

  Args:
    task: Which metric.
    output: [N, H, W, C].
    label: int [N, H, W], or float [N, H, W, C].
    mask: bool [N, H, W].

  Returns:
    float32: of classes their confusion [C, C], a true class a row; of amounts
    [2], the sum of squared errors and their number; of directions [2], the sum
    of angles in degrees and their number; of detections [2, thresholds], hits,
    and both kinds of misses together.
  """
  if task.kind == "classes":
    classes = jnp.arange(task.channels)
    true = (label[..., None] == classes.reshape(1, 1, 1, -1)) & mask[..., None]
    found = jnp.argmax(output, axis=-1)[..., None] == classes.reshape(
      1, 1, 1, -1
    )
    return jnp.einsum(
      "nhwi,nhwj->ij", true.astype(jnp.float32), found.astype(jnp.float32)
    )
  if task.kind == "detection":
    share = jax.nn.sigmoid(output[..., 0])
    return jnp.stack(
      [
        jnp.stack(_hits_and_misses(share > threshold, label > 0, mask))
        for threshold in _THRESHOLDS
      ],
      axis=1,
    )
  if task.kind == "amount":
    each = jnp.mean(jnp.square(output - label), axis=-1)
  else:
    each = jnp.degrees(jnp.arccos(jnp.clip(_cosines(output, label), -1, 1)))
  kept = jnp.where(mask, each, jnp.zeros((), each.dtype))
  return jnp.stack([jnp.sum(kept), jnp.sum(mask, dtype=jnp.float32)])


def metric(task: Task, added: np.ndarray) -> float:
  """The metric, from the sum of `counts` over a data set.

  Mean intersection over union of the classes that occur; root of the mean
  square; mean angle in degrees; F1 at the threshold that is best over the data
  set, as the survey reports it, but pixel for pixel.

  Args:
    task: Which.
    added: As from `counts`.

  Returns:
    The number; NaN if no pixel had a label.

  Example:
    >>> metric(TASKS["depth"], np.array([8.0, 2.0]))
    2.0
  """
  added = np.asarray(added, np.float64)
  with np.errstate(invalid="ignore", divide="ignore"):
    if task.kind == "classes":
      both = np.diagonal(added)
      either = added.sum(axis=0) + added.sum(axis=1) - both
      ratios = both / either
      if np.isnan(ratios).all():
        return float("nan")
      return float(np.nanmean(ratios))
    if task.kind == "detection":
      hits, wrong = added
      return float(np.max(2 * hits / (2 * hits + wrong)))
    mean = added[0] / added[1]
    return float(np.sqrt(mean) if task.kind == "amount" else mean)


def shown(task: Task, output: np.ndarray) -> np.ndarray:
  """An output as what its label looks like, for pictures.

  Args:
    task: What it is of.
    output: [N, H, W, C].

  Returns:
    Classes [N, H, W]; shares in [0, 1] [N, H, W]; else [N, H, W, C], directions
    as unit vectors.
  """
  output = np.asarray(output)
  if task.kind == "classes":
    return output.argmax(axis=-1)
  if task.kind == "detection":
    return np.asarray(jax.nn.sigmoid(output[..., 0]))
  return np.asarray(_unit(output)) if task.kind == "direction" else output
