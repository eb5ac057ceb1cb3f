"""Random loss weighting: a softmax of normal numbers."""

import jax
import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def drawn_numbers(num_steps: int, num_tasks: int, seed: int = 0) -> np.ndarray:
  """The normal numbers [steps, T] that `rlw` with this seed draws.

  Those are the package's own choice and nothing of the paper: the test that
  they are what the paper asks for is that of their distribution.
  """
  key, draws = jax.random.key(seed, impl="threefry2x32"), []
  for _ in range(num_steps):
    key, now = jax.random.split(key)
    keys = [jax.random.fold_in(now, i) for i in range(num_tasks)]
    draws.append([float(jax.random.normal(k, (), np.float32)) for k in keys])
  return np.array(draws)


@reference("rlw")
def rlw(num_tasks: int, grads: np.ndarray, extra: Extra) -> np.ndarray:
  """Weights [steps, T] that sum to 1."""
  power = np.exp(drawn_numbers(len(grads), num_tasks))
  return power / power.sum(axis=1, keepdims=True)
