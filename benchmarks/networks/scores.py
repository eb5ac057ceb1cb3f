"""Losses, metrics and indicators of a dataset's tasks from network outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.data.dataset import Dataset

Batch = dict[str, jax.Array]
Pairs = list[tuple[jax.Array, jax.Array]]


def task_losses(
  dataset: Dataset, outputs: tuple[jax.Array, ...], batch: Batch
) -> jax.Array:
  """Mean cross-entropy or mean squared error of each task.

  Args:
    dataset: Says which task is of which kind.
    outputs: Per task an array [N, num_outputs[t]].
    batch: Its `"y"` is [N, T] or [N, T, D].

  Returns:
    Losses [T], float32.
  """

  def loss(kind: str, out: jax.Array, target: jax.Array) -> jax.Array:
    if kind == "classification":
      each = optax.softmax_cross_entropy_with_integer_labels(out, target)
    else:
      each = jnp.square(out - target)
    return jnp.mean(each)

  return _stacked(loss, dataset.task_kinds, _pairs(dataset, outputs, batch))


def task_metrics(
  dataset: Dataset, outputs: tuple[jax.Array, ...], batch: Batch
) -> jax.Array:
  """The metric that is reported for each task.

  Args:
    dataset: Its `metrics` names them.
    outputs: Per task an array [N, num_outputs[t]].
    batch: The whole test set: an area under a curve, or a variance, is not the
      mean of those of its parts.

  Returns:
    Metrics [T], float32; `dataset.higher_is_better` says which way is up.
  """

  def metric(name: str, out: jax.Array, target: jax.Array) -> jax.Array:
    if name == "accuracy":
      return _accuracy(out, target)
    if name == "auc":
      return roc_auc(out[:, 1] - out[:, 0], target)
    spread = jnp.mean(jnp.square(target - jnp.mean(target)))
    return jnp.mean(jnp.square(out - target)) / spread

  return _stacked(metric, dataset.metrics, _pairs(dataset, outputs, batch))


def task_kpis(
  dataset: Dataset, outputs: tuple[jax.Array, ...], batch: Batch
) -> jax.Array:
  """Key performance indicators in [0, 1], larger is better.

  Args:
    dataset: Its `kpis` names them.
    outputs: Per task an array [N, num_outputs[t]].
    batch: A training batch or a test set.

  Returns:
    Indicators [T], float32: the accuracy of a classification, or the share of
    predictions within a quarter of the training targets' standard deviation.
  """

  def kpi(
    name_and_scale: tuple[str, np.float32], out: jax.Array, target: jax.Array
  ) -> jax.Array:
    name, scale = name_and_scale
    if name == "accuracy":
      return _accuracy(out, target)
    close = jnp.abs(out - target) <= np.float32(0.25) * scale
    return jnp.mean(close, dtype=jnp.float32)

  named = list(zip(dataset.kpis, dataset.scale, strict=True))
  return _stacked(kpi, named, _pairs(dataset, outputs, batch))


def _stacked(
  function: Callable[[Any, jax.Array, jax.Array], jax.Array],
  what: Sequence[Any],
  pairs: Pairs,
) -> jax.Array:
  """`function(what, outputs, targets)` of each task, as an array [T]."""
  triples = zip(what, pairs, strict=True)
  return jnp.stack([function(of, out, target) for of, (out, target) in triples])


def _pairs(
  dataset: Dataset, outputs: tuple[jax.Array, ...], batch: Batch
) -> Pairs:
  """Per task its outputs and targets, shaped so that they can be compared."""
  pairs: Pairs = []
  for task, (kind, out) in enumerate(
    zip(dataset.task_kinds, outputs, strict=True)
  ):
    target = batch["y"][:, task]
    if kind == "classification":
      pairs.append((out, target.astype(jnp.int32)))
    else:
      pairs.append((out, target.reshape(out.shape)))
  return pairs


def _accuracy(out: jax.Array, target: jax.Array) -> jax.Array:
  best = jnp.argmax(out, axis=1).astype(target.dtype)
  return jnp.mean(best == target, dtype=jnp.float32)


def roc_auc(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """Area under the ROC curve: how often a positive outscores a negative.

  Args:
    scores: float [N]. Ties count one half.
    labels: Integer or bool [N], positive where not zero.

  Returns:
    A float32 scalar, NaN if there are no positives or no negatives.

  Example:
    >>> float(roc_auc(jnp.array([0.1, 0.4, 0.35, 0.8]),
    ...               jnp.array([0, 0, 1, 1])))
    0.75
  """
  order = jnp.argsort(scores)
  ranked = scores[order]
  positive = labels[order] != 0
  negatives = jnp.concatenate(
    [jnp.zeros(1, jnp.int32), jnp.cumsum(~positive, dtype=jnp.int32)]
  )
  below = negatives[jnp.searchsorted(ranked, ranked, side="left")]
  up_to = negatives[jnp.searchsorted(ranked, ranked, side="right")]
  # A share of the negatives for each positive: no large number is summed.
  share = (below + up_to).astype(jnp.float32) / (
    2 * negatives[-1].astype(jnp.float32)
  )
  return jnp.sum(jnp.where(positive, share, 0)) / jnp.sum(
    positive, dtype=jnp.float32
  )
