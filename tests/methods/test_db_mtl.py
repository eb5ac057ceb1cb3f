"""DB-MTL: two scales, and neither of them matters."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from one_step import close, step, together

import optax_mtl
from benchmarks.reference.methods import REFERENCES


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


@pytest.mark.standard_promotion
def test_runs():
  """The paper's loop; and its parts, put together of the package's others."""
  rng = np.random.default_rng(0)
  grads, losses = rng.standard_normal((6, 3, 5)), rng.uniform(0.5, 2, (6, 3))
  fading = {"decay": 0.7, "decay_power": 0.5}
  txs = {
    "db_mtl": optax_mtl.db_mtl(3),
    "fading": optax_mtl.db_mtl(3, **fading),
    "log_losses": optax_mtl.log_losses(optax_mtl.db_mtl(3, logarithms=False)),
  }
  found = together(txs, grads, losses=losses)
  expected = REFERENCES["db_mtl"](3, grads, {"losses": losses})
  for name in ("db_mtl", "log_losses"):
    close(found[name][0], expected, 1e-12, 1e-12)
  expected = REFERENCES["db_mtl"](3, grads, {"losses": losses}, **fading)
  close(found["fading"][0], expected, 1e-12, 1e-12)
  parts = optax.chain(
    optax_mtl.per_task(optax.ema(0.9, debias=False), 3),
    optax_mtl.norm_balance(3, **optax_mtl.NORM_BALANCE_SETTINGS["db_mtl"]),
  )
  of_logs = grads / losses[..., None]
  updates, _ = together({"": parts}, of_logs)[""]
  close(updates, found["db_mtl"][0], 1e-12, 1e-12)


@jax.jit
def first_update(grads, losses):
  return step(optax_mtl.db_mtl(4), grads, losses=losses)[0]


@hypothesis.settings(
  max_examples=30, deadline=None, derandomize=True, database=None
)
@hypothesis.given(st.integers(0, 2**31))
def test_the_paper_s_two_balances(seed):
  """A loss in other units changes nothing; each task moves as far as another.

  Orthogonal gradients show each task's part by itself.
  """
  rng = np.random.default_rng(seed)
  rows = np.linalg.qr(rng.standard_normal((4, 4)))[0]
  grads = rows * 10 ** rng.uniform(-100, 100, (4, 1))
  losses = 10 ** rng.uniform(-3, 3, 4)
  updates = first_update(grads, losses)
  parts = rows @ np.asarray(updates)
  close(parts, np.full(4, np.abs(parts).max()), 1e-9)
  units = 10 ** rng.uniform(-30, 30, 4)
  others = first_update(grads * units[:, None], losses * units)
  close(others, updates, 1e-9, 1e-9 * np.abs(parts).max())


def test_who_is_left_out():
  """A zero gradient, a loss of zero, an absent task; NaN is not."""
  grads = np.array([[[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]] * 4)
  losses = np.array([[1.0, 1.0, 0.0, 1.0]] * 4)
  active = np.array([[True, True, True, True]] * 4)
  active[1, 3], grads[1, 3], losses[1, 3] = False, np.nan, np.nan
  losses[3, 0] = np.nan
  tx = optax_mtl.db_mtl(4, 0.0)
  updates, states = together({"": tx}, grads, losses=losses, active=active)[""]
  close(updates[:3], [[3.0, 9.0], [3.0, 4.0], [3.0, 9.0]], 1e-12)
  assert np.isnan(updates[3]).all()
  np.testing.assert_array_equal(states.buffer_steps[2], [3, 3, 0, 2])
  np.testing.assert_array_equal(states.gradient_buffer[1, 3], [0.0, 2.0])


def test_the_trunk_alone():
  """Lengths are the trunk's, and nothing is kept of a head."""
  params = {"trunk": jnp.zeros(2), "head": jnp.zeros(1)}
  grads = {
    "trunk": jnp.array([[2.0, 0.0], [0.0, 1.0]]),
    "head": jnp.array([[50.0], [0.0]]),
  }
  shared = {"trunk": True, "head": False}
  tx = optax_mtl.on_trunk(optax_mtl.db_mtl(2, 0.5), shared)
  updates, state = tx.update(grads, tx.init(params), params, losses=jnp.ones(2))
  close(updates["trunk"], [1.0, 1.0], 1e-12)
  close(updates["head"], [50.0], 1e-12)
  assert not np.any(state.gradient_buffer["head"])


def test_arguments():
  with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
    optax_mtl.db_mtl(2, 1.0)
  with pytest.raises(ValueError, match="decay_power must lie in"):
    optax_mtl.db_mtl(2, decay_power=-1.0)
  with pytest.raises(ValueError, match="descends their logarithms"):
    step(optax_mtl.db_mtl(2), np.eye(2), losses=[1.0, -1.0])
  with pytest.raises(TypeError, match="db_mtl needs losses="):
    step(optax_mtl.db_mtl(2), np.eye(2))
