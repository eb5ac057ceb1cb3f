"""What every method keeps to: shapes, dtypes, tracing, special matrices."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_mtl._dtypes import solver_dtype

every_method = pytest.mark.parametrize("name", harness.NAMES)


def step_arguments(dtype="float32"):
  """Grads and extra args of one step, and params."""
  data = harness.to_dtype(harness.data(num_steps=1), dtype)
  one = jax.tree.map(lambda leaf: leaf[0], data)
  return one.grads, one.extra, harness.params(dtype)


def traced(tx, grads, params, extra):
  """Shapes and dtypes of a first state, an update and the next state."""

  def first(params):
    return tx.init(params)

  state = jax.eval_shape(first, params)
  updates, new_state = jax.eval_shape(
    lambda g, s, p, e: tx.update(g, s, p, **e), grads, state, params, extra
  )
  return state, updates, new_state


def signature(tree):
  """Structure, shapes, dtypes and weak types."""
  return jax.tree.structure(tree), [
    (leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)
  ]


@every_method
@pytest.mark.parametrize(
  "dtype, x64",
  [("float32", False), ("bfloat16", False), ("float16", False)]
  + [("float32", True), ("bfloat16", True), ("float64", True)],
)
def test_shapes_and_dtypes(name, dtype, x64):
  with jax.enable_x64(x64):
    grads, extra, params = step_arguments(dtype)
    tx = harness.build(name)
    state, updates, new_state = traced(tx, grads, params, extra)
    assert signature(updates) == signature(jax.eval_shape(lambda: params))
    # A state that changes its type costs a trace each step and breaks scan.
    assert signature(state) == signature(new_state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    assert state.weights.shape == (harness.NUM_TASKS,)
    for leaf in jax.tree.leaves(state):
      if jnp.issubdtype(leaf.dtype, jnp.floating):
        assert leaf.dtype == solver_dtype(), "state is in the solver's dtype"


@every_method
def test_updates_leave_in_the_params_dtype(name):
  grads, extra, params = step_arguments("float32")
  params["head"] = params["head"].astype(jnp.bfloat16)
  _, updates, _ = traced(harness.build(name), grads, params, extra)
  assert updates["head"].dtype == jnp.bfloat16
  assert updates["trunk"]["kernel"].dtype == jnp.float32


@every_method
def test_losses_of_any_kind(name):
  """bfloat16 losses, and losses as a dict or a list, as loss functions do."""
  grads, extra, params = step_arguments()
  tx = harness.build(name)
  reference = signature(traced(tx, grads, params, extra))
  losses = extra["losses"]
  for kind in (
    losses.astype(jnp.bfloat16),
    list(losses),
    {"a": losses[0], "b": losses[1], "c": losses[2]},
  ):
    shapes = traced(tx, grads, params, extra | {"losses": kind})
    assert signature(shapes) == reference


@every_method
def test_state_is_a_named_tuple_with_weights(name):
  state = harness.build(name).init(harness.params())
  assert isinstance(state, tuple) and hasattr(state, "_fields")
  assert "weights" in state._fields
  chain = optax.chain(harness.build(name), optax.sgd(0.1))
  found = optax.tree.get(chain.init(harness.params()), "weights")
  assert found.shape == (harness.NUM_TASKS,)
  assert np.isfinite(np.asarray(found)).all()


@every_method
@pytest.mark.standard_promotion
def test_one_trace_over_steps(name):
  """No retrace from `init` on, and `active=None` is all tasks active."""
  stepper = harness.stepper(name)
  data = harness.to_dtype(harness.data(), "float32")
  expected = harness.run(name, harness.data())
  params = harness.params()
  state = stepper.init(params)
  for i in range(4):
    row = jax.tree.map(lambda leaf, i=i: leaf[i], data)
    params, state = stepper.step(params, state, row)
    weights = optax.tree.get(state, "weights")
    size = np.abs(expected.weights[i]).max()
    # The two programs may round differently.
    harness.assert_close(weights, expected.weights[i], size, 1e-4)
  assert len(stepper.traces) == 1


@every_method
def test_runs_are_finite_and_weights_are_applied(name):
  """`state.weights` is what was applied, in float32, over all steps."""
  run = harness.run(name, harness.data())
  grads = harness.flat(harness.data().grads, 2)
  assert np.isfinite(run.updates).all() and np.isfinite(run.weights).all()
  applied = np.einsum("st,stp->sp", run.weights, grads)
  # A sum of T products in float32, of which each is rounded.
  size = np.einsum("st,stp->sp", np.abs(run.weights), np.abs(grads))
  harness.assert_close(run.updates, applied, size, 1e-6)


@every_method
def test_vmap_over_seeds_in_bfloat16(name):
  """A vmapped run is a loop over runs, and bfloat16 rounds only the gradients.

  Nothing between the gradients and the update is in bfloat16: the runs that it
  is compared with are float32 runs on the same rounded gradients.
  """
  tx, start = harness.build(name), harness.params(jnp.bfloat16)

  def run(data):
    def step(state, row):
      updates, state = tx.update(row.grads, state, start, **row.extra)
      return state, (updates, state.weights)

    return jax.lax.scan(step, tx.init(start), data)[1]

  seeds = (1, 2)
  datas = [harness.to_dtype(harness.data(seed), jnp.bfloat16) for seed in seeds]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *datas)
  updates, weights = jax.jit(jax.vmap(run))(stacked)
  for i, data in enumerate(datas):
    rounded = jax.tree.map(lambda g: np.asarray(g, np.float32), data)
    alone = harness.run(name, rounded._replace(active=np.asarray(data.active)))
    size = np.abs(alone.weights).max()
    harness.assert_close(weights[i], alone.weights, size, 1e-4, "weights")
    # The update is rounded once, to 8 bits; 1e-4 is what the weights differ by.
    bound = 2**-8 * np.abs(alone.updates) + 1e-4 * size * 4
    harness.assert_close(harness.flat(updates, 2)[i], alone.updates, bound, 1)


@every_method
def test_one_task(name):
  """T=1: finite, and along the gradient."""
  data = harness.tasks_of(harness.data(), (0,))
  run = harness.run(name, data, tasks=(0,))
  grads = harness.flat(data.grads, 2)[:, 0]
  assert np.isfinite(run.weights).all() and (run.weights >= 0).all()
  expected = run.weights * grads
  harness.assert_close(run.updates, expected, np.abs(expected), 1e-6)


@every_method
def test_zero_gradients(name):
  """One task without gradient, and all: finite, and zero for all."""
  data = harness.data()
  one = jax.tree.map(np.copy, data.grads)
  for leaf in jax.tree.leaves(one):
    leaf[:, 1] = 0.0
  run = harness.run(name, data._replace(grads=one))
  assert np.isfinite(run.updates).all() and np.isfinite(run.weights).all()
  none = jax.tree.map(np.zeros_like, data.grads)
  run = harness.run(name, data._replace(grads=none))
  assert (run.updates == 0).all() and np.isfinite(run.weights).all()


@every_method
def test_scale_equivariance_exactly(name):
  """Powers of two scale without rounding: only an absolute constant shows.

  The scales are about 1e-15, 1e-6, 1e6 and 1e15; the Gram matrix is then
  between 1e-30 and 1e31, inside the range of float32.
  """
  if "scale_equivariant" not in harness.claims(name):
    pytest.skip("not claimed")
  data = harness.data()
  base = harness.run(name, data)
  for exponent in (-50, -20, 20, 50):
    grads = jax.tree.map(lambda g, e=exponent: g * 2.0**e, data.grads)
    run = harness.run(name, data._replace(grads=grads))
    harness.assert_close(
      run.updates / 2.0**exponent,
      base.updates,
      np.abs(base.updates).max(),
      1e-6,
      f"scale 2**{exponent}",
    )


@every_method
def test_permuting_the_tasks_permutes_the_weights(name):
  """With what the user gives per task permuted along (the row's example)."""
  if harness.is_random(name):
    pytest.skip("the order of the draws is not permuted")
  data, order = harness.data(), (2, 0, 1)
  base = harness.run(name, data)
  if "permutation_equivariant" in harness.claims(name):
    run = harness.run(name, harness.tasks_of(data, order))
  else:
    run = harness.run(name, harness.tasks_of(data, order), tasks=order)
  # Rounding of a Gram matrix that is well conditioned.
  harness.assert_close(run.updates, base.updates, 4.0, 1e-4)
  harness.assert_close(
    run.weights, base.weights[:, list(order)], np.abs(base.weights).max(), 1e-4
  )


@every_method
def test_params_are_optional(name):
  grads, extra, params = step_arguments()
  tx = harness.build(name)
  _, with_params, state = traced(tx, grads, params, extra)
  _, without, other = traced(tx, grads, None, extra)
  assert signature(with_params) == signature(without)
  assert signature(state) == signature(other)


@every_method
def test_unknown_extra_args_pass(name):
  grads, extra, params = step_arguments()
  extra = extra | {"value": jnp.zeros(()), "nobody_knows_this": jnp.ones((7,))}
  traced(harness.build(name), grads, params, extra)


@every_method
def test_an_empty_tree_of_params(name):
  """Nothing to train: no error, no retrace, an empty update."""
  _, extra, _ = step_arguments()
  state, updates, new_state = traced(harness.build(name), {}, {}, extra)
  assert updates == {}
  assert signature(state) == signature(new_state)
