"""ReLoBRaLo: an average of softmaxes over ratios of losses."""

import jax
import numpy as np

from benchmarks.reference.methods._shared import Extra, reference


def drawn_lookbacks(num_steps: int, rho: float, seed: int = 0) -> np.ndarray:
  """Whether ρ is 1, [steps], as `relobralo` with this seed draws it.

  The draws are the package's own choice and nothing of the paper: the test that
  they are Bernoulli is that of their mean.
  """
  key, draws = jax.random.key(seed, impl="threefry2x32"), []
  for _ in range(num_steps):
    key, now = jax.random.split(key)
    draws.append(float(jax.random.uniform(now, (), np.float32)) < rho)
  return np.array(draws)


@reference("relobralo")
def relobralo(
  num_tasks: int,
  grads: np.ndarray,
  extra: Extra,
  alpha: float = 0.999,
  rho: float = 0.9999,
  temperature: float = 1.0,
) -> np.ndarray:
  """Weights [steps, T] that sum to T."""
  losses = extra["losses"]

  def shares(t: int, s: int) -> np.ndarray:
    power = np.exp(losses[t] / losses[s] / temperature)
    return num_tasks * power / power.sum()

  weights, out = np.ones(num_tasks), []
  for t, keeps in enumerate(drawn_lookbacks(len(losses), rho)):
    if t == 1:
      weights = shares(1, 0)
    elif t > 1:
      past = weights if keeps else shares(t, 0)
      weights = alpha * past + (1 - alpha) * shares(t, t - 1)
    out.append(weights)
  return np.stack(out)
