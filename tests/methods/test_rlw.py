"""Random loss weighting: its laws, and who takes which number."""

import jax
import numpy as np
import pytest
from one_step import close, step

import optax_mtl
from optax_mtl.methods.losses.rlw import draw_numbers

LAWS = ["normal", "uniform", "bernoulli", "dirichlet"]
#: Law -> mean and variance of a number, before they are brought to a sum of 1.
MOMENTS = {
  "normal": (0, 1),
  "uniform": (1 / 2, 1 / 12),
  "bernoulli": (1 / 2, 1 / 4),
  "dirichlet": (1, 1),
}
COUNT = 4000


@pytest.mark.parametrize("law", LAWS)
def test_numbers_have_their_law(law):
  """Mean and variance, and no number goes with another of the same step."""
  keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), COUNT)
  draw = jax.jit(jax.vmap(lambda key: draw_numbers(key, 2, law)[0]))
  numbers = np.asarray(draw(jax.random.key_data(keys)), np.float64)
  mean, variance = MOMENTS[law]
  # Five standard deviations. That of a sample variance is below that of an
  # exponential's, whose fourth central moment is 9: sqrt(8 / COUNT).
  assert np.all(abs(numbers.mean(0) - mean) < 5 * np.sqrt(variance / COUNT))
  assert np.all(abs(numbers.var(0) - variance) < 5 * np.sqrt(8 / COUNT))
  assert abs(np.corrcoef(numbers.T)[0, 1]) < 5 / np.sqrt(COUNT)


@pytest.mark.parametrize("law", LAWS)
def test_weights(law):
  """They sum to 1, and change; those who are there take the first numbers."""
  tx = optax_mtl.rlw(3, law)
  _, first = step(tx, np.eye(3))
  _, second = step(tx, np.eye(3), first)
  numbers = draw_numbers(tx.init(np.zeros(3)).memory.weight_key, 3, law)[0]
  numbers = np.asarray(numbers, np.float64)

  def weights(numbers):
    if law in ("normal", "uniform"):
      numbers = np.exp(numbers)
    return numbers / numbers.sum() if numbers.any() else np.full(2, 0.5)

  close(first.weights, weights(numbers))
  close(second.weights.sum(), 1)
  assert (first.memory.weight_key != second.memory.weight_key).any()
  _, absent = step(tx, np.eye(3), active=np.array([True, False, True]))
  close(absent.weights, np.insert(weights(numbers[:2]), 1, 0))
  _, none = step(tx, np.eye(3), active=np.zeros(3, bool))
  close(none.weights, np.zeros(3))


def test_where_no_task_is_in_all_are():
  """Of three coins none shows heads in an eighth of the steps."""
  tx, state = optax_mtl.rlw(3, "bernoulli"), None
  found = []
  for _ in range(30):
    _, state = step(tx, np.eye(3), state)
    found.append(np.asarray(state.weights, np.float64))
  found = np.array(found)
  close(found.sum(axis=1), np.ones(30))
  # Each is 1/n of those that are in; and no seed of 30 steps has one kind only.
  for n in (1, 2, 3):
    rows = (found > 0).sum(axis=1) == n
    assert rows.any()
    close(found[rows].max(axis=1), np.full(rows.sum(), 1 / n))


def test_unknown_law():
  with pytest.raises(ValueError, match="law must be one of 'normal', 'uni"):
    optax_mtl.rlw(2, "cauchy")
