"""From Gram matrices of several batches to signal, noise and conflict."""

import dataclasses
import warnings

import numpy as np

from optax_mtl import metrics

#: So many standard errors below zero, a mean cosine is a conflict and not
#: noise: what holds by chance in one of forty pairs of independent gradients,
#: for many batches.
STANDARD_ERRORS = 2.0


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Of N batches and T tasks; a task that is absent or not finite is NaN.

  Attributes:
    norms: [N, T], lengths of the tasks' gradients on the trunk.
    signal: [T], the length of the gradient's mean over all batches that there
      could be, estimated: what its noise adds to the mean over N is taken off.
      NaN for one batch.
    noise: [T], the root mean square distance of a batch's gradient from that
      mean. NaN for one batch.
    cosines: [N, T, T], between the gradients of a batch.
    mean_cosines: [T, T], over the batches.
    cosine_errors: [T, T], the standard errors of these means; NaN for one
      batch.
    conflict_rate: The share of pairs of tasks with a negative cosine, over all
      batches.
    alignment: [N], `2 |mean of the unit gradients|² - 1`: 1 where all point one
      way, for two tasks their cosine (Wang et al. 2025, arXiv 2502.00604).
  """

  norms: np.ndarray
  signal: np.ndarray
  noise: np.ndarray
  cosines: np.ndarray
  mean_cosines: np.ndarray
  cosine_errors: np.ndarray
  conflict_rate: float
  alignment: np.ndarray

  @property
  def conflicts(self) -> list[tuple[int, int]]:
    """Pairs whose mean cosine is below zero by `STANDARD_ERRORS`.

    With one batch the error is not known, and a negative cosine counts.
    """
    errors = np.nan_to_num(self.cosine_errors)
    below = self.mean_cosines + STANDARD_ERRORS * errors < 0
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(below, 1))]


def statistics_of(
  gram: np.ndarray, counts: np.ndarray, mean_squares: np.ndarray
) -> Statistics:
  """Computes them.

  Args:
    gram: [N, T, T], zeros for tasks that do not count.
    counts: [N, T], bool.
    mean_squares: [T], the squared length of the mean gradient, over the batches
      in which the task counts.

  Returns:
    The statistics.
  """
  squares = np.diagonal(gram, axis1=1, axis2=2)
  number = counts.sum(axis=0)
  pairs = counts[:, :, None] & counts[:, None, :]
  cosines = np.where(
    pairs, np.asarray(metrics.conflict_cosines(gram), np.float64), np.nan
  )
  off_diagonal = pairs & ~np.eye(gram.shape[1], dtype=bool)
  negative = (np.nan_to_num(cosines) < 0) & off_diagonal
  # A mean over nothing, or a spread of one value, is NaN and says so.
  with (
    warnings.catch_warnings(),
    np.errstate(invalid="ignore", divide="ignore"),
  ):
    warnings.simplefilter("ignore", RuntimeWarning)
    mean_of_squares = np.where(counts, squares, 0).sum(axis=0) / number
    noise_squared = np.where(
      number > 1,
      number / (number - 1) * np.maximum(mean_of_squares - mean_squares, 0),
      np.nan,
    )
    together = pairs.sum(axis=0)
    return Statistics(
      norms=np.where(counts, np.sqrt(squares), np.nan),
      signal=np.sqrt(np.maximum(mean_squares - noise_squared / number, 0)),
      noise=np.sqrt(noise_squared),
      cosines=cosines,
      mean_cosines=np.nanmean(cosines, axis=0),
      cosine_errors=np.where(
        together > 1,
        np.nanstd(cosines, axis=0, ddof=1) / np.sqrt(together),
        np.nan,
      ),
      conflict_rate=float(negative.sum() / max(1, off_diagonal.sum())),
      alignment=np.asarray(metrics.alignment(gram, counts), np.float64),
    )
