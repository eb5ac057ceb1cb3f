"""What a data set is: inputs, targets of several tasks, and their metrics."""

import dataclasses

import numpy as np

# A split: {"x": [N, ...], "y": [N, T, ...]}.
Split = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A multi-task problem: every example carries a target for each of T tasks.

  Attributes:
    name: The key in `datasets.DATASETS`.
    task_names: T names.
    task_kinds: Per task "classification" (integer targets, cross-entropy) or
      "regression" (squared error); what `uncertainty_weighting(kind=)` takes.
    num_outputs: Per task the number of classes, or of regressed components.
    train: `{"x": [N, ...], "y": [N, T] int32 or [N, T] or [N, T, D] float32}`.
    test: The same for the held-out examples.
    metrics: Per task the name of the reported metric: "accuracy", "auc" or
      "nmse" (mean squared error over the variance of the test targets).
    higher_is_better: Per task whether a larger metric is better.
    kpis: Per task the name of the indicator in [0, 1] that dynamic task
      prioritization takes: "accuracy", or "within" (the share of predictions
      within a quarter of the training targets' standard deviation).
    scale: float32 [T], that standard deviation; 1 for classification.
    cardinality: For tables, the number of categories of each of the last
      columns of `x`, which hold category codes.
  """

  name: str
  task_names: tuple[str, ...]
  task_kinds: tuple[str, ...]
  num_outputs: tuple[int, ...]
  train: Split
  test: Split
  metrics: tuple[str, ...]
  higher_is_better: tuple[bool, ...]
  kpis: tuple[str, ...]
  scale: np.ndarray
  cardinality: tuple[int, ...] = ()

  @property
  def num_tasks(self) -> int:
    """T."""
    return len(self.task_names)


def classification(
  name: str,
  task_names: tuple[str, ...],
  num_classes: int,
  train: Split,
  test: Split,
  metric: str = "accuracy",
  cardinality: tuple[int, ...] = (),
) -> Dataset:
  """A data set of classifications with the same number of classes."""
  tasks = len(task_names)
  return Dataset(
    name=name,
    task_names=task_names,
    task_kinds=("classification",) * tasks,
    num_outputs=(num_classes,) * tasks,
    train=train,
    test=test,
    metrics=(metric,) * tasks,
    higher_is_better=(True,) * tasks,
    kpis=("accuracy",) * tasks,
    scale=np.ones(tasks, np.float32),
    cardinality=cardinality,
  )


def regression(
  name: str, task_names: tuple[str, ...], train: Split, test: Split
) -> Dataset:
  """A data set of regressions, of vectors if the targets have three axes."""
  tasks = len(task_names)
  y = train["y"]
  axes = tuple(axis for axis in range(y.ndim) if axis != 1)
  return Dataset(
    name=name,
    task_names=task_names,
    task_kinds=("regression",) * tasks,
    num_outputs=(y.shape[2] if y.ndim == 3 else 1,) * tasks,
    train=train,
    test=test,
    metrics=("nmse",) * tasks,
    higher_is_better=(False,) * tasks,
    kpis=("within",) * tasks,
    scale=y.std(axis=axes, dtype=np.float64).astype(np.float32),
  )
