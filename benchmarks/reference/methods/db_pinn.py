"""DB-PINN: one weight for all conditions, shared by difficulty."""

import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def spread(entries: np.ndarray, statistic: str) -> float:
  """The statistic of one gradient's entries, for "std" and "kurt"."""
  deviation = entries.std(ddof=1)
  if statistic == "std":
    return float(deviation)
  scores = (entries - entries.mean()) / deviation
  return float(deviation / np.mean(scores**4))


@reference("db_pinn")
def db_pinn(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  reference: int = 0,
  statistic: str = "mean",
) -> np.ndarray:
  """Weights [steps, T]; the residual's is 1."""
  conditions = [i for i in range(num_tasks) if i != reference]
  weights, wanted, out = np.ones(num_tasks), [], []
  if not conditions:
    return np.ones((len(grads), 1))
  for step, (g, losses) in enumerate(zip(grads, extra["losses"], strict=True)):
    if statistic == "mean":
      largest = np.abs(g[reference]).max()
      ratios = [largest / np.abs(weights[i] * g[i]).mean() for i in conditions]
    else:
      ratios = [
        spread(g[reference], statistic) / spread(g[i], statistic)
        for i in conditions
      ]
    difficulty = losses / extra["losses"][: step + 1].mean(axis=0)
    share = difficulty / difficulty[conditions].sum()
    wanted.append(sum(ratios) * share)
    weights = np.mean(wanted, axis=0)
    weights[reference] = 1.0
    out.append(weights.copy())
  return np.stack(out)
