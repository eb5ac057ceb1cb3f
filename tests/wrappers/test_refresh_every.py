"""Weights that are computed now and then; what is observed goes on."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl

T = harness.NUM_TASKS


def test_weights_and_state_are_kept():
  run = harness.runner(optax_mtl.refresh_every(harness.build("mgda"), 3))
  data = harness.data()
  got, plain = run(data), harness.case_runs("mgda")["base"]
  refreshes = np.arange(harness.NUM_STEPS) // 3 * 3
  weights = plain.weights[refreshes]
  # Two programs.
  harness.assert_close(got.weights, weights, 1.0, 1e-4)
  grads = harness.flat(data.grads, 2)
  expected = np.einsum("st,stp->sp", got.weights, grads)
  harness.assert_close(got.updates, expected, 4.0, 1e-6)
  np.testing.assert_array_equal(
    got.states.memory.refresh_step, (np.arange(harness.NUM_STEPS) + 1) % 3
  )
  np.testing.assert_array_equal(
    got.states.memory.kept_weights, got.states.weights
  )

  # Absent now: weight 0 now; absent at the refresh: until the next.
  active = np.ones((harness.NUM_STEPS, T), bool)
  active[1, 0] = active[3, 2] = False
  masked = run(data._replace(active=active)).weights
  assert masked[1, 0] == 0
  np.testing.assert_array_equal(masked[1, 1:], masked[0, 1:])
  np.testing.assert_array_equal(masked[2], masked[0])
  assert (masked[3:6, 2] == 0).all() and (masked[3:6, :2] > 0).any()


def weights_of(tx, steps, **extra):
  """The weights of a few updates whose gradients' lengths are the step's."""
  state, found = tx.init(jnp.zeros(2)), []
  for step in range(steps):
    grads = jnp.diag(jnp.array([1.0, 1.0 + step]))
    _, state = tx.update(grads, state, **extra)
    found.append(np.asarray(state.weights))
  return np.stack(found)


def lengths(num_tasks):
  """Weighs each task by its gradient's length."""
  del num_tasks
  return optax_mtl.from_step(lambda step: step.norms())


def test_the_first_refresh_and_a_schedule():
  """Weights of before, and then those of the update that is due."""
  method = harness.registered(lengths)(2)
  one, two, four = [1.0, 1.0], [1.0, 2.0], [1.0, 4.0]
  late = optax_mtl.refresh_every(method, 3, first=1)
  # The first update's weights are ones; then those of the updates 1 and 4.
  want = [one, two, two, two, [1.0, 5.0]]
  np.testing.assert_allclose(weights_of(late, 5), want, rtol=1e-6)
  own = optax_mtl.refresh_every(method, 3, first=2, initial_weights=[3.0, 0.5])
  want = [[3.0, 0.5]] * 2 + [[1.0, 3.0]] * 3
  np.testing.assert_allclose(weights_of(own, 5), want, rtol=1e-6)
  named = optax_mtl.refresh_every(
    method, 9, first=1, initial_weights={"b": 2.0, "a": 7.0}
  )
  losses = dict.fromkeys("ab", jnp.ones(()))
  found = weights_of(named, 2, losses=losses)
  np.testing.assert_allclose(found, [[7.0, 2.0], two], rtol=1e-6)
  # Twice as far apart each time, as a schedule.
  doubling = optax_mtl.refresh_every(
    method, lambda step: (step > 0) & (step & (step - 1) == 0)
  )
  want = [one, two, [1.0, 3.0], [1.0, 3.0], [1.0, 5.0]]
  np.testing.assert_allclose(weights_of(doubling, 5), want, rtol=1e-6)
  both = optax_mtl.refresh_every(method, lambda step: step >= 0, first=3)
  want = [one, one, one, four, [1.0, 5.0]]
  np.testing.assert_allclose(weights_of(both, 5), want, rtol=1e-6)


def test_what_is_no_schedule():
  method = harness.registered(lengths)(2)
  tx = optax_mtl.refresh_every(method, lambda step: step % 3)
  with pytest.raises(TypeError, match=r"a scalar bool; it returned int32\[\]"):
    weights_of(tx, 1)
  with pytest.raises(ValueError, match=r"first must lie in \[0, inf\]"):
    optax_mtl.refresh_every(method, 3, first=-1)
  with pytest.raises(ValueError, match="initial_weights must hold one value"):
    optax_mtl.refresh_every(method, 3, initial_weights=[1.0])


