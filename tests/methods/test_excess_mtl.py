"""ExcessMTL: weights by what is left, whatever the units."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from one_step import close, step, together

import optax_mtl
from benchmarks.reference.methods.excess_mtl import excess_weights


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def test_by_hand():
  """The first excess is `Σ|g|`; the second, of the same, is that over √2."""
  grads = np.array([[[3.0, -4.0], [1.0, 0.0]], [[3.0, -4.0], [0.0, 0.0]]])
  tx = optax_mtl.excess_mtl(2, 0.5)
  updates, states = together({"": tx}, grads)[""]
  close(states.first_excess, [[7.0, 1.0]] * 2, 1e-12)
  power = np.exp(0.5 / np.sqrt(2))
  first = power / (1 + power)
  close(states.excess_weights, [[0.5, 0.5], [first, 1 - first]], 1e-12)
  close(updates, [[2.0, -2.0], [3 * first, -4 * first]], 1e-12)


def test_a_first_gradient_of_zero():
  """Elsewhere NaN from then on; here it waits, as do absent tasks."""
  grads = np.ones((4, 3, 2))
  grads[:2, 1] = 0
  active = np.ones((4, 3), bool)
  active[:3, 2] = False
  tx = optax_mtl.excess_mtl(3, 0.1)
  updates, states = together({"": tx}, grads, active=active)[""]
  assert np.isfinite(updates).all()
  first = states.first_excess
  close(first, [[2, 0, 0], [2, 0, 0], [2, 2, 0], [2, 2, 2]], 1e-12)
  grown = 0.1 / np.sqrt([2, 3, 4])
  # Who moves alone has nobody to gain from.
  close(states.excess_weights[:3, :2], np.full((3, 2), 0.5), 1e-12)
  # The last: of the first two's share task 0 has more, as it has grown longer;
  # task 2 gives its first, and keeps a third.
  power = np.exp([grown[2], grown[0]])
  want = [*(2 / 3 * power / power.sum()), 1 / 3]
  close(states.excess_weights[3], want, 1e-12)


@jax.jit
def three_steps(grads):
  tx = optax_mtl.excess_mtl(4, 0.3)
  updates, states = together({"": tx}, grads)[""]
  return updates, states.excess_weights


@hypothesis.settings(
  max_examples=20, deadline=None, derandomize=True, database=None
)
@hypothesis.given(st.integers(0, 2**31))
def test_units_do_not_matter(seed):
  """The paper's: weights are those of the losses in any units, on a simplex."""
  rng = np.random.default_rng(seed)
  grads = rng.standard_normal((3, 4, 6))
  units = 10 ** rng.uniform(-150, 150, (1, 4, 1))
  updates, weights = three_steps(grads * units)
  wanted = excess_weights(grads, 0.3)
  close(weights, wanted, 1e-10)
  expected = np.einsum("st,stp->sp", wanted, grads * units)
  close(updates, expected, 1e-9, 1e-9 * units.max())


def test_small_gradients_in_single_precision():
  """Squares of 1e-30 are zero in float32, and nothing is squared."""
  with jax.enable_x64(False):
    grads = np.random.default_rng(0).standard_normal((3, 2, 5))
    tx, state = optax_mtl.excess_mtl(2, 0.3), None
    for row in grads * np.array([[1e-30], [1e30]]):
      _, state = step(tx, row, state)
    close(state.excess_weights, excess_weights(grads, 0.3)[-1], 1e-5)


def test_very_many_steps():
  """The largest weight's logarithm stays 0, so that none overflows."""
  tx = optax_mtl.excess_mtl(2, 400.0)
  grads = np.ones((3, 2, 1))
  grads[1:, 1] = 0
  updates, states = together({"": tx}, grads)[""]
  assert (states.log_excess_weights[:, 0] == 0).all()
  close(states.excess_weights[-1], [1.0, 0.0], atol=1e-15)
  close(updates[-1], [1.0], 1e-12)


def test_complex_params():
  """By the entries' absolute values."""
  grads = jnp.array([[3 + 4j, 0], [1j, 1]])
  tx = optax_mtl.excess_mtl(2)
  updates, state = tx.update(grads, tx.init(grads[0]))
  close(state.first_excess, [5.0, 2.0], 1e-12)
  np.testing.assert_allclose(updates, grads.mean(axis=0), rtol=1e-12)
  assert state.gradient_roots.dtype == jnp.float64


def test_arguments():
  with pytest.raises(ValueError, match="rate must lie in"):
    optax_mtl.excess_mtl(2, -1.0)


def test_an_absent_task_keeps_its_share():
  """Those that move share among themselves what they had."""
  rng = np.random.default_rng(0)
  grads = rng.normal(size=(30, 3, 5))
  active = rng.random((30, 3)) < 0.6
  active[0] = True
  squares, shares, first = np.zeros((3, 5)), np.full(3, 1 / 3), None
  want = []
  for g, on in zip(grads, active, strict=True):
    squares[on] += g[on] ** 2
    excess = np.sum(g**2 / np.sqrt(squares), axis=1)
    if first is None:
      first = excess
    elif on.any():
      moved = shares[on] * np.exp(0.3 * (excess / first)[on])
      shares[on] = moved / moved.sum() * shares[on].sum()
    # Of those that are there.
    want.append(np.where(on, shares, 0) / max(shares[on].sum(), 1e-300))
  tx = optax_mtl.excess_mtl(3, 0.3)
  _, states = together({"": tx}, grads, active=active)[""]
  close(states.excess_weights, np.stack(want), 1e-12)
