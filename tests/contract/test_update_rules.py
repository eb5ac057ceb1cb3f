"""What a method that makes its update from the gradients themselves keeps to.

The package's, of which `graddrop` is random, and a test's own. As for weight
rules, all is read off one vmapped program of fifteen runs.
"""

import pickle

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import own_methods
from flax import serialization

from optax_mtl._dtypes import solver_dtype

NAME = "graddrop"
every_method = pytest.mark.parametrize("name", harness.UPDATING)
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
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, tx = harness.row_of(data, 0), harness.build(name)
  # A rule that keeps something like the params has seen them in `init`.
  state = jax.eval_shape(lambda: tx.init(harness.params()))
  updates, _ = jax.eval_shape(
    lambda g, s, e: tx.update(g, s, **e),
    row.grads,
    state,
    harness.extra_of(row),
  )
  like = jax.eval_shape(harness.params)
  assert harness.signature(updates) == harness.signature(like)
  _, updates, _ = harness.traced(tx, row._replace(grads={}), {})
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
  for case, run in harness.case_runs(NAME).items():
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
  kept = harness.case_runs(NAME)["base"].updates > 0
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


@every_method
def test_a_nan_gradient_shows(name):
  step, _ = harness.SHOWS
  run = harness.case_runs(name)["shows"]
  chex.assert_tree_all_finite(run.updates[:step])
  assert np.isnan(run.updates[step]).all()


@pytest.mark.parametrize(
  "name", harness.claiming("scale_equivariant", harness.UPDATING)
)
def test_scale_equivariant(name):
  """The draws do not depend on the scale, which is a power of two."""
  runs = harness.case_runs(name)
  for e in harness.EXPONENTS:
    scaled = runs[f"scale {e}"].updates / 2.0**e
    np.testing.assert_array_equal(scaled, runs["base"].updates)


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-4), ("float64", 1e-9)])
@pytest.mark.parametrize("name", sorted(set(harness.UPDATING) - {NAME}))
def test_reference(name, dtype, rtol):
  """A plain NumPy loop from the paper makes the same updates, over 50 steps.

  To the rounding of Gram matrices that are well conditioned. What is drawn
  depends on the params' leaves, of which a reference does not know:
  `tests/methods/test_graddrop.py` compares on params of one leaf.
  """
  data, run = harness.cases()["another"], harness.case_runs(name)["another"]
  if dtype == "float64":
    with jax.enable_x64(True):
      run = harness.run(name, data, dtype=dtype)
  example = harness.info(name).example(harness.TASKS)
  expected = (harness.REFERENCES | own_methods.REFERENCES)[name](
    harness.NUM_TASKS, harness.flat(data.grads, 2), data.extra, **example
  )
  size = np.abs(expected).max()
  harness.assert_close(run.updates, expected, size, rtol)


def test_one_task():
  """Its gradient, whole."""
  data = harness.tasks_of(harness.data(), (0,))
  run = harness.run(NAME, data, tasks=(0,))
  grads = harness.flat(data.grads, 2)[:, 0]
  harness.assert_close(run.updates, grads, np.abs(grads), 1e-6)


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