#: Method -> what it goes on with in every step: the epochs of `dwa`, the
#: averages of `dtp`, the phase of `pareto_mtl`, the first losses of `gradnorm`.
OBSERVED = {
  "dwa": (
    "epoch_loss_sum",
    "epoch_loss_count",
    "last_epoch_loss",
    "previous_epoch_loss",
    "epochs_seen",
    "epoch_step",
  ),
  "dtp": ("kpi_average", "kpi_seen"),
  "pareto_mtl": ("violation", "optimizing", "phase_step"),
  "gradnorm": ("initial_losses", "initial_losses_set"),
  "relobralo": ("balance", "recent_losses", "lookback_key"),
  "softadapt": ("loss_points", "points_seen"),
  "famo": ("task_logits", "last_losses", "loss_step"),
  "igb": ("early_loss_sum", "early_losses_seen"),
  "go4align": ("log_risks",),
  "stch": ("lowest_losses", "lowest_losses_set"),
}


@pytest.mark.parametrize("name", OBSERVED)
def test_what_is_observed_goes_on(name):
  """In each step as in the run without `refresh_every`, absences included.

  A task that is absent at a refresh weighs nothing until the next, also where
  the rule has a weight for it.
  """
  plain = harness.case_runs(name)["absent"]
  tx = optax_mtl.refresh_every(harness.build(name), 4)
  got = harness.runner(tx)(harness.cases()["absent"])
  for field in OBSERVED[name]:
    # Sums of a few losses, in two programs.
    chex.assert_trees_all_close(
      getattr(got.states.memory.inner, field),
      getattr(plain.states.memory, field),
      rtol=1e-5,
      atol=1e-5,
    )
  active = harness.cases()["absent"].active
  refreshes = np.arange(harness.NUM_STEPS) // 4 * 4
  assert (got.weights[~active[refreshes]] == 0).all()
  if name in ("dwa", "dtp", "relobralo", "softadapt", "famo", "igb"):
    # These weigh by what they observed alone: right at each refresh.
    harness.assert_close(got.weights[::4], plain.weights[::4], 3.0, 1e-5)


@pytest.mark.parametrize("name", ["nash_mtl", "fairgrad"])
def test_a_limit_on_the_norm_holds_in_every_step(name):
  """Between refreshes too, where the gradients grow a hundredfold.

  The state holds the weights as they are before: what is kept is not limited.
  """
  data = harness.data()
  scales = 10.0 ** np.random.default_rng(3).uniform(-2, 2, harness.NUM_STEPS)

  def scale(leaf):
    return leaf * scales.reshape((-1,) + (1,) * (leaf.ndim - 1))

  # FairGrad's solution has the norm √T without a preference.
  extra = {k: v for k, v in data.extra.items() if k != "preference"}
  data = data._replace(grads=jax.tree.map(scale, data.grads), extra=extra)
  run = harness.runner(optax_mtl.refresh_every(harness.build(name), 5))(data)
  norms = np.linalg.norm(run.updates, axis=1)
  # A norm in float32, and a quotient by it.
  assert (norms <= 1 + 1e-6).all()
  grads = harness.flat(data.grads, 2)
  free = np.einsum("st,stp->sp", run.weights, grads)
  free_norms = np.linalg.norm(free, axis=1)
  assert free_norms.max() > 10 and free_norms.min() < 0.1, "no test of a limit"
  harness.assert_close(norms, np.minimum(free_norms, 1), 1.0, 1e-5)
  # The solution's norm is √T, whatever the gradients.
  harness.assert_close(free_norms[::5], np.sqrt(T), np.sqrt(T), 1e-4)


def test_a_limit_is_on_the_trunk_alone():
  """With the heads out of it, and not scaled."""
  tx = optax_mtl.on_trunk(
    optax_mtl.refresh_every(harness.build("nash_mtl"), 5), harness.SHARED
  )
  data = jax.tree.map(lambda leaf: leaf[:6], harness.data())
  run = harness.runner(tx)(data)
  trunk = harness.flat(run.raw["trunk"], 1)
  assert (np.linalg.norm(trunk, axis=1) <= 1 + 1e-6).all()
  heads = harness.flat(data.grads["head"], 2).sum(axis=1)
  harness.assert_close(harness.flat(run.raw["head"], 1), heads, 8.0, 1e-6)


def test_the_gram_matrix_lies_in_a_branch_with_the_implicit_source():
  """Its backward passes do not run in between."""
  kernel = jnp.eye(4)

  def loss_fn(p):
    return jnp.stack([jnp.sum((kernel @ p["x"]) ** (t + 1)) for t in range(T)])

  params = {"x": jnp.ones(4)}
  tx = optax_mtl.refresh_every(optax_mtl.mgda(T), 10)

  def step(params, state):
    _, grads = optax_mtl.value_and_task_grads(loss_fn, source="implicit")(
      params
    )
    return tx.update(grads, state, params)

  jaxpr = jax.make_jaxpr(step)(params, tx.init(params)).jaxpr
  names = [eqn.primitive.name for eqn in jaxpr.eqns]
  assert names.count("cond") == 1
  # lax.map over tasks is a scan, and none stands outside the branch.
  assert "scan" not in names and "while" not in names
