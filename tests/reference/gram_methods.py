"""The methods that solve a problem on the Gram matrix, once more.

NumPy float64, from the papers; each works on the gradients where it can. One
step at a time: `(num_tasks, grads [T, P], extra, **kwargs) -> weights [T]`, and
`methods.reference` lifts them to runs. Gradients are linearly independent,
unless a function says otherwise.
"""

import itertools

import jax
import numpy as np

from reference import bargaining, dual_cone
from reference.methods import each_step, reference


def drawn_orders(num_steps: int, num_tasks: int, seed: int = 0) -> np.ndarray:
  """The orders [steps, T, T] that `pcgrad` with this seed draws.

  Those are the package's own choice and nothing of the paper: the test that
  they are what the paper asks for is that of their distribution.
  """
  key, orders = jax.random.key(seed, impl="threefry2x32"), []
  for _ in range(num_steps):
    key, now = jax.random.split(key)
    bits = jax.random.bits(now, (num_tasks, num_tasks), np.uint32)
    orders.append(np.argsort(np.asarray(bits), axis=1))
  return np.stack(orders)


def surgery(grads: np.ndarray, orders: np.ndarray) -> np.ndarray:
  """PCGrad's algorithm 1, line by line, on coefficients and on gradients.

  Args:
    grads: `[T, P]`, of any rank.
    orders: `[T, T]`, row i the order in which gradient i meets the others.

  Returns:
    `[T, T]`, row i the coefficients of the projected gradient i.
  """
  coefficients = np.eye(len(grads))
  for i, order in enumerate(orders):
    left = grads[i].copy()
    for j in order:
      product = left @ grads[j]
      if j != i and product < 0:
        share = product / (grads[j] @ grads[j])
        left -= share * grads[j]
        coefficients[i, j] -= share
  return coefficients


@reference
def reference_pcgrad(num_tasks, grads, extra):
  orders = drawn_orders(len(grads), num_tasks)
  return np.stack(
    [surgery(g, o).sum(axis=0) for g, o in zip(grads, orders, strict=True)]
  )


def conflict_averse(grads: np.ndarray, c: float) -> np.ndarray:
  """The weights `w` of CAGrad's problem, by trying all supports.

  On its support S the optimum is along `y = inv(M_SS) (level 1 - q_S)`, with
  `q` the products with the mean and `level` such that `g_y` has the ball's
  radius for its length. Among the supports with `y >= 0` the best wins.
  """
  mean = grads.mean(axis=0)
  radius = c * np.linalg.norm(mean)
  best, best_value = None, np.inf
  for size in range(1, len(grads) + 1):
    for support in itertools.combinations(range(len(grads)), size):
      part = grads[list(support)]
      gram, linear = part @ part.T, part @ mean
      ones, along = np.linalg.solve(
        gram, np.stack([np.ones(size), linear], axis=1)
      ).T
      # |g_y|^2 = a level^2 - 2 b level + c' = radius^2, the larger root.
      a, b = ones.sum(), along.sum()
      square = b * b - a * (linear @ along - radius**2)
      if square < 0:
        continue
      y = (b + np.sqrt(square)) / a * ones - along
      if (y < 0).any() or not y.sum() > 0:
        continue
      w = y / y.sum()
      combined = w @ part
      value = combined @ mean + radius * np.linalg.norm(combined)
      if value < best_value:
        best, best_value = np.zeros(len(grads)), value
        best[list(support)] = w
  return best


@reference
@each_step
def reference_cagrad(num_tasks, grads, extra, c=0.5, rescale=1):
  w = conflict_averse(grads, c)
  mean, combined = grads.mean(axis=0), w @ grads
  pull = c * np.linalg.norm(mean) / np.linalg.norm(combined)
  return (1 / num_tasks + pull * w) / (1, 1 + c**2, 1 + c)[rescale]


@reference
@each_step
def reference_upgrad(num_tasks, grads, extra, preference=None):
  preference = (
    np.ones(num_tasks) / num_tasks if preference is None else preference
  )
  rows = [dual_cone.project_dual_cone(grads, e) for e in np.eye(num_tasks)]
  return preference @ np.stack(rows)


@reference
@each_step
def reference_dual_proj(num_tasks, grads, extra, preference=None):
  preference = (
    np.ones(num_tasks) / num_tasks if preference is None else preference
  )
  return dual_cone.project_dual_cone(grads, preference)


@reference
@each_step
def reference_fairgrad(num_tasks, grads, extra, alpha=1.0, max_norm=1.0):
  # The limit is the update's, not the weights'.
  return bargaining.fairness(grads, alpha)


@reference
@each_step
def reference_nash_mtl(num_tasks, grads, extra, max_norm=1.0):
  # The limit is the update's, not the weights'.
  return bargaining.fairness(grads, 1.0)


@reference
@each_step
def reference_imtl_g(num_tasks, grads, extra):
  weights = np.linalg.pinv(grads @ grads.T) @ np.linalg.norm(grads, axis=1)
  return weights / weights.sum()


@reference
@each_step
def reference_aligned_mtl(
  num_tasks, grads, extra, preference=None, scale="min"
):
  preference = (
    np.ones(num_tasks) / num_tasks if preference is None else preference
  )
  values, vectors = np.linalg.eigh(grads @ grads.T)
  chosen = {
    "min": values[0],
    "median": np.sort(values)[(num_tasks - 1) // 2],
    "rmse": values.mean(),
  }[scale]
  root = vectors @ np.diag(np.sqrt(chosen / values)) @ vectors.T
  return root @ preference


@reference
@each_step
def reference_conflict_free(num_tasks, grads, extra, length="projection"):
  norms = np.linalg.norm(grads, axis=1)
  unit = grads / norms[:, None]
  direction = np.linalg.pinv(unit) @ np.ones(num_tasks)
  direction /= np.linalg.norm(direction)
  lengths = {
    "projection": norms,
    "min": norms.min(),
    "max": norms.max(),
    "harmonic": num_tasks / np.sum(1 / norms),
    "arithmetic": norms.mean(),
    "geometric": np.prod(norms) ** (1 / num_tasks),
  }[length]
  update = np.sum(lengths * (unit @ direction)) * direction
  return np.linalg.lstsq(grads.T, update, rcond=None)[0]
