"""What every method that weighs keeps to, read off four compiled programs."""

import pickle

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

import optax_mtl
from optax_mtl._dtypes import solver_dtype

every_method = pytest.mark.parametrize("name", harness.WEIGHING)
T = harness.NUM_TASKS

#: Cases in which all is finite and all tasks may be present.
FINITE = [
  name
  for name in harness.cases()
  if name not in ("absent_nan", "absent_inf", "shows")
]

#: How an update is called in each of the dtypes: the kinds of losses, of masks
#: and of params that a user may give take no trace of their own.
CALLS = {
  ("float32", False): {},
  ("bfloat16", False): {"losses": lambda x: x.astype(jnp.bfloat16)},
  ("float16", False): {"losses": list},
  ("float32", True): {"losses": lambda x: dict(zip("abc", x, strict=True))},
  ("bfloat16", True): {"active": lambda x: [True, False, True]},
  ("float64", True): {"active": lambda x: np.array([True, False, True])},
}


@every_method
@pytest.mark.parametrize("dtype, x64", CALLS)
def test_types(name, dtype, x64):
  """A state that changes its type costs a trace a step and breaks `scan`."""
  with jax.enable_x64(x64):
    data = harness.to_dtype(harness.data(num_steps=1), dtype)
    row, params = harness.row_of(data, 0), harness.params(dtype)
    given = row.extra | {"active": row.active}
    changes = {k: f(given[k]) for k, f in CALLS[dtype, x64].items()}
    tx = harness.build(name)
    # What nobody knows passes, as in all of optax.
    state, updates, new_state = harness.traced(
      tx, row, params, value=jnp.zeros(()), unknown=jnp.ones((7,)), **changes
    )
    assert harness.signature(updates) == harness.signature(
      jax.eval_shape(lambda: params)
    )
    assert harness.signature(state) == harness.signature(new_state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    assert isinstance(state, optax_mtl.WeightState)
    assert state.weights.shape == (T,)
    for leaf in jax.tree.leaves(state):
      if jnp.issubdtype(leaf.dtype, jnp.floating):
        assert leaf.dtype == solver_dtype(), "a state is in the solver's dtype"


@every_method
def test_params_are_optional_and_may_be_empty(name):
  """Without params the updates have the gradients' dtypes.

  With nothing to train there is no error, no retrace, and an empty update.
  """
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, tx = harness.row_of(data, 0), harness.build(name)
  state, updates, new_state = harness.traced(tx, row, None)
  like = jax.eval_shape(harness.params)
  assert harness.signature(updates) == harness.signature(like)
  assert harness.signature(state) == harness.signature(new_state)
  empty = row._replace(grads={}, second={})
  state, updates, new_state = harness.traced(tx, empty, {})
  assert updates == {}
  assert harness.signature(state) == harness.signature(new_state)


@every_method
def test_first_state(name):
  """Found through a chain; each leaf in a buffer of its own, to be donated."""
  tx, start = harness.build(name), harness.params()
  state = optax.chain(tx, optax.sgd(0.1)).init(start)
  np.testing.assert_array_equal(optax.tree.get(state, "weights"), np.zeros(T))
  leaves = jax.tree.leaves(tx.init(start))
  assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@every_method
def test_weights_are_applied(name):
  """The update is the weighted sum, or that within the rule's norm.

  Over all steps of all cases, and all of it is finite.
  """
  for case in FINITE:
    run, data = harness.case_runs(name)[case], harness.cases()[case]
    chex.assert_tree_all_finite((run.updates, run.weights))
    grads = harness.flat(data.grads, 2)
    applied = harness.limited(name, run.weights, grads)
    # A sum of T products in float32, of which each is rounded; a limit adds
    # the rounding of a norm and a quotient.
    size = np.einsum("st,stp->sp", np.abs(applied), np.abs(grads))
    expected = np.einsum("st,stp->sp", applied, grads)
    harness.assert_close(run.updates, expected, size, 1e-6, case)


@every_method
def test_zero_gradients_give_a_zero_update(name):
  for case in ("zero", "none"):
    assert (harness.case_runs(name)[case].updates == 0).all(), case


@every_method
def test_absent_tasks(name):
  """Weight 0, and the others weigh as if the task did not exist.

  As the reference says that was built for the others. To rounding: the
  gradients are well conditioned, and what weights are off by is 1e-4 of their
  sum at most.
  """
  runs = harness.case_runs(name)
  for case, others in (("without_1", (0, 2)), ("only_2", (2,))):
    expected = harness.expected_weights(name, "base", others)
    data = harness.cases()[case]
    grads = harness.flat(data.grads, 2)
    applied = harness.limited(name, runs[case].weights, grads)
    size = np.maximum(np.abs(expected).sum(axis=1, keepdims=True), 1)
    harness.assert_close(applied[:, others], expected, size, 1e-4, case)
    assert (runs[case].weights[~data.active] == 0).all()
  assert (runs["none"].weights == 0).all()
  for leaf in jax.tree.leaves(runs["none"].states):
    assert not np.isnan(np.asarray(leaf, np.float64)).any()


@every_method
def test_nothing_leaks_from_an_absent_task(name):
  """Bit for bit the same, whatever an absent task's inputs hold."""
  runs = harness.case_runs(name)
  for case in ("absent_nan", "absent_inf"):
    chex.assert_trees_all_equal(runs["absent"], runs[case])
  absent = ~harness.cases()["absent"].active
  assert (runs["absent"].weights[absent] == 0).all()


@every_method
def test_the_memory_of_an_absent_task_stands_still(name):
  """Field by field, from one step to the next.

  The end of an epoch of `dwa`'s example, 5 steps, closes the average of an
  absent task too; these steps are left out.
  """
  for case in ("absent", "without_1"):
    active = harness.cases()[case].active
    states = harness.case_runs(name)[case].states
    inside = np.arange(1, harness.NUM_STEPS) % 5 != 0
    still = ~active[1:] & inside[:, None]
    assert still.any()
    for path, rows in harness.per_task_rows(states).items():
      np.testing.assert_array_equal(rows[1:][still], rows[:-1][still], path)
      assert np.isfinite(np.asarray(rows, np.float64)).all(), path


@every_method
def test_a_nan_gradient_shows(name):
  """Where the task is not said to be absent, and not before its step."""
  step, _ = harness.SHOWS
  run = harness.case_runs(name)["shows"]
  chex.assert_tree_all_finite(run.updates[:step])
  assert np.isnan(run.updates[step]).all()


@pytest.mark.parametrize(
  "name", harness.claiming("scale_equivariant", harness.WEIGHING)
)
def test_scale_equivariant_exactly(name):
  """Powers of two scale without rounding: only an absolute constant shows."""
  runs = harness.case_runs(name)
  base = runs["base"].updates
  for e in harness.EXPONENTS:
    scaled = runs[f"scale {e}"].updates / 2.0**e
    # What differs is where the rounding of a norm falls.
    harness.assert_close(scaled, base, np.abs(base).max(), 1e-6, f"2**{e}")


def permuted_in_float64(name):
  """The run of "another" with its tasks in another order, in float64.

  What the user gives per task is permuted along (the row's example).
  """
  data = harness.tasks_of(harness.cases()["another"], harness.ORDER)
  with jax.enable_x64(True):
    run = harness.run(name, data, tasks=harness.ORDER, dtype="float64")
  return data, run


# Of a random method the order of the draws is not permuted.
@pytest.mark.parametrize(
  "name",
  [
    n
    for n in harness.WEIGHING
    if not harness.is_random(n) and n not in harness.ORDERED
  ],
)
def test_permuting_the_tasks_permutes_the_weights(name):
  runs, order = harness.case_runs(name), harness.ORDER
  pairs = [(runs["another"], permuted_in_float64(name)[1])]
  if "permutation_equivariant" in harness.claims(name):
    # Nothing that the user gives belongs to one of the tasks.
    pairs.append((runs["base"], runs["permuted"]))
  for base, permuted in pairs:
    # The rounding of a Gram matrix that is well conditioned.
    harness.assert_close(permuted.updates, base.updates, 4.0, 1e-4)
    size = np.abs(base.weights).max()
    harness.assert_close(permuted.weights, base.weights[:, order], size, 1e-4)


@every_method
@pytest.mark.parametrize(
  "dtype, rtol",
  [
    # The Gram matrix in float32: eps times its condition number, about 100.
    ("float32", 2e-5),
    # Solvers stop at some eps, on benign problems.
    ("float64", 1e-9),
  ],
)
def test_reference(name, dtype, rtol):
  """A plain NumPy loop from the paper gives the same, over 50 steps."""
  if dtype == "float32":
    data, tasks = harness.cases()["another"], harness.TASKS
    run = harness.case_runs(name)["another"]
  else:
    (data, run), tasks = permuted_in_float64(name), harness.ORDER
  expected = harness.expected_weights(name, "another", tasks)
  grads = harness.flat(data.grads, 2)
  updates = np.einsum("st,stp->sp", expected, grads)
  # The update is unique, the weights are where gradients are independent.
  size = np.linalg.norm(grads, axis=2).max(axis=1)[:, None]
  scale = np.maximum(np.abs(expected).sum(axis=1, keepdims=True), 1)
  harness.assert_close(run.updates, updates, scale * size, rtol, "updates")
  weights = harness.limited(name, run.weights, grads)
  harness.assert_close(weights, expected, scale, 10 * rtol, "weights")


@every_method
def test_one_task(name):
  """T=1: finite, and along the gradient."""
  data = harness.tasks_of(harness.data(), (0,))
  run = harness.run(name, data, tasks=(0,))
  grads = harness.flat(data.grads, 2)
  chex.assert_tree_all_finite(run.weights)
  assert (run.weights >= 0).all()
  expected = harness.limited(name, run.weights, grads) * grads[:, 0]
  harness.assert_close(run.updates, expected, np.abs(expected), 1e-6)


@every_method
def test_a_saved_state_is_the_same(name):
  """Bit for bit, from the middle of a run and of an epoch of `dwa`.

  That a restored run goes on the same is tested in `test_saving.py`.
  """
  states = harness.case_runs(name)["base"].states
  state = jax.tree.map(lambda leaf: jnp.asarray(leaf[13]), states)
  like = harness.build(name).init(harness.params())
  chex.assert_trees_all_equal_structs(state, like)
  packed = serialization.from_bytes(like, serialization.to_bytes(state))
  pickled = pickle.loads(pickle.dumps(jax.device_get(state)))
  for restored in (packed, pickled):
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    chex.assert_trees_all_equal(restored, state)
