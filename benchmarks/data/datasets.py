"""The data the benchmarks train on, as plain NumPy arrays, by name.

`digits` is built from the handwritten digits that scikit-learn carries, and the
toys are drawn from a seed (`drawn.py`): those need no file. The others are read
from files (`files.py`).
"""

import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from benchmarks.data.dataset import Dataset
from benchmarks.data.drawn import digits, gradnorm_toy, uncertainty_toy
from benchmarks.data.files import arm7, census, multimnist

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
