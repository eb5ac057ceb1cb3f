"""Every method once more: plain loops over steps in NumPy float64.

A reference is a function `(num_tasks, grads, extra, **kwargs) -> weights`: what
the method is built with, `grads` [steps, T, P], `extra` a dict of [steps, T],
and the weights [steps, T] that it applies; all tasks take part. `REFERENCES`
maps each method's name to its reference; `test_reference.py` says which is
missing.

Written from the papers, not from the package: nothing of it is imported, and
small problems are solved by SciPy or by trying all supports.
"""

import functools
import itertools

import numpy as np

REFERENCES = {}


def reference(function):
  """Registers `reference_<name>` as the reference of the method `name`."""
  REFERENCES[function.__name__.removeprefix("reference_")] = function
  return function


def each_step(function):
  """Lifts `(num_tasks, grads [T, P], extra [T], **kwargs) -> [T]` to a run."""

  @functools.wraps(function)
  def run(num_tasks, grads, extra, **kwargs):
    return np.stack(
      [
        function(num_tasks, g, {k: v[t] for k, v in extra.items()}, **kwargs)
        for t, g in enumerate(grads)
      ]
    )

  return run


class Adam:
  """Adam on an array, entry by entry."""

  def __init__(self, rate=0.025, b1=0.9, b2=0.999, eps=1e-8):
    self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps
    self.steps, self.mean, self.square = 0, 0.0, 0.0

  def __call__(self, gradient):
    self.steps += 1
    self.mean = self.b1 * self.mean + (1 - self.b1) * gradient
    self.square = self.b2 * self.square + (1 - self.b2) * gradient**2
    mean = self.mean / (1 - self.b1**self.steps)
    square = self.square / (1 - self.b2**self.steps)
    return -self.rate * mean / (np.sqrt(square) + self.eps)


def shortest_in_hull(rows):
  """Weights of the shortest vector in the hull of a few rows: all supports.

  On its support the optimum is the shortest vector of the affine hull; among
  the supports whose affine solution is non-negative, the shortest wins.
  """
  best, best_norm = None, np.inf
  for size in range(1, len(rows) + 1):
    for support in itertools.combinations(range(len(rows)), size):
      part = rows[list(support)]
      base, edges = part[0], part[1:] - part[0]
      step = np.linalg.lstsq(edges.T, -base, rcond=None)[0]
      weights = np.concatenate([[1 - step.sum()], step])
      norm = np.linalg.norm(weights @ part)
      if (weights >= -1e-12).all() and norm < best_norm * (1 - 1e-12):
        best = np.zeros(len(rows))
        best[list(support)] = weights
        best_norm = norm
  return best


@reference
@each_step
def reference_equal_weighting(num_tasks, grads, extra):
  return np.ones(num_tasks)


@reference
@each_step
def reference_fixed_weighting(num_tasks, grads, extra, weights):
  return np.asarray(weights, float)


@reference
def reference_uncertainty_weighting(num_tasks, grads, extra, kind):
  factor = np.array([{"regression": 0.5, "classification": 1}[k] for k in kind])
  log_vars, adam, out = np.zeros(num_tasks), Adam(), []
  for losses in extra["losses"]:
    weights = factor / np.exp(log_vars)
    out.append(weights)
    log_vars = log_vars + adam(0.5 - weights * losses)
  return np.stack(out)


@reference
def reference_gradnorm(num_tasks, grads, extra, alpha=1.5):
  weights, out = np.ones(num_tasks), []
  adam, unit = Adam(), None
  for g, losses in zip(grads, extra["losses"], strict=True):
    out.append(weights)
    norms = np.linalg.norm(g, axis=1)
    weighted = weights * norms
    unit = weighted.mean() if unit is None else unit
    ratio = losses / extra["losses"][0]
    target = weighted.mean() * (ratio / ratio.mean()) ** alpha
    # |x|' = sign(x); the unit is what Adam does not see but for its epsilon.
    moved = weights + adam(np.sign(weighted - target) * norms / unit)
    moved = np.maximum(moved, 1e-4)
    weights = moved * num_tasks / moved.sum()
  return np.stack(out)


@reference
def reference_dwa(num_tasks, grads, extra, steps_per_epoch, temperature=2.0):
  out = []
  for t in range(len(grads)):
    epoch = t // steps_per_epoch
    if epoch < 2:
      out.append(np.ones(num_tasks))
      continue
    last, previous = (
      extra["losses"][(epoch - k) * steps_per_epoch :][:steps_per_epoch].mean(0)
      for k in (1, 2)
    )
    power = np.exp(last / previous / temperature)
    out.append(num_tasks * power / power.sum())
  return np.stack(out)


@reference
def reference_dtp(num_tasks, grads, extra, gamma=1.0):
  out, average = [], None
  for kpis in extra["kpis"]:
    average = kpis if average is None else 0.1 * kpis + 0.9 * average
    out.append(-((1 - average) ** gamma) * np.log(average))
  return np.stack(out)


@reference
@each_step
def reference_mgda(num_tasks, grads, extra):
  return shortest_in_hull(grads)


@reference
def reference_pareto_mtl(
  num_tasks, grads, extra, directions, feasibility_steps, reenter=True
):
  out = []
  lengths = np.linalg.norm(directions, axis=1, keepdims=True)
  units = directions / np.where(lengths == 0, 1, lengths)
  # What is left of the first phase; it is filled up inside of the region.
  left = feasibility_steps
  for g, losses, preference in zip(
    grads, extra["losses"], extra["preference"], strict=True
  ):
    normals = units - preference / np.linalg.norm(preference)
    # With epsilon 0 the same constraints count in both phases.
    rows = normals[normals @ losses > 0]
    if len(rows) == 0:
      left = feasibility_steps if reenter else 0
    if len(rows) == 0 or left == 0:
      rows = np.concatenate([np.eye(num_tasks), rows])
    else:
      left -= 1
    out.append(shortest_in_hull_by_nnls(rows @ g) @ rows)
  return np.stack(out)


def shortest_in_hull_by_nnls(rows):
  """Like `shortest_in_hull`, for more rows than one can try all supports of."""
  from reference.min_norm import min_norm

  return min_norm(rows)
