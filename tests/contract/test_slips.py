"""What users got wrong, and trained on with: an error, or what is documented.

Values that come with an update are known without `jit`, and are errors there;
under `jit` they are not, and the update stays finite.
"""

import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract.slips import GROUPS, said
from flax.training import train_state
from harness import methods
from optax import contrib

import optax_mtl
from optax_mtl.integrations.flax import TrainState

# optax mixes dtypes.
pytestmark = pytest.mark.standard_promotion
PARAMS, GRADS = jnp.zeros(2), jnp.eye(2)
ROWS = [[1.0, 0.0], [0.0, 1.0]]


def losses_of(params):
  return {"a": jnp.sum(params), "b": jnp.sum(params**2)}


def weights_of(tx, steps):
  """The weights after some steps, each with its extra args."""
  state = tx.init(PARAMS)
  for extra in steps:
    _, state = tx.update(GRADS, state, PARAMS, **extra)
  return state.weights


def losses(*rows):
  return [{"losses": jnp.array(row)} for row in rows]


def wanted(*rows):
  return [
    {"losses": jnp.array([1.0, 2.0]), "preference": jnp.array(row)}
    for row in rows
  ]


PAGE = pathlib.Path(__file__).parents[2] / "docs" / "mistakes.md"


@pytest.mark.as_users
@pytest.mark.parametrize(
  "slip",
  [
    pytest.param(slip, id=slip.title)
    for rows in GROUPS.values()
    for slip in rows
  ],
)
def test_what_is_said(slip):
  """An error, a warning, or what is documented; the page has the words."""
  words = said(slip)
  if slip.error is None:
    assert words is None
    words = slip.why
  else:
    assert words is not None and re.search(slip.match, words), words
  page = " ".join(PAGE.read_text(encoding="utf-8").split())
  assert " ".join(words.split()) in page, (
    "docs/mistakes.md is stale: run `make generate`."
  )


