"""What a learning rate, or another variant, is chosen by: one score a network.

>>> up = [True, False]
>>> score([[0.9, 0.1], [0.8, 0.2]], np.array([0.9, 0.1]), up).round(1).tolist()
[0.0, 55.6]
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from optax_mtl import metrics


def score(
  values: ArrayLike,
  baseline: np.ndarray | None,
  higher_is_better: Sequence[bool],
) -> np.ndarray:
  """What is to be least on validation.

  Args:
    values: Metrics [..., T].
    baseline: [T], the single-task networks'; None for such a network itself,
      which has one metric and is chosen by that.
    higher_is_better: T bools.

  Returns:
    [...]: Δm against the baseline in percent, or the metric, turned so that
    lower is better; infinite where it is not finite.

  Example:
    >>> score([[0.9], [np.nan]], None, [True]).tolist()
    [-0.9, inf]
  """
  metric = np.asarray(values, np.float64)
  if baseline is None:
    sign = np.where(higher_is_better, -1.0, 1.0)
    found = np.mean(sign * metric, axis=-1)
  else:
    change = metrics.delta_m(metric, baseline, list(higher_is_better))
    found = np.asarray(change, np.float64)
  return np.where(np.isfinite(found), found, np.inf)


def rates_text(rates: ArrayLike) -> str:
  """Chosen rates as one cell of a table; tasks may have chosen apart.

  Example:
    >>> rates_text(np.array([1e-2, 1e-3, 1e-3]))
    '0.001 0.01'
  """
  different = sorted(set(np.ravel(rates).tolist()))
  return " ".join(f"{rate:g}" for rate in different)
