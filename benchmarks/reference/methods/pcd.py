"""PCD: the nearest direction to the primary one, by trying all supports."""

import itertools

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def nearest_with_gains(
  anchor: np.ndarray, rows: np.ndarray, gains: np.ndarray
) -> np.ndarray | None:
  """The `d` nearest to `anchor` with `rows @ d >= gains`.

  Where the constraints of a support hold with equality, `d` is the anchor and a
  combination of their rows. The one support is right whose multipliers are not
  negative and whose `d` keeps the other constraints.

  Args:
    anchor: `[P]`.
    rows: `[K, P]`.
    gains: `[K]`.

  Returns:
    The multipliers `[K]`, or None where no direction has the gains.
  """
  missing = gains - rows @ anchor
  for size in range(len(rows) + 1):
    for support in itertools.combinations(range(len(rows)), size):
      part = rows[list(support)]
      multipliers = np.zeros(len(rows))
      multipliers[list(support)] = np.linalg.lstsq(
        part @ part.T, missing[list(support)], rcond=None
      )[0]
      short = missing - rows @ (multipliers @ rows)
      if (multipliers >= 0).all() and (short <= 1e-11).all():
        return multipliers
  return None


@reference("pcd")
def pcd(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  tau: float = 0.02,
  primary: int = 0,
  decay: float = 0.999,
) -> np.ndarray:
  """Weights [steps, T]; gradients that are not zero."""
  average, out = np.zeros(num_tasks), []
  others = np.arange(num_tasks) != primary
  for t, g in enumerate(grads):
    average = decay * average + (1 - decay) * np.sum(g**2, axis=1)
    root = np.sqrt(average / (1 - decay ** (t + 1)))
    unit = g / root[:, None]
    rows = unit[others]
    found = nearest_with_gains(
      unit[primary], rows, tau * np.sum(rows**2, axis=1)
    )
    weights = np.zeros(num_tasks)
    weights[primary] = 1
    if found is not None:
      weights[others] = found
    length = np.linalg.norm(weights @ unit)
    out.append(weights / root * np.linalg.norm(g[primary]) / length)
  return np.stack(out)
