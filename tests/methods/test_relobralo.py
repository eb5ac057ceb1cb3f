"""ReLoBRaLo: its formula, its first steps, its lookback, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
from one_step import close, walk

import optax_mtl
from optax_mtl.methods.losses.relobralo import draw_lookback


def run(losses, alpha=0.999, rho=1.0, temperature=1.0, active=None):
  """The states of one run, [N, ...]."""
  losses = np.asarray(losses, np.float32)
  tx = optax_mtl.relobralo(losses.shape[1], alpha, rho, temperature)
  active = np.ones(losses.shape, bool) if active is None else active
  return walk(tx, np.eye(losses.shape[1]), losses=losses, active=active)[1]


LOSSES = [[1.0, 2.0, 4.0], [0.5, 2.0, 2.0], [0.5, 1.0, 2.0]]


def shares(new, old, temperature=1.0):
  power = np.exp(np.divide(new, old) / temperature)
  return len(new) * power / power.sum()


def test_formula():
  """`α` throughout, from weights of 1 after the first losses; both draws."""
  start = optax_mtl.relobralo(3, 0.9).init(jnp.zeros(3))
  first = jnp.array(LOSSES[0])
  # As if the first two steps, with an `α` of their own, were over.
  start = start._replace(
    memory=start.memory._replace(
      first_losses=first, recent_losses=first, losses_seen=jnp.full(3, 2)
    )
  )

  def step(state, losses, rho):
    tx = optax_mtl.relobralo(3, 0.9, rho)
    return tx.update(jnp.eye(3), state, losses=jnp.array(losses))[1]

  first = step(start, LOSSES[1], 1.0)
  close(first.weights, [0.98222059, 1.03555883, 0.98222059], rtol=1e-6)
  kept, looked = (step(first, LOSSES[2], rho) for rho in (1.0, 0.0))
  close(kept.weights, [0.99909405, 1.00181191, 0.99909405], rtol=1e-6)
  close(looked.weights, [1.01509552, 0.96980896, 1.01509552], rtol=1e-6)


#: Three steps each: losses, `α`, `ρ`, `τ`, weights.
EDGES = {
  # `α` is 1 in the first step, 0 in the second, and then what it is.
  "second step": (LOSSES[:2] * 2, 1.0, 1.0, 1.0, shares(*LOSSES[1::-1])),
  "third step": (
    LOSSES,
    0.9,
    1.0,
    2.0,
    0.9 * shares(LOSSES[1], LOSSES[0], 2)
    + 0.1 * shares(LOSSES[2], LOSSES[1], 2),
  ),
  "lookback": (
    LOSSES,
    0.9,
    0.0,
    2.0,
    0.9 * shares(LOSSES[2], LOSSES[0], 2)
    + 0.1 * shares(LOSSES[2], LOSSES[1], 2),
  ),
  "constant": ([[1.0, 5.0, 1e-9]] * 3, 0.5, 0.0, 0.1, [1.0, 1.0, 1.0]),
  # A softmax that overflows without its maximum subtracted.
  "cold": (
    [[1.0, 1.0, 1.0], [9.0, 1.0, 1.0]] * 2,
    1.0,
    1.0,
    1e-3,
    [3.0, 0.0, 0.0],
  ),
  # No ratio to a loss of zero: 1; nor to one that is not finite, which is none.
  "zero": ([[0.0, 2.0, 2.0]] + [[1.0, 2.0, 2.0]] * 2, 0.5, 0.0, 1.0, [1.0] * 3),
  "nan": ([[np.nan, 2.0, 2.0]] + [[1.0, 2.0, 2.0]] * 2, 0.5, 0, 1.0, [1.0] * 3),
  "inf": ([[1.0, 2.0, 2.0], [np.inf, 2, 2], [1, 2, 2]], 0.5, 0, 1.0, [1.0] * 3),
}


def test_edges():
  for name, (losses, *options, wanted) in EDGES.items():
    found = run(losses[:3], *options).weights
    at = 1 if name in ("second step", "cold") else 2
    np.testing.assert_allclose(found[0], np.ones(3), err_msg=name)
    np.testing.assert_allclose(
      found[at], wanted, rtol=1e-5, atol=1e-30, err_msg=name
    )
    np.testing.assert_allclose(found.sum(axis=1), 3.0, rtol=1e-6, err_msg=name)


def test_a_task_that_comes_late_starts_like_the_others():
  """Weight 1, then its first ratio; the weights of those there sum to them."""
  losses = [[1.0, 1.0, 7.0], [2.0, 1.0, 7.0], [2.0, 1.0, 1.0], [2.0, 1.0, 2.0]]
  active = np.ones((4, 3), bool)
  active[:2, 2] = False
  states = run(losses, alpha=1.0, active=active)
  two = shares([2.0, 1.0], [1.0, 1.0])
  close(states.weights[1], [*two, 0.0])
  # The others keep theirs (`α` is 1), which sum to 2.
  close(states.weights[2], [*two, 1.0])
  # Its ratio is 2, theirs is 1; scaled to a sum of 3.
  third = np.array([*two, shares([1.0, 1.0, 2.0], np.ones(3))[2]])
  close(states.weights[3], 3 * third / third.sum())
  close(states.memory.first_losses[3], [1.0, 1.0, 1.0])


def test_the_lookback_is_drawn_by_its_probability():
  keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 4000)
  draw = jax.vmap(draw_lookback, (0, None))
  keeps, _ = draw(jax.random.key_data(keys), 0.9)
  # Five standard deviations of the mean of 4000 draws.
  assert abs(np.mean(keeps) - 0.9) < 5 * np.sqrt(0.9 * 0.1 / 4000)
