"""What a method that makes its update from the gradients themselves keeps to.

`graddrop` is the test's own, with the gradients of all tasks; those of the
package have references. As for weight rules, all is read off one vmapped
program of fifteen runs.
"""

import pickle

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from optax_mtl._dtypes import solver_dtype

every_method = pytest.mark.parametrize("name", harness.UPDATING)
referred = pytest.mark.parametrize(
  "name", [name for name in harness.UPDATING if name in harness.PACKAGE]
)
every_dtype = pytest.mark.parametrize(
  "dtype, x64",
  [("float32", False), ("bfloat16", False), ("float16", False)]
  + [("float32", True), ("bfloat16", True), ("float64", True)],
)


@every_method
@every_dtype
def test_types(name, dtype, x64):
  with jax.enable_x64(x64):
    data = harness.to_dtype(harness.data(num_steps=1), dtype)
    row, params = harness.row_of(data, 0), harness.params(dtype)
    tx = harness.build(name)
    state, updates, new_state = harness.traced(
      tx, row, params, value=jnp.zeros(()), unknown=jnp.ones((7,))
    )
    assert harness.signature(updates) == harness.signature(
      jax.eval_shape(lambda: params)
    )
    assert harness.signature(state) == harness.signature(new_state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    for leaf in jax.tree.leaves(state):
      if jnp.issubdtype(leaf.dtype, jnp.floating):
        assert leaf.dtype == solver_dtype()


@every_method
def test_params_are_optional_and_may_be_empty(name):
  """In an update; a first memory is made from them."""
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, tx = harness.row_of(data, 0), harness.build(name)
  like = jax.eval_shape(harness.params)
  state = jax.eval_shape(lambda: tx.init(harness.params()))
  updates, new_state = jax.eval_shape(
    lambda g, s: tx.update(g, s, **harness.extra_of(row)), row.grads, state
  )
  assert harness.signature(updates) == harness.signature(like)
  assert harness.signature(state) == harness.signature(new_state)
  _, updates, _ = harness.traced(tx, row._replace(grads={}, second={}), {})
  assert updates == {}


def signs_and_sums(case):
  """Each entry's sums of its positive and of its negative gradients."""
  data = harness.cases()[case]
  grads = harness.flat(data.grads, 2)
  grads = np.where(data.active[..., None], grads, 0)
  return np.maximum(grads, 0).sum(axis=1), np.minimum(grads, 0).sum(axis=1)


def test_one_sign_survives():
  """Each entry is the sum of its positive or of its negative gradients.

  Over all steps of all cases in which the active tasks are finite: with masked
  tasks, of the others alone.
  """
  for case, run in harness.case_runs("graddrop").items():
    if case == "shows":
      continue
    chex.assert_tree_all_finite(run.updates)
    up, down = signs_and_sums("absent" if "absent" in case else case)
    size = np.maximum(up, -down)
    # A sum of three in float32.
    error = np.minimum(abs(run.updates - up), abs(run.updates - down))
    assert (error <= 1e-6 * size).all(), case


def test_the_sign_is_drawn_by_its_purity():
  """The positive sum survives with probability `up / (up - down)`."""
  up, down = signs_and_sums("base")
  kept = harness.case_runs("graddrop")["base"].updates > 0
  chance = up / (up - down)
  # 650 independent draws: five standard deviations of their sum.
  deviation = np.sqrt((chance * (1 - chance)).sum())
  assert abs(kept.sum() - chance.sum()) <= 5 * deviation
  both = (up > 0) & (down < 0)
  assert 0.2 < kept[both].mean() < 0.8


@every_method
def test_absent_tasks(name):
  runs = harness.case_runs(name)
  assert (runs["none"].updates == 0).all()
  assert (runs["zero"].updates == 0).all()
  for case in ("absent_nan", "absent_inf"):
    chex.assert_trees_all_equal(runs["absent"], runs[case])
  for case, run in runs.items():
    if case != "shows":
      chex.assert_tree_all_finite((run.updates, run.states))


@every_method
def test_a_nan_gradient_shows(name):
  step, _ = harness.SHOWS
  run = harness.case_runs(name)["shows"]
  chex.assert_tree_all_finite(run.updates[:step])
  assert np.isnan(run.updates[step]).all()


@every_method
def test_scale_equivariant(name):
  """The scale is a power of two, which rounds nothing."""
  assert "scale_equivariant" in harness.claims(name)
  runs = harness.case_runs(name)
  for e in harness.EXPONENTS:
    scaled = runs[f"scale {e}"].updates / 2.0**e
    np.testing.assert_array_equal(scaled, runs["base"].updates)


@every_method
def test_one_task(name):
  """Its gradient, whole."""
  data = harness.tasks_of(harness.data(), (0,))
  run = harness.run(name, data, tasks=(0,))
  grads = harness.flat(data.grads, 2)[:, 0]
  harness.assert_close(run.updates, grads, np.abs(grads), 1e-6)


@referred
def test_reference(name):
  """A plain NumPy loop from the paper gives the same, over 50 steps.

  In float32 and, with the tasks in another order, in float64; and where a task
  is absent the others go on as if it did not exist.
  """
  order = harness.ORDER
  data = harness.tasks_of(harness.cases()["another"], order)
  with jax.enable_x64(True):
    wide = harness.run(name, data, tasks=order, dtype="float64")
  runs = harness.case_runs(name)
  for run, case, tasks, rtol in (
    # A few roundings of sums of all entries, whose condition is about 100.
    (runs["another"], "another", harness.TASKS, 2e-5),
    (wide, "another", order, 1e-13),
    (runs["without_1"], "base", (0, 2), 2e-5),
  ):
    expected = harness.referred(name, case, tasks)
    size = np.linalg.norm(harness.flat(harness.cases()[case].grads, 2), axis=2)
    scale = size.max(axis=1)[:, None]
    harness.assert_close(run.updates, expected, scale, rtol, case)


@every_method
def test_a_saved_state_is_the_same(name):
  states = harness.case_runs(name)["base"].states
  state = jax.tree.map(lambda leaf: jnp.asarray(leaf[13]), states)
  like = harness.build(name).init(harness.params())
  packed = serialization.from_bytes(like, serialization.to_bytes(state))
  pickled = pickle.loads(pickle.dumps(jax.device_get(state)))
  for restored in (packed, pickled):
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal(restored, state)
