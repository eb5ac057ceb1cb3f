"""What `optax_mtl.diagnostics` has to say, by loops over float64 rows."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np


def _mean(values: Sequence[float]) -> float:
  return float(np.mean(values)) if len(values) else np.nan


def figures(
  grads: np.ndarray,
  counted: np.ndarray,
  updates: np.ndarray,
  weights: np.ndarray | None,
  names: Sequence[str],
  window: int,
) -> dict[str, np.ndarray]:
  """Every figure after every step.

  Args:
    grads: Array [steps, T, P], the gradients over the trunk.
    counted: Array [steps, T] of bool, which of them count.
    updates: Array [steps, P], the directions over the trunk.
    weights: Array [steps, T]; None: there are none.
    names: T names.
    window: How many steps the means are over.

  Returns:
    Name -> array [steps].
  """
  tasks = range(len(names))
  norms = np.linalg.norm(np.where(counted[..., None], grads, 0), axis=2)
  alive = counted & (norms > 0)
  rows = []
  for last in range(len(grads)):
    steps = range(max(0, last - window + 1), last + 1)

    def cosine(s: int, i: int, j: int) -> float:
      return grads[s, i] @ grads[s, j] / (norms[s, i] * norms[s, j])

    def pairs(s: int, among: Any = None) -> list[tuple[int, int]]:
      chosen = (counted if among is None else among)[s].nonzero()[0]
      return list(itertools.combinations(chosen, 2))

    row = {}
    for t, name in enumerate(names):
      there = [s for s in steps if counted[s, t]]
      if weights is not None:
        row[f"weight/{name}"] = _mean([weights[s, t] for s in there])
      row[f"norm/{name}"] = _mean([norms[s, t] for s in there])
      row[f"effective_rate/{name}"] = _mean(
        [
          grads[s, t] @ updates[s] / norms[s, t] ** 2
          for s in there
          if norms[s, t]
        ]
      )
      row[f"present/{name}"] = len(there) / len(steps)
    for i, j in itertools.combinations(tasks, 2):
      row[f"cosine/{names[i]}/{names[j]}"] = _mean(
        [cosine(s, i, j) for s in steps if alive[s, i] and alive[s, j]]
      )
    row["conflict_rate"] = _mean(
      [
        _mean([grads[s, i] @ grads[s, j] < 0 for i, j in pairs(s)])
        for s in steps
        if pairs(s)
      ]
    )
    units = {s: grads[s, alive[s]] / norms[s, alive[s]][:, None] for s in steps}
    row["alignment"] = _mean(
      [
        2 * np.linalg.norm(units[s].mean(axis=0)) ** 2 - 1
        for s in steps
        if pairs(s, alive)
      ]
    )
    rows.append(row)
  return {key: np.array([row[key] for row in rows]) for key in rows[0]}
