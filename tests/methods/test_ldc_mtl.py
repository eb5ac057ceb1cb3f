"""Loss discrepancy control: the sheet's values, its slopes, its learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import close, step, walk

import optax_mtl
from optax_mtl.methods.losses.ldc_mtl import difference_signs


def weights(losses, shares=0.5, **options):
  """Of one step, with the sigmoids at `shares`."""
  tx = optax_mtl.ldc_mtl(len(losses), **options)
  state = tx.init(jnp.zeros(len(losses)))
  logits = np.full(len(losses), np.log(shares) - np.log1p(-shares), np.float32)
  memory = state.memory._replace(balance_logits=jnp.asarray(logits))
  losses = jnp.asarray(losses, jnp.float32)
  state = state._replace(memory=memory)
  return step(tx, np.eye(len(losses)), state, losses=losses)[1].weights


def test_two_tasks():
  """Weights of 1 on losses (2, 1): (1.1, .9), and divided (.6, .4)."""
  options = {"penalty": 0.1, "normalize": "none", "shares": 1 - 1e-7}
  close(weights([2.0, 1.0], **options), [1.1, 0.9])
  close(weights([2.0, 1.0], divide=True, **options), [0.6, 0.4])


@pytest.mark.parametrize("normalize", ["initial", "log", "none"])
def test_weights_are_the_objectives_slopes(normalize):
  first, now = np.array([4.0, 0.5, 1.0]), np.array([1.0, 1.5, 2.0])

  def objective(losses):
    scaled = {
      "initial": losses / first,
      "log": jnp.log(losses / first),
      "none": losses,
    }[normalize]
    differences = jnp.abs(jnp.diff(0.5 * scaled))
    return jnp.sum(0.5 * scaled) + 0.2 * jnp.sum(differences)

  # A learning rate of zero: the sigmoids stay at 1/2.
  tx = optax_mtl.ldc_mtl(3, 0.2, normalize=normalize, optimizer=optax.sgd(0.0))
  losses = np.float32(np.stack([first, now]))
  states = walk(tx, np.eye(3), losses=losses)[1]
  close(states.weights[1], jax.grad(objective)(jnp.asarray(now, jnp.float32)))


def test_an_absent_task_has_no_neighbours():
  values = jnp.array([3.0, 9.0, 1.0, 2.0])
  everyone = jnp.ones(4, bool)
  close(difference_signs(values, everyone), [-1, 2, -2, 1])
  close(difference_signs(values, jnp.array([1, 0, 1, 1], bool)), [1, 0, -2, 1])
  close(difference_signs(values, ~everyone), np.zeros(4))
  close(difference_signs(values[:1], everyone[:1]), [0])


def test_learning():
  """By hand: the weighted losses come nearer, and then stay about equal."""
  losses = np.float32([[1.0, 1.0], [2.0, 1.0]] + [[2.0, 1.0]] * 20)
  tx = optax_mtl.ldc_mtl(2, normalize="initial", optimizer=optax.sgd(0.2))
  memory = walk(tx, np.eye(2), losses=losses)[1].memory
  logits = memory.balance_logits
  close(logits[0], [0, 0])
  close(logits[1], [-0.2 * 2 * 0.25, 0.2 * 0.25])
  shares = 1 / (1 + np.exp(-logits.astype(float)))
  # A step moves the difference by at most 0.2 (4 + 1) / 16.
  assert abs(2 * shares[-1, 0] - shares[-1, 1]) < 0.2 * 5 / 16


def test_what_cannot_be_normalized():
  for other in (0.0, np.nan, np.inf):
    close(weights([2.0, other]), [0.25, 0])
  with pytest.raises(ValueError, match="must not be negative, since ldc_mtl"):
    weights([2.0, -1.0])
  # A loss that needs no normalizing may be.
  close(weights([-2.0, np.nan], normalize="none"), [0.5, 0])
  with pytest.raises(ValueError, match="normalize must be one of"):
    optax_mtl.ldc_mtl(2, normalize=None)
