"""Fixed weights: as given, by position or by name, and a grid of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import close, step, train

import optax_mtl

GRADS = [[1.0, 0.0], [2.0, 5.0]]


def test_weights_are_applied_as_given():
  """Not normalised; negative and zero ones too."""
  for weights in ([3.0, 0.5], [-1.0, 0.0], [1e-20, 1e20]):
    updates, state = step(optax_mtl.fixed_weighting(2, weights), GRADS)
    close(state.weights, weights)
    close(updates, np.asarray(weights) @ GRADS)
  mask = np.array([False, True])
  updates, state = step(
    optax_mtl.fixed_weighting(2, [3.0, 0.5]), GRADS, active=mask
  )
  close(updates, [1.0, 2.5])
  close(state.weights, [0.0, 0.5])


def test_weights_by_name_follow_the_names():
  """Rows come in the order of the sorted names: t10 before t2."""
  losses = {"t2": jnp.array(1.0), "t10": jnp.array(2.0)}
  weights = {"t2": 0.5, "t10": 3.0}
  updates, state = step(
    optax_mtl.fixed_weighting(2, weights), GRADS, losses=losses
  )
  close(state.weights, [3.0, 0.5])
  close(updates, [4.0, 2.5])
  # What was accepted in silence before: the names of other tasks.
  other = optax_mtl.fixed_weighting(2, {"boundary": 3.0, "initial": 0.5})
  with pytest.raises(ValueError, match="t10, t2"):
    step(other, GRADS, losses=losses)


def test_weights_with_each_update():
  """In the place of the argument's, in that update alone; or of none."""
  tx = optax_mtl.fixed_weighting(2, [3.0, 0.5])
  updates, state = step(tx, GRADS, weights=[0.0, 1.0])
  close(state.weights, [0.0, 1.0])
  close(updates, GRADS[1])
  close(step(tx, GRADS, state)[1].weights, [3.0, 0.5])
  # A mask holds, and what an absent task's weight is does not matter.
  mask = np.array([True, False])
  updates, state = step(tx, GRADS, weights=[2.0, np.nan], active=mask)
  close(updates, [2.0, 0.0])

  without = optax_mtl.fixed_weighting(2)
  losses = {"t2": jnp.array(1.0), "t10": jnp.array(2.0)}
  named = {"t2": jnp.array(0.5), "t10": jnp.array(3.0)}
  _, state = step(without, GRADS, losses=losses, weights=named)
  close(state.weights, [3.0, 0.5])
  with pytest.raises(TypeError, match="fixed_weighting needs weights= with"):
    step(without, GRADS)
  with pytest.raises(ValueError, match="weights must hold one value for each"):
    step(without, GRADS, weights=[1.0])
  with pytest.raises(ValueError, match="different names.*t10, t2 in losses="):
    other = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
    step(without, GRADS, losses=losses, weights=other)


def test_weights_of_a_table_in_a_scan():
  """A row a step; kept by `refresh_every`, averaged by `ema_weights`."""
  table = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
  plain, kept, averaged = (
    train(tx, GRADS, weights=table)[1].weights
    for tx in (
      optax_mtl.fixed_weighting(2),
      optax_mtl.refresh_every(optax_mtl.fixed_weighting(2), 2),
      optax_mtl.ema_weights(optax_mtl.fixed_weighting(2), 0.5),
    )
  )
  close(plain, table)
  close(kept, table[jnp.array([0, 0, 2])])
  close(averaged, [[1.0, 0.0], [0.5, 0.5], [1.25, 1.25]])