#: What -> the method, its steps, the error, and the steps that it is like under
#: `jit`; None: those that have no such value, with all weights 1.
VALUES = {
  "KPIs in percent": (
    lambda: optax_mtl.dtp(2),
    [{"kpis": jnp.array([85.0, 20.0])}],
    r"kpis= must lie in \[0, 1\].*got \[85.0, 20.0\]. Divide percentages",
    None,
  ),
  "negative losses in dwa": (
    lambda: optax_mtl.dwa(2, steps_per_epoch=1),
    losses([-1.0, -1.0], [-2.0, -3.0], [-2.0, -3.0]),
    "losses= must not be negative, since dwa",
    None,
  ),
  "negative losses in relobralo": (
    lambda: optax_mtl.relobralo(2),
    losses([-1.0, -1.0], [-2.0, -3.0], [-2.0, -3.0]),
    "losses= must not be negative, since relobralo",
    None,
  ),
  "negative losses in pareto_mtl": (
    lambda: optax_mtl.pareto_mtl(2, ROWS),
    [{"losses": jnp.array([-1.0, 2.0]), "preference": jnp.ones(2)}],
    "losses= must not be negative, for",
    [{"losses": jnp.array([0.0, 2.0]), "preference": jnp.ones(2)}],
  ),
  "a preference of nothing": (
    lambda: optax_mtl.pareto_mtl(2, ROWS),
    wanted([0.0, 0.0]),
    "preference= must hold finite numbers .* not all zero",
    wanted([1.0, 1.0]),
  ),
  "a negative preference": (
    lambda: optax_mtl.pareto_mtl(2, ROWS),
    wanted([-1.0, 1.0]),
    r"preference= .* not negative.* got \[-1.0, 1.0\]",
    wanted([0.0, 1.0]),
  ),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_that_no_method_can_use(what):
  build, steps, message, alike = VALUES[what]
  with pytest.raises(ValueError, match=message):
    weights_of(build(), steps)
  got = jax.jit(lambda steps: weights_of(build(), steps))(steps)
  want = np.ones(2)
  if alike is not None:
    want = weights_of(build(), alike)
  # Two programs for the same numbers.
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_values_that_are_fine():
  """Rounded above 1, a KPI that is missing, and a NaN, which has to show."""
  kpis = jnp.array([1.0 + 2.0**-7, jnp.nan])
  assert weights_of(optax_mtl.dtp(2), [{"kpis": kpis}])[1] == 1
  pareto = optax_mtl.pareto_mtl(2, ROWS)
  weights_of(pareto, wanted([0.0, 1.0]))
  with pytest.raises(ValueError, match="preference= must hold finite numbers"):
    weights_of(pareto, wanted([jnp.nan, 1.0]))
  active = jnp.array([True, False])
  # The tasks that are wanted are absent: nothing is wrong with that.
  weights_of(pareto, [wanted([0.0, 1.0])[0] | {"active": active}])


PREFERRING = ["aligned_mtl", "dual_proj", "upgrad"]


@pytest.mark.parametrize("name", PREFERRING)
def test_preferences_of_methods(name):
  build = optax_mtl.METHODS[name]
  for value in ([0.0, 0.0], [-1.0, 1.0], {"a": -1.0, "b": 1.0}):
    with pytest.raises(ValueError, match="preference must hold .* negative"):
      build(2, preference=value)
  traced = jax.jit(lambda value: weights_of(build(2, preference=value), [{}]))
  for value, alike in (([0.0, 0.0], [1.0, 1.0]), ([-1.0, 1.0], [0.0, 1.0])):
    got = traced(jnp.array(value))
    want = weights_of(build(2, preference=alike), [{}])
    ratio = 0.5 if value == [0.0, 0.0] else 1.0  # 1/T each, where there is none
    np.testing.assert_allclose(got, ratio * want, rtol=1e-5, atol=1e-6)


def test_preferences_elsewhere():
  for rows in ([[0.0, 0.0], [1.0, 0.0]], [[-1.0, 1.0], [1.0, 0.0]]):
    with pytest.raises(ValueError, match="directions must hold finite numbers"):
      optax_mtl.pareto_mtl(2, rows)
  with pytest.raises(ValueError, match="preference must hold finite numbers"):
    optax_mtl.pareto.invert_preference(jnp.zeros(2))


# Names.
def test_a_misspelt_argument():
  """A warning while tracing, for it may be meant for another transformation."""
  tx = optax.chain(optax_mtl.mgda(2), optax.sgd(1.0))
  state = tx.init(PARAMS)
  mask = jnp.array([True, False])
  with pytest.warns(UserWarning, match="mgda takes active=, .* has actve= in"):
    jax.eval_shape(lambda m: tx.update(GRADS, state, PARAMS, actve=m), mask)
  # Unlike names, and like ones of arguments that are there, are others'.
  tx.update(GRADS, state, PARAMS, value=1.0, activation=1)
  tx.update(GRADS, state, PARAMS, actve=mask, active=mask)
  famo = optax_mtl.famo(2)
  with pytest.warns(
    UserWarning, match="famo takes previous_losses=, .* has pr"
  ):
    famo.update(
      GRADS,
      famo.init(PARAMS),
      losses=jnp.ones(2),
      previous_loss=jnp.ones(2),
    )
  with pytest.raises(TypeError, match="needs losses=.* This one has loss=: is"):
    famo.update(GRADS, famo.init(PARAMS), loss=jnp.ones(2))


# Losses and params.
COUNTS = {
  "a count": lambda p: {"ce": jnp.sum(p), "right": jnp.sum(p > 0)},
  "a bool": lambda p: {"ce": jnp.sum(p), "right": jnp.all(p > 0)},
  "an int": lambda p: {"ce": jnp.sum(p), "right": 3},
}


@pytest.mark.parametrize("source", ["stacked", "implicit"])
@pytest.mark.parametrize("what", COUNTS)
def test_a_count_among_the_losses(what, source):
  """Its gradient is zero, and there methods stand still."""
  grads = optax_mtl.value_and_task_grads(COUNTS[what], source=source)
  with pytest.raises(TypeError, match=r"losses\['right'\] .*has no gradient.*"):
    jax.eval_shape(lambda p: grads(p)[0], PARAMS)
  with pytest.raises(TypeError, match=r"losses\[1\] must be real floating"):
    optax_mtl.value_and_task_grads(lambda p: [jnp.sum(p), jnp.sum(p > 0)])(
      PARAMS
    )


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_a_python_float_among_the_params(source):
  params = {"x": jnp.ones(2), "scale": 2.0}
  loss = lambda p: [jnp.sum(p["x"]) * p["scale"], p["scale"] ** 2]  # noqa: E731
  _, grads = optax_mtl.value_and_task_grads(loss, source=source)(params)
  tx = optax.chain(optax_mtl.equal_weighting(2), optax.sgd(1.0))
  updates, _ = tx.update(grads, tx.init(params), params)
  assert float(updates["scale"]) == -6
  assert updates["x"].tolist() == [-2, -2]


def test_an_equinox_module():
  """As params it has to be split; a mask it is, though it can be called."""
  model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
  x = jnp.ones(2)
  with pytest.raises(TypeError, match=r"leaf .activation .*eqx.partition"):
    optax_mtl.value_and_task_grads(lambda m: [m(x)[0], m(x)[0] ** 2])(model)
  with pytest.raises(TypeError, match=r"leaf .activation of the params is a "):
    optax_mtl.accumulate(optax_mtl.mgda(2), 2, 2).init(model)
  params, rest = eqx.partition(model, eqx.is_inexact_array)

  def loss(params):
    out = eqx.combine(params, rest)(x)[0]
    return [out, out**2]

  mask = jax.tree.map(lambda _: False, params)
  mask = eqx.tree_at(lambda m: m.layers[0].weight, mask, True)
  assert callable(mask)
  _, grads = optax_mtl.value_and_task_grads(loss, shared=mask)(params)
  assert grads.shared.layers[0].weight
  assert not grads.shared.layers[1].weight


# Gradients.
def test_gradients_of_jacrev():
  params = {"x": jnp.ones(2)}
  tx = optax_mtl.mgda(2)
  for fun in (
    lambda p: losses_of(p["x"]),
    lambda p: list(losses_of(p["x"]).values()),
  ):
    grads = jax.jacrev(fun)(params)
    with pytest.raises(ValueError, match="are 2 trees like the params.*jacrev"):
      tx.update(grads, tx.init(params), params)
  stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *grads)  # as it says
  tx.update(stacked, tx.init(params), params)


