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


def sum_of(run):
  """The size of what each update is summed from, at most."""
  if run.weights is None:
    return 4.0  # GradDrop keeps or drops entries, which are below 4.
  return 4 * np.abs(run.weights).max()


@every_kind
def test_vmap_over_seeds_in_bfloat16(name):
  """A vmapped run is a loop over runs, and bfloat16 rounds only the gradients.

  Nothing between the gradients and the update of a method with weights is in
  bfloat16: the runs that it is compared with are float32 runs on the same
  rounded gradients. A method that makes its update from the gradients
  themselves works in their dtype, so it is compared in that.
  """
  weighs = name in harness.weighing_kinds
  tx, start = harness.build(name), harness.params(jnp.bfloat16)
  datas = [
    harness.to_dtype(harness.data(seed), jnp.bfloat16) for seed in (1, 2)
  ]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *datas)
  run = jax.jit(jax.vmap(lambda data: harness.steps(tx, start, data)))
  updates, states = run(stacked)
  for i, data in enumerate(datas):
    if weighs:
      rounded = jax.tree.map(lambda g: np.asarray(g, np.float32), data)
      rounded = rounded._replace(active=np.asarray(data.active))
      alone = harness.run(name, rounded)
      size = np.abs(alone.weights).max()
      harness.assert_close(states.weights[i], alone.weights, size, 1e-4)
    else:
      alone = harness.run(name, harness.data(i + 1), dtype="bfloat16")
      chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf, i=i: leaf[i], states), alone.states
      )
    # The update is rounded to 8 bits, and once more where its norm is limited;
    # 1e-4 is what the weights differ by.
    roundings = 1 if getattr(tx.rule, "max_norm", None) is None else 2
    bound = roundings * 2**-8 * np.abs(alone.updates) + 1e-4 * sum_of(alone)
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


class StepTest(chex.TestCase):
  """One step compiled, and operation by operation."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_one_step(self):
    data = harness.to_dtype(harness.cases()["base"], "float32")
    row = harness.row_of(data, 0)
    # Without a solver: those are compiled at any rate.
    for name in ("dwa", "gradnorm", "pcgrad", "graddrop"):
      tx = harness.build(name)

      @self.variant
      def step(row, tx=tx):
        state = tx.init(harness.params())
        return tx.update(
          row.grads, state, active=row.active, **harness.extra_of(row)
        )

      updates, _ = step(row)
      expected = harness.case_runs(name)["base"].updates[0]
      harness.assert_close(harness.flat(updates, 0), expected, 8.0, 1e-6, name)


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


@every_kind
def test_a_mask_that_is_known_is_the_mask(name):
  """A list of bools gives what an array in a compiled step gives."""
  tx, data = harness.build(name), harness.to_dtype(harness.data(), "float32")
  row = harness.row_of(data, 0)
  state = tx.init(harness.params())

  def step(row, active):
    return tx.update(row.grads, state, active=active, **harness.extra_of(row))

  known = jax.jit(lambda row: step(row, [True, False, True]))(row)
  traced = jax.jit(step)(row, jnp.array([True, False, True]))
  # Two programs.
  chex.assert_trees_all_close(known, traced, rtol=1e-4, atol=1e-5)
