"""A method for some of the tasks, fixed weights for the others."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl

NAMES = ("bc", "ic", "pde")


def weights(tx, losses=None, active=None):
  extra = {} if losses is None else {"losses": losses}
  grads = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
  _, state = tx.update(grads, tx.init(jnp.zeros(3)), active=active, **extra)
  return np.asarray(state.weights)


@pytest.mark.parametrize("name", ["gradnorm", "dwa", "mgda"])
def test_the_method_weighs_as_if_the_others_did_not_exist(name):
  data = harness.data(num_steps=12)
  tx = optax_mtl.on_tasks(harness.build(name), [2, 0], others=7.0)
  run = harness.runner(tx)(data)
  alone = harness.run(name, harness.tasks_of(data, (0, 2)), tasks=(0, 2))
  size = np.abs(alone.weights).max()
  # Two programs.
  harness.assert_close(run.weights[:, [0, 2]], alone.weights, size, 1e-4)
  assert (run.weights[:, 1] == 7).all()
  for path, rows in harness.per_task_rows(run.states).items():
    np.testing.assert_array_equal(rows[1:, 1], rows[:-1, 1], path)
  grads = harness.flat(data.grads, 2)
  want = np.einsum("st,stp->sp", run.weights, grads)
  harness.assert_close(run.updates, want, 40.0, 1e-6)


def test_the_weights_of_the_others():
  """A number, one each in the order of the rows, or by name."""
  method = optax_mtl.equal_weighting(3)
  named = dict(zip(NAMES, jnp.ones(3), strict=True))
  for tasks, others, want in (
    ([1], 5.0, [5.0, 1.0, 5.0]),
    ([1], [5.0, 6.0], [5.0, 1.0, 6.0]),
    (["ic"], [5.0, 6.0], [5.0, 1.0, 6.0]),
    (["pde", "bc"], 0.0, [1.0, 0.0, 1.0]),
    ([1], {"pde": 6.0, "bc": 5.0}, [5.0, 1.0, 6.0]),
    (["ic"], {"pde": 6.0, "bc": 5.0}, [5.0, 1.0, 6.0]),
  ):
    tx = optax_mtl.on_tasks(method, tasks, others)
    np.testing.assert_array_equal(weights(tx, named), want)
  active = jnp.array([False, True, True])
  tx = optax_mtl.on_tasks(method, [0, 1], 5.0)
  np.testing.assert_array_equal(weights(tx, active=active), [0.0, 1.0, 5.0])
  active = jnp.array([True, True, False])
  np.testing.assert_array_equal(weights(tx, active=active), [1.0, 1.0, 0.0])


def test_a_nan_of_the_others_is_theirs():
  """The method does not see it; the update does."""
  tx = optax_mtl.on_tasks(optax_mtl.mgda(3), [0, 1])
  grads = jnp.diag(jnp.array([1.0, 2.0, jnp.nan]))
  updates, state = tx.update(grads, tx.init(jnp.zeros(3)))
  chex.assert_tree_all_finite(state)
  assert np.isnan(np.asarray(updates)).any()


def test_what_it_refuses():
  method = optax_mtl.equal_weighting(3)
  named = dict(zip(NAMES, jnp.ones(3), strict=True))
  for tasks, others, message in (
    ([3], 1.0, "got task 3, but the tasks are 0 to 2"),
    ([-1], 1.0, "got task -1"),
    ([], 1.0, "at least one task"),
    ([1, 1], 1.0, "each once, got"),
    ([0, 1, 2], 1.0, "got all of the tasks"),
    ([0], [1.0], "others must hold one value for each of the 2 tasks, got 1"),
    (["x"], 1.0, "was given 'x', but the tasks are bc, ic, pde"),
    ([0], {"bc": 1.0, "ic": 1.0}, "others= for the tasks bc, ic, but the"),
  ):
    with pytest.raises(ValueError, match=message):
      weights(optax_mtl.on_tasks(method, tasks, others), named)
  for tasks in ("bc", 1, [1.0], [True]):
    with pytest.raises(TypeError, match="on_tasks needs"):
      optax_mtl.on_tasks(method, tasks)
  for tasks, others in ((["bc"], 1.0), ([0], {"ic": 1.0, "pde": 1.0})):
    with pytest.raises(ValueError, match="no names to"):
      weights(optax_mtl.on_tasks(method, tasks, others), jnp.ones(3))
  with pytest.raises(TypeError, match="on_tasks changes how .* graddrop has"):
    optax_mtl.on_tasks(harness.build("graddrop"), [0])
  with pytest.raises(TypeError, match="on_tasks wraps a method"):
    optax_mtl.on_tasks(jax.tree_util.Partial(lambda: None), [0])