def implicit():
  return optax_mtl.value_and_task_grads(losses_of, source="implicit")(PARAMS)[1]


@pytest.mark.parametrize(
  "use",
  [
    optax.tree.norm,
    lambda g: optax.clip_by_global_norm(1.0).update(g, optax.EmptyState()),
    lambda g: jax.tree.map(lambda leaf: leaf * 2, g),
    lambda g: g["head"],
    list,
    abs,
  ],
)
def test_gradients_that_no_one_stored(use):
  with pytest.raises(
    TypeError, match="ImplicitTaskGradients stands for 2 grad"
  ):
    use(implicit())


def test_train_states_of_flax():
  tx = optax.chain(optax_mtl.mgda(2), optax.sgd(1.0))
  theirs = train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
  with pytest.raises(
    TypeError, match="integrations.flax.TrainState takes them"
  ):
    theirs.apply_gradients(grads=implicit())
  ours = TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
  assert ours.apply_gradients(grads=implicit()).params.tolist() == [0, 0]
  without = TrainState.create(apply_fn=None, params=PARAMS, tx=optax.sgd(1.0))
  with pytest.raises(ValueError, match=r"the only leaf has shape \[2, 2\]"):
    without.apply_gradients(grads=GRADS)


# What goes around, and what comes after: the page "Composition".
def run(tx, steps, params=PARAMS, grads=GRADS):
  state, updates = tx.init(params), []
  for _ in range(steps):
    new, state = tx.update(grads, state, params)
    updates.append(new)
  return updates


