"""The data sets that need no file: digits of scikit-learn, and drawn toys."""

import pathlib

import numpy as np

from benchmarks.data.dataset import (
  Dataset,
  Split,
  classification,
  regression,
)


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
  return classification(
    "digits",
    ("left", "right"),
    10,
    _overlay_pairs(images[train], base.target[train], num_train, shift, rng),
    _overlay_pairs(images[test], base.target[test], num_test, shift, rng),
  )


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

  def draw() -> Split:
    x = rng.randn(100, 1)
    y1 = 2.0 * x + 8.0 + 10.0 * rng.randn(100, 1)
    y2 = 3.0 * x + 3.0 + 1.0 * rng.randn(100, 1)
    y = np.concatenate([y1, y2], axis=1)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}

  train = draw()
  return regression("uncertainty_toy", ("noisy", "clean"), train, draw())


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

  def draw(count: int) -> Split:
    x = rng.uniform(-1.0, 1.0, size=(count, 250))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.tanh(np.einsum("toi,ni->nto", shared + own, x, optimize=True))
    y *= np.asarray(sigmas)[:, None]
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}

  names = tuple(f"{i}_sigma_{sigma:g}" for i, sigma in enumerate(sigmas))
  return regression("gradnorm_toy", names, draw(num_train), draw(num_test))
