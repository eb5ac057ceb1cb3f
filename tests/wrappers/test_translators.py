"""Arguments that come by other ways: `from_extra_arg` and `rename_args`."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

T = harness.NUM_TASKS
# optax.adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion

#: What goes around a translator, and acts within it.
AROUND = {
  "trunk": lambda tx: optax_mtl.on_trunk(tx, harness.SHARED),
  "drop": optax_mtl.drop_nonfinite,
  "logs": optax_mtl.log_losses,
  "skip": optax_mtl.skip_nonfinite,
  "track": optax_mtl.track,
  "accumulate": lambda tx: optax_mtl.accumulate(tx, T, 1),
  "refresh": lambda tx: optax_mtl.refresh_every(tx, 2),
  "ema": optax_mtl.ema_weights,
  "tasks": lambda tx: optax_mtl.on_tasks(tx, [0, 2]),
}
TRANSLATORS = {
  "grads": optax_mtl.from_extra_arg,
  "names": lambda tx: optax_mtl.rename_args(
    tx, losses="task_losses", active="present"
  ),
}


def first_update(tx, translator=None):
  """One update, its arguments as the translator wants them."""
  data = harness.cases()["absent"]
  row = harness.row_of(harness.to_dtype(data, "float32"), 2)
  losses, active = row.extra["losses"], row.active
  params, updates = harness.params(), row.grads
  extra = {"losses": losses, "active": active}
  if translator == "grads":
    extra["grads"] = updates
    updates = jax.tree.map(lambda g: jnp.sum(g, axis=0), updates)
  if translator == "names":
    extra = {"task_losses": losses, "present": active, "losses": "the loop's"}
  tx = optax.with_extra_args_support(tx)
  return tx.update(updates, tx.init(params), params, **extra)


def gradnorm():
  return harness.build("gradnorm")


@pytest.mark.parametrize("translator", TRANSLATORS)
def test_a_translator_is_found_through_other_wrappers(translator):
  """Each of them lets it out."""
  plain, tx = gradnorm(), TRANSLATORS[translator](gradnorm())
  for name in ("skip", "accumulate", "track", "logs", "tasks"):
    plain, tx = AROUND[name](plain), AROUND[name](tx)
  found = first_update(tx, translator)
  chex.assert_trees_all_close(found, first_update(plain), rtol=1e-6)


@pytest.mark.parametrize("wrapper", AROUND)
@pytest.mark.parametrize("translator", TRANSLATORS)
def test_wrappers_act_within(wrapper, translator):
  """Inside of the wrapper or around it, it is as without the translator.

  And the state, which a user reads by name, is that of what is inside.
  """
  wrap, translate = AROUND[wrapper], TRANSLATORS[translator]
  plain = first_update(wrap(gradnorm()))
  for tx in (translate(wrap(gradnorm())), wrap(translate(gradnorm()))):
    found = first_update(tx, translator)
    # The same operations, one by one.
    chex.assert_trees_all_close(found, plain, rtol=1e-6)
    assert optax.tree.get(found[1], "task_weights").shape == (T,)


def test_around_a_chain():
  """From a loop that knows nothing but a summed gradient."""
  chain = optax.chain(gradnorm(), optax.adam(0.1))
  plain = first_update(chain)
  tx = optax_mtl.from_extra_arg(
    optax_mtl.rename_args(chain, losses="task_losses", active="present")
  )
  data = harness.cases()["absent"]
  row = harness.row_of(harness.to_dtype(data, "float32"), 2)
  summed = jax.tree.map(lambda g: jnp.sum(g, axis=0), row.grads)
  params = harness.params()
  found = tx.update(
    summed,
    tx.init(params),
    params,
    grads=row.grads,
    task_losses=row.extra["losses"],
    present=row.active,
  )
  chex.assert_trees_all_close(found, plain, rtol=1e-6)


def test_any_source_comes_as_an_extra_arg():
  def loss_fn(params):
    return jnp.stack([jnp.sum(params**2), jnp.sum((params - 1) ** 2)])

  tx = optax_mtl.from_extra_arg(optax_mtl.mgda(2), "task_grads")
  params = jnp.array([0.25, 0.25])

  @jax.jit
  def step(params):
    summed = jax.grad(lambda params: jnp.sum(loss_fn(params)))(params)
    _, grads = optax_mtl.value_and_task_grads(loss_fn, source="implicit")(
      params
    )
    return tx.update(summed, tx.init(params), params, task_grads=grads)

  updates, state = step(params)
  # Between opposite gradients of lengths 1 and 3.
  np.testing.assert_allclose(state.weights, [0.75, 0.25], rtol=1e-5)
  np.testing.assert_allclose(updates, [0.0, 0.0], atol=1e-6)


def test_names_are_swapped_and_hidden():
  seen = {}

  def update(updates, state, params=None, **extra):
    seen.update(extra)
    return updates, state

  inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
  tx = optax_mtl.rename_args(inner, a="b", b="a", c="missing")
  tx.update(1.0, (), a=1, b=2, c=3, d=4)
  assert seen == {"a": 2, "b": 1, "d": 4}


def test_errors_name_what_the_update_calls_it():
  tx = optax_mtl.rename_args(gradnorm(), losses="task_losses")
  params, grads = jnp.zeros(2), jnp.ones((3, 2))
  with pytest.raises(TypeError, match="gradnorm needs task_losses= with every"):
    tx.update(grads, tx.init(params), params, losses=jnp.ones(3))
  tx = optax_mtl.rename_args(gradnorm(), active="present")
  with pytest.raises(TypeError, match="gradnorm needs losses= with every"):
    tx.update(grads, tx.init(params), params)
  tx = optax_mtl.from_extra_arg(optax_mtl.mgda(2))
  with pytest.raises(TypeError, match="from grads=, and this update has none"):
    tx.update(params, tx.init(params), params)
  with pytest.raises(ValueError, match="rename_args was given no names"):
    optax_mtl.rename_args(gradnorm())
  for name in ("params", "no name"):
    with pytest.raises(ValueError, match="extra arg"):
      optax_mtl.rename_args(gradnorm(), losses=name)
    with pytest.raises(ValueError, match="extra arg"):
      optax_mtl.from_extra_arg(gradnorm(), name)