def test_accumulate_belongs_around_the_optimizer():
  """Else Adam steps on the zeros in between, and its moments fade."""
  method = optax_mtl.equal_weighting(2)
  inside = run(
    optax_mtl.accumulate(optax.chain(method, optax.adam(1.0)), 2, 2), 4
  )
  plain = run(optax.chain(method, optax.adam(1.0)), 2)
  np.testing.assert_allclose(inside[1::2], plain, rtol=1e-6)
  assert not np.any(inside[::2])
  outside = run(
    optax.chain(optax_mtl.accumulate(method, 2, 2), optax.adam(1.0)), 4
  )
  assert np.any(outside[2])


def test_a_schedule_of_batches():
  """As `optax.MultiSteps` takes it: by the number of updates so far."""
  method = optax_mtl.equal_weighting(2)
  tx = optax_mtl.accumulate(
    method, 2, lambda update: jnp.minimum(update + 1, 2)
  )
  theirs = optax.MultiSteps(
    optax.identity(), lambda update: jnp.minimum(update + 1, 2)
  )
  total = jnp.sum(GRADS, axis=0)
  np.testing.assert_array_equal(run(tx, 5), run(theirs, 5, grads=total))
  bad = optax_mtl.accumulate(method, 2, lambda update: 1.5)
  with pytest.raises(TypeError, match="a scalar int; it returned float32"):
    run(bad, 1)


def test_frozen_leaves():
  params = {"on": jnp.ones(2), "off": jnp.ones(3)}
  grads = {"on": GRADS, "off": jnp.ones((2, 3))}
  frozen = optax.masked(optax.set_to_zero(), {"on": False, "off": True})
  tx = optax.chain(optax_mtl.equal_weighting(2), optax.sgd(1.0), frozen)
  [updates] = run(tx, 1, params, grads)
  assert updates["on"].tolist() == [-1, -1]
  assert updates["off"].tolist() == [0, 0, 0]


def test_sharpness_aware_minimization():
  """Both optimizers of `sam` see task gradients: both begin with a method."""
  both = contrib.sam(
    optax.chain(optax_mtl.mgda(2), optax.sgd(1.0)),
    optax.chain(optax_mtl.equal_weighting(2), optax.sgd(0.1)),
  )
  assert [update.shape for update in run(both, 2)] == [(2,), (2,)]


# A search for the first NaN.
@pytest.mark.parametrize("name", methods.NAMES)
def test_debug_nans_finds_none_in_the_methods(name):
  """`jax_debug_nans`, which without `jit` looks at every operation.

  At the first update, when there is nothing to compare with, and where all
  tasks have arrived: what is divided is safe before it is chosen from.
  """
  needed = {
    "losses": jnp.array([1.0, 2.0, 3.0]),
    "kpis": jnp.array([0.5, 0.4, 0.3]),
    "traces": jnp.array([1.0, 2.0, 3.0]),
    "preference": jnp.array([0.2, 0.3, 0.5]),
  }
  tx = methods.build(name)
  good = jnp.array([[1.0, 2.0, -1.0, 0.5], [0.5, -1.0, 3.0, 1.0], [2.0] * 4])
  needed["second_grads"] = good[::-1]
  extra = {k: needed[k] for k in optax_mtl.facts(tx).needs}
  state = tx.init(good[0])
  for grads in (good, jnp.zeros_like(good)):
    # Anew for each: once `eigh` has run, JAX looks no more until it is set.
    with jax.debug_nans(True):
      updates, state = tx.update(grads, state, good[0], **extra)
    assert jnp.all(jnp.isfinite(updates))
