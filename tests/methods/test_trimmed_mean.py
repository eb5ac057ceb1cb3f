"""The trimmed mean: by value, with absent tasks, and what cannot move it."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from one_step import close, step

import optax_mtl


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def trimmed(grads, trim):
  """By sorting; as much is trimmed as leaves something."""
  trim = min(trim, max(len(grads) - 1, 0) // 2)
  return np.sort(grads, axis=0)[trim : len(grads) - trim].mean(axis=0)


# Up to 16 tasks are ranked by counting, more are sorted.
@pytest.mark.parametrize("num_tasks", [7, 20])
def test_values_with_absent_tasks(num_tasks):
  """Equal entries and infinite ones too; the mask and the trim are traced."""
  rng = np.random.default_rng(num_tasks)
  grads = rng.integers(-3, 4, size=(num_tasks, 30)).astype(float)
  grads[2, :5], grads[4, 5:9] = np.inf, -np.inf

  @jax.jit
  @jax.vmap
  def update(trim, active):
    tx = optax_mtl.trimmed_mean(num_tasks, trim)
    rows = jnp.where(active[:, None], grads, jnp.nan)
    return tx.update(rows, tx.init(jnp.zeros(30)), active=active)[0]

  number = 12
  trims = rng.integers(0, num_tasks // 2, size=number)
  active = rng.uniform(size=(number, num_tasks)) < 0.6
  trims[:3], active[0], active[1] = 1, True, False
  active[2] = np.arange(num_tasks) == 3
  found = update(jnp.asarray(trims), jnp.asarray(active))
  for i in range(number):
    wanted = np.zeros(30) if i == 1 else trimmed(grads[active[i]], trims[i])
    close(found[i], wanted, 1e-12)


@hypothesis.settings(
  max_examples=30, deadline=None, derandomize=True, database=None
)
@hypothesis.given(st.integers(0, 2**31), st.integers(0, 3))
def test_as_many_as_are_trimmed_cannot_move_it(seed, trim):
  """The paper's: it stays among the others' entries, whatever theirs are."""
  rng = np.random.default_rng(seed)
  grads = rng.standard_normal((7, 6))
  grads[:trim] = rng.choice(
    [-np.inf, -1e30, -1.0, 0.0, 1e30, np.inf], (trim, 6)
  )
  updates, _ = step(optax_mtl.trimmed_mean(7, np.int32(trim)), grads)
  honest = grads[trim:]
  # The mean of up to seven numbers.
  slack = 1e-15 * np.abs(honest).sum(axis=0)
  assert (updates >= honest.min(axis=0) - slack).all()
  assert (updates <= honest.max(axis=0) + slack).all()


def test_a_nan_is_not_trimmed():
  """Nor other entries touched; an infinite one that is left shows."""
  for num_tasks in (5, 20):
    grads = np.tile(np.arange(1.0, num_tasks + 1)[:, None], (1, 3))
    grads[0, 1] = np.nan
    grads[:3, 2] = np.inf
    updates, _ = step(optax_mtl.trimmed_mean(num_tasks, 2), grads)
    middle = (num_tasks + 1) / 2
    np.testing.assert_array_equal(updates, [middle, np.nan, np.inf])


def test_half_precision_is_summed_in_single():
  """256 and three ones: bfloat16 holds 256 or 258 and no 257."""
  grads = jnp.array([256.0, 1.0, 1.0, 1.0], jnp.bfloat16)[:, None]
  tx = optax_mtl.trimmed_mean(4, 0)
  updates, _ = tx.update(grads, tx.init(jnp.zeros(1, jnp.bfloat16)))
  assert updates.dtype == jnp.bfloat16 and updates[0] == 259 / 4


def test_arguments():
  with pytest.raises(ValueError, match="trim=2 .* nothing of 4 tasks.*most 1"):
    optax_mtl.trimmed_mean(4, 2)
  with pytest.raises(ValueError, match="trim must be a whole number"):
    optax_mtl.trimmed_mean(4, 0.5)
