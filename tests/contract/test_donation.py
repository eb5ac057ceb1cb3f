"""Donated states: no buffer in two leaves, none that the caller still has."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import optax_mtl

T = harness.NUM_TASKS

#: Wrappers, around any method; `per_task` stands before one.
WRAPPERS = {
  "on_trunk": lambda tx: optax_mtl.on_trunk(tx, harness.SHARED),
  "drop_nonfinite": optax_mtl.drop_nonfinite,
  "refresh_every": lambda tx: optax_mtl.refresh_every(tx, 3),
  "refresh_every, first": lambda tx: optax_mtl.refresh_every(
    tx, 3, first=1, initial_weights=jnp.ones(T)
  ),
  "ema_weights": optax_mtl.ema_weights,
  "normalize_gradients": optax_mtl.normalize_gradients,
  "on_tasks": lambda tx: optax_mtl.on_tasks(tx, [0]),
  "weighted_then": lambda tx: optax_mtl.weighted_then(
    optax_mtl.dwa(T, steps_per_epoch=2), tx
  ),
  "accumulate": lambda tx: optax_mtl.accumulate(tx, T, 2),
  "skip_nonfinite": optax_mtl.skip_nonfinite,
  "track": optax_mtl.track,
  "per_task": lambda tx: optax.chain(
    optax_mtl.per_task(optax.scale_by_adam(), T), tx
  ),
}


#: Those that change how weights come about.
OF_WEIGHTS = {name for name in WRAPPERS if name.startswith("refresh_every")}
OF_WEIGHTS |= {"ema_weights", "on_tasks"}


def assert_own_buffers(state):
  leaves = jax.tree.leaves(state)
  assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", harness.every_kind)
def test_every_leaf_of_a_first_state_has_its_own_buffer(name, wrapper):
  if name in harness.UPDATING and wrapper in OF_WEIGHTS:
    return  # These change weights, and there are none.
  assert_own_buffers(
    WRAPPERS[wrapper](harness.build(name)).init(harness.params())
  )


def test_an_update_rule_may_keep_the_params():
  """A moving average that starts at the params does not take them away."""

  def slow(num_tasks):
    del num_tasks
    return optax_mtl.UpdateRule(
      update=lambda step, memory: (memory[0], memory),
      init=lambda params: (params, params),
    )

  tx = harness.registered(slow)(2)
  params = jnp.ones(2)
  state = tx.init(params)
  assert_own_buffers((params, state))


#: Steps that failed: one buffer in several fields of a first state, or one
#: that the caller gave. Name -> the transformation, from an array of ones.
DONATED = {
  "gradnorm": lambda ones: optax_mtl.gradnorm(T),
  "gradnorm, initial_losses": lambda ones: optax_mtl.gradnorm(
    T, initial_losses=ones
  ),
  "dwa": lambda ones: optax_mtl.dwa(T, steps_per_epoch=2),
  "skip_nonfinite": lambda ones: optax_mtl.skip_nonfinite(
    optax_mtl.equal_weighting(T)
  ),
  "uncertainty_weighting": lambda ones: optax_mtl.uncertainty_weighting(
    T, initial_log_vars=ones
  ),
  "reduce_on_plateau": lambda ones: optax_mtl.skip_nonfinite(
    optax.chain(
      optax_mtl.dwa(T, steps_per_epoch=2), contrib.reduce_on_plateau()
    )
  ),
  "graddrop": lambda ones: harness.build("graddrop"),
  "m_config": lambda ones: optax_mtl.m_config(T),
  "famo": lambda ones: optax_mtl.famo(T, min_losses=0 * ones),
  "imtl_l": lambda ones: optax_mtl.imtl_l(T, initial_log_scales=ones),
  "relobralo": lambda ones: optax_mtl.relobralo(T),
  "weighted_then": lambda ones: optax_mtl.refresh_every(
    optax_mtl.weighted_then(
      optax_mtl.fixed_weighting(T, ones), optax_mtl.pcgrad(T)
    ),
    2,
    first=1,
    initial_weights=ones,
  ),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("what", DONATED)
def test_donated_steps(what):
  """The same as steps that give nothing away, and the caller keeps his."""
  ones = jnp.ones(T)
  tx = optax.with_extra_args_support(DONATED[what](ones))
  data = harness.to_dtype(harness.data(num_steps=2), "float32")

  def step(state, row):
    extra = harness.extra_of(row) | {"value": jnp.ones(())}
    updates, state = tx.update(row.grads, state, harness.params(), **extra)
    return state, updates

  outputs = []
  for donated in ((), (0,)):
    compiled = jax.jit(step, donate_argnums=donated)
    state = tx.init(harness.params())
    for i in range(2):
      state, updates = compiled(state, harness.row_of(data, i))
    outputs.append(updates)
    np.testing.assert_array_equal(ones, np.ones(T))
    # A second run starts from arrays that are still there.
    tx.init(harness.params())
  chex.assert_trees_all_close(*outputs)