# Weights that nothing would read.
@pytest.mark.parametrize(
  "tx",
  [
    optax_mtl.mgda(2),
    optax_mtl.refresh_every(optax_mtl.equal_weighting(2), 3),
    optax_mtl.skip_nonfinite(optax_mtl.pcgrad(2)),
    optax.with_extra_args_support(
      optax.chain(optax_mtl.imtl_g(2), optax.sgd(0.1))
    ),
    optax_mtl.m_config(2),
  ],
)
def test_other_methods_refuse_weights(tx):
  with pytest.raises(TypeError) as error:
    step(tx, GRADS, weights=[1.0, 2.0])
  for part in (
    "does not read weights=",
    "fixed_weighting(num_tasks)",
    "rename",
  ):
    assert part in str(error.value)


def test_none_is_no_weights():
  tx = optax_mtl.equal_weighting(2)
  updates, _ = tx.update(jnp.array(GRADS), tx.init(jnp.zeros(2)), weights=None)
  close(updates, [3.0, 5.0])


def test_a_method_of_ones_own_may_read_them_as_it_likes():
  def own(num_tasks):
    return optax_mtl.from_step(
      lambda step: jnp.asarray(step.extra["weights"]) / num_tasks
    )

  tx = optax_mtl.method(paper="", url="", weights_sum="")(own)(2)
  close(step(tx, GRADS, weights=[2.0, 4.0])[1].weights, [1.0, 2.0])


def test_the_weights_in_a_state_cannot_be_set():
  """They are an output; what a method learns can be set."""
  tx = optax_mtl.gradnorm(2)
  state = tx.init(jnp.zeros(2))
  for change in (
    lambda: state._replace(weights=jnp.ones(2)),
    lambda: optax.tree.set(state, weights=jnp.ones(2)),
    lambda: optax.tree.set((state, ()), weights=jnp.ones(2)),
  ):
    with pytest.raises(TypeError, match="setting them would change nothing"):
      change()
  set_by_name = optax.tree.set(state, task_weights=jnp.array([0.5, 1.5]))
  assert type(set_by_name) is optax_mtl.WeightState
  _, new = step(tx, GRADS, set_by_name, losses=[1.0, 1.0])
  close(new.weights, [0.5, 1.5])
  assert state._replace(memory=()).memory == ()
  # As every state, it goes through trees, and is made again from its leaves.
  again = jax.tree.map(lambda leaf: leaf, state)
  assert type(again) is optax_mtl.WeightState


def test_hyperparameters_from_a_list():
  """A list of numbers is set like an array; so is that of other methods."""
  make = optax.inject_hyperparams(
    optax_mtl.fixed_weighting, static_args="num_tasks"
  )
  with jax.numpy_dtype_promotion("standard"):
    tx = make(2, weights=[3.0, 0.5])
    state = tx.init(jnp.zeros(2))
    close(tx.update(jnp.array(GRADS), state)[0], [4.0, 2.5])
    state.hyperparams["weights"] = jnp.array([0.0, 1.0])
    close(tx.update(jnp.array(GRADS), state)[0], GRADS[1])
    other = optax.inject_hyperparams(
      optax_mtl.gradnorm, static_args="num_tasks"
    )(2, initial_losses=(1.0, 2.0))
    assert "initial_losses" in other.init(jnp.zeros(2)).hyperparams
    # A dict is a constant, and can be changed in no way that is not an error.
    tx = make(2, weights={"a": 1.0, "b": 2.0})
    state = tx.init(jnp.zeros(2))
    state.hyperparams["weights"] = jnp.ones(2)
    with pytest.raises(TypeError, match="weights"):
      tx.update(jnp.array(GRADS), state)


def test_a_grid_of_fixed_weights_in_one_vmap():
  """Weight against performance, the survey's figure: one step for all."""
  grid = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.1, 0.9]])
  make = optax.inject_hyperparams(
    optax_mtl.fixed_weighting, static_args="num_tasks"
  )
  grads = jnp.array(GRADS)

  def update(weights):
    tx = make(num_tasks=2, weights=weights)
    return tx.update(grads, tx.init(jnp.zeros(2)))[0]

  with jax.numpy_dtype_promotion("standard"):
    close(jax.jit(jax.vmap(update))(grid), grid @ grads)
