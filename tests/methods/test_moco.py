"""MoCo: towards MGDA's weights, on averages."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from one_step import close, step, together

import optax_mtl
from benchmarks.reference.methods import REFERENCES


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def test_by_hand():
  """One step without tracking: `λ - γ diag(1, 4) (½, ½)`, on the simplex."""
  updates, state = step(
    optax_mtl.moco(2, beta=1.0, gamma=0.2), [[1.0, 0.0], [0.0, 2.0]]
  )
  # (0.4, 0.1) and a quarter more for each.
  close(state.moco_shares, [0.65, 0.35], 1e-12)
  close(updates, [0.65, 0.7], 1e-12)


def test_runs():
  """The paper's rule, the authors' lengths, and its limits, in one program."""
  rng = np.random.default_rng(0)
  grads, losses = rng.standard_normal((6, 3, 5)), rng.uniform(0.5, 2, (6, 3))
  options = {
    "paper": {},
    "ridge": {"rho": 0.7, "gamma": 0.5, "beta_power": 0.0, "gamma_power": 1.0},
    "authors": {"normalize": "loss", "beta": 0.99},
    "still": {"beta": 1.0, "beta_power": 0.0, "gamma": 0.0},
  }
  txs = {name: optax_mtl.moco(3, **kwargs) for name, kwargs in options.items()}
  found = together(txs, grads, losses=losses)
  for name, kwargs in options.items():
    expected = REFERENCES["moco"](3, grads, {"losses": losses}, **kwargs)
    close(found[name][0], expected, 1e-10, 1e-12)
  # Weights that stand still on gradients as they are: their mean.
  close(found["still"][0], grads.mean(axis=1), 1e-12, 1e-12)


def test_the_weights_go_to_mgdas():
  """Of gradients that stay the same: the paper's reason for the rule."""
  grads = np.random.default_rng(3).standard_normal((3, 4))
  grads /= np.linalg.norm(grads, 2)
  tx = optax_mtl.moco(3, gamma=1.0, beta_power=0.0, gamma_power=0.0)
  _, states = together({"": tx}, np.tile(grads, (2000, 1, 1)))[""]
  _, best = step(optax_mtl.mgda(3), grads)
  assert np.min(best.weights) > 0.05  # or else there were corners
  # Each step halves the averages' distance; the weights' falls by the smallest
  # curvature along the simplex, at least the smallest eigenvalue.
  assert (1 - np.linalg.eigvalsh(grads @ grads.T)[0]) ** 2000 < 1e-9
  close(states.moco_shares[-1], best.weights, 1e-6)


@hypothesis.settings(
  max_examples=30, deadline=None, derandomize=True, database=None
)
@hypothesis.given(st.integers(0, 2**31), st.integers(1, 5))
def test_a_step_of_the_weights_shortens_the_update(seed, num_tasks):
  """Descent of `‖Σ λ y‖²` on the simplex, for rates up to 1 / curvature."""
  rng = np.random.default_rng(seed)
  grads = np.zeros((5, 6))
  grads[:num_tasks] = rng.standard_normal((num_tasks, 6)) * 10 ** rng.uniform(
    -15, 15
  )
  active = np.arange(5) < num_tasks
  curvature = np.linalg.norm(grads, 2) ** 2
  tx = optax_mtl.moco(5, 1.0, jnp.asarray(rng.uniform(0, 1) / curvature))
  updates, state = step(tx, grads, active=active)
  used = np.where(active, state.moco_shares, 0) * 5 / num_tasks
  assert (used >= 0).all() and abs(used.sum() - 1) < 1e-12
  close(updates, used @ grads, 1e-9, 1e-12 * np.abs(grads).max())
  before = np.linalg.norm(grads[:num_tasks].mean(axis=0))
  assert np.linalg.norm(updates) <= before * (1 + 1e-12)


def test_absent_tasks_and_zero_gradients():
  """Their averages stand still; the others share what they had."""
  grads = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]] * 3)
  grads[1, 1] = np.nan
  active = np.array([[True] * 3, [True, False, True], [True] * 3])
  tx = optax_mtl.moco(3, gamma=0.0, normalize="loss")
  losses = np.array([[2.0, 4.0, 1.0]] * 3)
  updates, states = together({"": tx}, grads, active=active, losses=losses)[""]
  tracked = states.tracked_gradients
  # β is ½, then ½/√2 of the second step, or of the task's own second.
  first, second = 0.5, 0.5 + 0.5 * (0.5 / np.sqrt(2))
  close(tracked[:, 1, 1], [4 * first, 4 * first, 4 * second], 1e-12)
  close(tracked[:2, 0, 0], [2 * first, 2 * second], 1e-12)
  close(updates[1], [second, 0.0], 1e-12)
  assert not np.any(tracked[:, 2])
  np.testing.assert_array_equal(states.tracked_steps[-1], [3, 2, 3])
  close(states.moco_shares, np.full((3, 3), 1 / 3), 1e-12)


def test_lengths_at_any_scale():
  """To the losses' length: a gradient of 1e-30 or of 1e30 is one of 1."""
  with jax.enable_x64(False):
    tx, unit = optax_mtl.moco(2, normalize="loss"), jnp.eye(2)
    of_unit, _ = step(tx, unit, losses=jnp.ones(2))
    scales = jnp.array([[1e-30], [1e30]])
    updates, _ = step(tx, unit * scales, losses=jnp.ones(2))
    close(updates, of_unit, 1e-6)


def test_arguments():
  for options, message in (
    ({"beta": 0.0}, r"beta must lie in \(0, 1\]"),
    ({"gamma": -1.0}, "gamma must lie in"),
    ({"rho": -1.0}, "rho must lie in"),
    ({"normalize": "l2"}, "normalize must be one of None, 'loss'"),
  ):
    with pytest.raises(ValueError, match=message):
      optax_mtl.moco(2, **options)
  tx = optax_mtl.moco(2, normalize="loss")
  with pytest.raises(TypeError, match="moco needs losses="):
    step(tx, np.eye(2))


def test_a_negative_loss_is_no_length():
  tx = optax_mtl.moco(2, normalize="loss", beta=1.0)
  state, losses = tx.init(jnp.zeros(2)), jnp.array([1.0, -1.0])
  with pytest.raises(ValueError, match="takes each loss for a length"):
    tx.update(jnp.eye(2), state, losses=losses)
  update = jax.jit(lambda losses: tx.update(jnp.eye(2), state, losses=losses))
  assert np.isnan(update(losses)[0]).any()
