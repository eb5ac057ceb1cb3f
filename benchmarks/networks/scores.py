"""Losses, metrics and indicators of a dataset's tasks from network outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.data.datasets import Dataset

Batch = dict[str, jax.Array]


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
  losses = []
  for kind, (out, target) in zip(
    dataset.task_kinds, _pairs(dataset, outputs, batch), strict=True
  ):
    if kind == "classification":
      loss = optax.softmax_cross_entropy_with_integer_labels(out, target)
    else:
      loss = jnp.square(out - target)
    losses.append(jnp.mean(loss))
  return jnp.stack(losses)


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
  values = []
  for name, (out, target) in zip(
    dataset.metrics, _pairs(dataset, outputs, batch), strict=True
  ):
    if name == "accuracy":
      value = _accuracy(out, target)
    elif name == "auc":
      value = roc_auc(out[:, 1] - out[:, 0], target)
    else:
      spread = jnp.mean(jnp.square(target - jnp.mean(target)))
      value = jnp.mean(jnp.square(out - target)) / spread
    values.append(value)
  return jnp.stack(values)


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
  values = []
  for name, scale, (out, target) in zip(
    dataset.kpis, dataset.scale, _pairs(dataset, outputs, batch), strict=True
  ):
    if name == "accuracy":
      value = _accuracy(out, target)
    else:
      close = jnp.abs(out - target) <= np.float32(0.25) * scale
      value = jnp.mean(close, dtype=jnp.float32)
    values.append(value)
  return jnp.stack(values)


def _pairs(dataset, outputs, batch):
  """Per task its outputs and targets, shaped so that they can be compared."""
  pairs = []
  for task, (kind, out) in enumerate(
    zip(dataset.task_kinds, outputs, strict=True)
  ):
    target = batch["y"][:, task]
    if kind == "classification":
      pairs.append((out, target.astype(jnp.int32)))
    else:
      pairs.append((out, target.reshape(out.shape)))
  return pairs


def _accuracy(out, target):
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
