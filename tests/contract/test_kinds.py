"""What no rule can see, once for each kind of rule.

Whatever the dtype of the gradients, the `vmap` around a run, the mask that is
not given: the core does it before or after the rule.
"""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

every_kind = pytest.mark.parametrize("name", harness.every_kind)


def test_every_kind_of_rule_is_there():
  """A room that no kind comes from would go untested here."""
  rooms = {harness.info(name).room for name in harness.NAMES}
  # The update rule among the kinds is the test's own, and lives in no room.
  known = {harness.info(name).room for name in harness.every_kind}
  assert rooms <= known | {"gradients"}
  facts = [optax_mtl.facts(harness.build(n)) for n in harness.every_kind]
  for field in ("gram", "stacked", "weights"):
    assert {getattr(f, field) for f in facts} == {True, False}


@pytest.mark.parametrize("name", harness.weighing_kinds)
@pytest.mark.parametrize("seed", [1, 2])
def test_bfloat16_rounds_only_the_gradients(name, seed):
  """Nothing between them and the update of a method with weights is in it.

  The run is compared with the reference, in float64, on the same rounded
  gradients.
  """
  run = harness.run(name, harness.data(seed), dtype="bfloat16")
  data = harness.to_dtype(harness.data(seed), jnp.bfloat16)
  rows, second = harness.flat(data.grads, 2), harness.flat(data.second, 2)
  extra = {k: np.asarray(v, np.float64) for k, v in data.extra.items()}
  expected = harness.REFERENCES[name](
    harness.NUM_TASKS,
    rows,
    extra | {"second_grads": second},
    **harness.info(name).example(harness.TASKS),
  )
  expected = harness.limited(name, expected, rows)
  scale = np.maximum(np.abs(expected).sum(axis=1, keepdims=True), 1)
  weights = harness.limited(name, run.weights, rows)
  # As far off as float32 runs are from the reference.
  harness.assert_close(weights, expected, scale, 2e-4)
  updates = np.einsum("st,stp->sp", expected, rows)
  size = scale * np.linalg.norm(rows, axis=2).max(axis=1)[:, None]
  # The update is rounded to 8 bits, and once more where its norm is limited.
  limited = getattr(harness.build(name).rule, "max_norm", None) is not None
  bound = (1 + limited) * 2**-8 * np.abs(updates) + 2e-5 * size
  harness.assert_close(run.updates, updates, bound, 1)


@pytest.mark.parametrize(
  "name", [n for n in harness.every_kind if n not in harness.weighing_kinds]
)
def test_vmap_over_seeds_in_bfloat16(name):
  """A vmapped run is a loop over runs.

  Of methods that work on the gradients themselves, in their dtype; runs with
  weights are vmapped in `harness.case_runs`, beside the reference.
  """
  seeds = (1, 2)
  tx, start = harness.build(name), harness.params(jnp.bfloat16)
  datas = [harness.to_dtype(harness.data(s), jnp.bfloat16) for s in seeds]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *datas)
  run = jax.jit(jax.vmap(lambda data: harness.steps(tx, start, data)))
  updates, states = jax.device_get(run(stacked))
  for i, seed in enumerate(seeds):
    alone = harness.run(name, harness.data(seed), dtype="bfloat16")
    chex.assert_trees_all_equal(
      jax.tree.map(lambda leaf, i=i: leaf[i], states), alone.states
    )
    # Rounded to 8 bits, from sums of entries below 4 in another order.
    bound = 2**-8 * np.abs(alone.updates) + 4e-4
    harness.assert_close(harness.flat(updates, 2)[i], alone.updates, bound, 1)


@every_kind
@pytest.mark.standard_promotion
def test_one_trace_over_steps(name):
  """No retrace from `init` on, at which the step would raise.

  And `active=None` is all tasks active.
  """
  stepper = harness.stepper(name)
  data = harness.to_dtype(harness.data(), "float32")
  expected = harness.case_runs(name)["base"]
  params = harness.params()
  state = stepper.init(params)
  for i in range(4):
    params, state = stepper.step(params, state, harness.row_of(data, i))
    if expected.weights is None:
      continue
    weights = optax.tree.get(state, "weights")
    size = np.abs(expected.weights[i]).max()
    # The two programs may round differently.
    harness.assert_close(weights, expected.weights[i], size, 1e-4)


# Without a solver: those are compiled at any rate.
@pytest.mark.parametrize("name", ["dwa", "gradnorm", "pcgrad", "largest_entry"])
def test_one_step_operation_by_operation(name):
  """What is compiled elsewhere here, outside of `jit`."""
  data = harness.to_dtype(harness.cases()["base"], "float32")
  row, tx = harness.row_of(data, 0), harness.build(name)
  state = tx.init(harness.params())
  updates, _ = tx.update(
    row.grads, state, active=row.active, **harness.extra_of(row)
  )
  expected = harness.case_runs(name)["base"].updates[0]
  harness.assert_close(harness.flat(updates, 0), expected, 8.0, 1e-6)


@every_kind
def test_updates_leave_in_the_params_dtype(name):
  """Leaf by leaf; a method in half precision may have params in float32."""
  row = harness.row_of(
    harness.to_dtype(harness.data(num_steps=1), "float32"), 0
  )
  params = harness.params()
  params["head"] = params["head"].astype(jnp.bfloat16)
  _, updates, _ = harness.traced(harness.build(name), row, params)
  assert updates["head"].dtype == jnp.bfloat16
  assert updates["trunk"]["kernel"].dtype == jnp.float32


def masked_step(name):
  """Function from a row and a mask to what a first step returns."""
  tx = harness.build(name)
  state = tx.init(harness.params())
  return lambda row, active: tx.update(
    row.grads, state, active=active, **harness.extra_of(row)
  )


@every_kind
def test_a_list_of_bools_is_a_mask(name):
  """The same types as with an array; the values are compared below."""
  step = masked_step(name)
  row = harness.row_of(harness.to_dtype(harness.data(), "float32"), 0)
  of_list, of_array = (
    harness.signature(jax.eval_shape(lambda row, m=m: step(row, m), row))
    for m in ([True, False, True], jnp.array([True, False, True]))
  )
  assert of_list == of_array


# With a memory, with a solver, and two without weights.
@pytest.mark.parametrize("name", ["gradnorm", "nash_mtl", "graddrop", "bloop"])
def test_a_mask_that_is_known_is_the_mask(name):
  """It gives what an array in a compiled step gives."""
  step, case = masked_step(name), harness.cases()["without_1"]
  row = harness.row_of(harness.to_dtype(case, "float32"), 0)
  known = jax.jit(lambda row: step(row, [True, False, True]))(row)
  run = harness.case_runs(name)["without_1"]
  traced = jax.tree.map(lambda leaf: leaf[0], (run.raw, run.states))
  # Two programs.
  chex.assert_trees_all_close(known, traced, rtol=1e-4, atol=1e-5)
