"""GradDrop: its algorithm, entry by entry, with the numbers that are drawn."""

import jax
import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def drawn_uniforms(
  num_steps: int, shape: tuple[int, ...], seed: int = 0, leaf: int = 0
) -> np.ndarray:
  """The numbers [steps, *shape] that `graddrop` draws for one of its leaves.

  Those are the package's own choice and nothing of the paper: the test that
  they are what the paper asks for is that of how often a sign survives.
  """
  key, draws = jax.random.key(seed, impl="threefry2x32"), []
  for _ in range(num_steps):
    key, now = jax.random.split(key)
    numbers = jax.random.uniform(jax.random.fold_in(now, leaf), shape, "f4")
    draws.append(np.asarray(numbers, np.float64))
  return np.stack(draws)


def drop(
  rows: np.ndarray, signed: np.ndarray, uniform: np.ndarray, leak: np.ndarray
) -> np.ndarray:
  """Algorithm 1 of the paper, line by line.

  Args:
    rows: The gradients `[T, *shape]`.
    signed: What has the signs, the same or what broadcasts to it.
    uniform: `U`, as a row of `signed`.
    leak: `[T]`.

  Returns:
    `[*shape]`, the sum of what is left of them.
  """
  size = np.abs(signed).sum(axis=0)
  purity = (1 + signed.sum(axis=0) / np.where(size > 0, size, 1)) / 2
  total = np.zeros(rows.shape[1:])
  for row, sign, passed in zip(rows, signed, leak, strict=True):
    mask = (purity > uniform) * (sign > 0) + (purity < uniform) * (sign < 0)
    total = total + (passed + (1 - passed) * mask) * row
  return total


@reference("graddrop")
def graddrop(
  num_tasks: int, grads: np.ndarray, extra: Extra, leak: float = 0.0
) -> np.ndarray:
  """Updates [steps, P], of params that are one array."""
  del extra
  leaks = np.broadcast_to(leak, (num_tasks,))
  uniforms = drawn_uniforms(len(grads), grads.shape[2:])
  return np.stack(
    [drop(g, g, u, leaks) for g, u in zip(grads, uniforms, strict=True)]
  )
