"""Losses pulled back by themselves: what they cost, and what cannot spread."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import normal

import optax_mtl
from optax_mtl.sources import as_task_gradients, backward

TRUNK = {"trunk": True, "heads": False}


def flops(function, *args):
  """FLOPs of the compiled program; a loop's body and a branch count once."""
  program = jax.jit(function).lower(*args).compile()
  return program.cost_analysis()["flops"]


def network(width=32, depth=3):
  return [normal(i, width, width) / 6 for i in range(depth)], normal(
    9, 64, width
  )


def run_network(kernels, x):
  for kernel in kernels:
    x = jnp.tanh(x @ kernel)
  return x


def residuals():
  """Losses on points of their own that share nothing but the params."""
  kernels, x = network()
  points = [x, x[:32], x[:48] / 2]

  def terms(kernels):
    return [
      jnp.mean(jnp.square(run_network(kernels, x)[:, t]))
      for t, x in enumerate(points)
    ]

  return kernels, terms


FORMS = {
  "list": lambda terms: terms,
  "dict": lambda terms: lambda p: dict(zip("abc", terms(p), strict=True)),
  "stack": lambda terms: lambda p: jnp.stack(terms(p)),
  "array": lambda terms: lambda p: jnp.array(terms(p)),
  "jit": lambda terms: jax.jit(lambda p: jnp.stack(terms(p))),
  "cast": lambda terms: lambda p: jnp.stack(terms(p)).astype(jnp.float16),
  "concatenate": lambda terms: (
    lambda p: jnp.concatenate([jnp.stack(terms(p)[:2]), terms(p)[2][None]])
  ),
}


@pytest.mark.parametrize("form", FORMS)
def test_losses_that_share_nothing_cost_what_each_costs_alone(form):
  """However the function puts them together."""
  params, terms = residuals()
  loss_fn = FORMS[form](terms)

  def alone(params):
    return [
      jax.value_and_grad(lambda p, t=t: terms(p)[t])(params) for t in range(3)
    ]

  got = flops(optax_mtl.value_and_task_grads(loss_fn), params)
  # Casting three losses and stacking are no products.
  np.testing.assert_allclose(got, flops(alone, params), rtol=1e-3)


def test_a_trunk_that_all_share_runs_forward_once():
  """In a loop too, where a compiler does not merge equal passes."""
  kernels, x = network(depth=4)
  stacked = jnp.stack(kernels)

  def losses(stacked):
    z, _ = jax.lax.scan(lambda z, k: (jnp.tanh(z @ k), None), x, stacked)
    return [jnp.mean(z[:, t] ** 2) for t in range(3)]

  jaxpr = jax.make_jaxpr(optax_mtl.value_and_task_grads(losses))(stacked).jaxpr
  forward = [
    eqn
    for eqn in jaxpr.eqns
    if eqn.primitive.name == "scan" and "tanh" in str(eqn.params["jaxpr"])
  ]
  assert len(forward) == 1
  scans = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
  assert len(scans) == 1 + 3


def test_a_head_is_pulled_back_once():
  """FLOPs of the trunk's T backward passes and of one for the heads."""
  kernels, x = network()
  params = {"trunk": kernels, "heads": [normal(t, 32, 32) for t in range(3)]}

  def losses(params, x):
    z = run_network(params["trunk"], x)
    return [jnp.mean(jnp.square(z @ head)) for head in params["heads"]]

  weights = jnp.array([1.0, 2.0, 3.0])

  def step(params, x):
    values, grads = optax_mtl.value_and_task_grads(losses, shared=TRUNK)(
      params, x
    )
    return values, grads.combine(weights)

  def plain(params, x):
    return jax.value_and_grad(lambda p: sum(losses(p, x)))(params)

  size = 2 * 64 * 32 * 32
  # A product for each layer forward, and two backward but at the first input;
  # of the three heads as many, and of the trunk backward two times more. What
  # is no product is a 32nd of a product, a few times for each layer.
  more = 2 * (2 * len(kernels) - 1) * size
  np.testing.assert_allclose(
    flops(step, params, x), flops(plain, params, x) + more, rtol=0.03
  )


@pytest.mark.parametrize("shared", [None, TRUNK])
@pytest.mark.parametrize("jit", [True, False])
def test_a_nan_stays_in_its_loss(shared, jit):
  """The square root's derivative at zero is inf, and 0 times inf is NaN."""

  def losses(params, x):
    z = params["trunk"] * x
    return {
      "a": jnp.sum(z * params["heads"][0]),
      "bad": jnp.sum(jnp.sqrt(z - z)) + jnp.sum(params["heads"][1]),
      "c": jnp.sum(z**2),
    }

  params = {"trunk": jnp.ones(2), "heads": [jnp.ones(2), jnp.ones(2)]}
  grads_of = optax_mtl.value_and_task_grads(losses, shared=shared)

  def run(params, x):
    values, grads = grads_of(params, x)
    grads = as_task_gradients(grads, 3, params)
    tx = optax_mtl.drop_nonfinite(optax_mtl.equal_weighting(3))
    update, _ = tx.update(grads, tx.init(params), params, losses=values)
    return update, grads.gram(), grads.finite()

  run = jax.jit(run) if jit else run
  update, gram, finite = run(params, jnp.array([1.0, 2.0]))
  assert finite.tolist() == [True, False, True]
  np.testing.assert_array_equal(update["trunk"], [1.0 + 2.0, 2.0 + 8.0])
  np.testing.assert_array_equal(update["heads"], [[1.0, 2.0], [0.0, 0.0]])
  assert np.isfinite(gram[np.ix_([0, 2], [0, 2])]).all()


def vector(params):
  """Losses that are computed as one: nothing to be taken apart."""
  return jnp.sum(jnp.square(params["trunk"] @ params["heads"]), axis=0)


def many(params):
  heads = jnp.tile(params["heads"], (1, 6))
  return [jnp.sum(params["trunk"] @ heads[:, t]) ** 2 for t in range(18)]


@pytest.mark.parametrize("loss_fn", [vector, many])
@pytest.mark.parametrize("shared", [None, TRUNK])
def test_losses_that_are_not_taken_apart(loss_fn, shared, monkeypatch):
  """One program pulls them all back, as with a chunk size."""
  params = {"trunk": normal(0, 4, 5), "heads": normal(1, 5, 3)}
  want = jax.jacrev(lambda p: jnp.stack(list(loss_fn(p))))(params)
  num_tasks = want["trunk"].shape[0]
  found = []
  real = backward.Backward.of_each
  monkeypatch.setattr(
    backward.Backward,
    "of_each",
    lambda *args: found.append(real(*args)) or found[-1],
  )
  for options in ({}, {"chunk_size": 2}):
    grads_of = optax_mtl.value_and_task_grads(loss_fn, shared=shared, **options)
    grads = (
      as_task_gradients(jax.jit(grads_of)(params)[1], num_tasks)
      if (shared is None)
      else None
    )
    if grads is None:
      got = jax.jit(lambda p, f=grads_of: f(p)[1].stacked())(params)
    else:
      got = grads.stacked()
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
      got,
      want,
    )
  assert found == [None, None]


def test_sixteen_are_taken_apart():
  """The limit is one of compile time, and stands in the docs."""
  assert backward._EACH == 16
  params = normal(0, 16)
  _, whole, _ = backward.differentiate(
    lambda p: (jnp.stack(list(p)), None), params
  )
  rows = whole.of_each(None)
  assert rows is not None and len(rows) == 16


def test_a_loss_without_params_and_a_leaf_without_losses():
  params = {"a": jnp.ones(2), "unused": jnp.ones(3)}
  values, grads = optax_mtl.value_and_task_grads(
    lambda p: [jnp.sum(p["a"]), jnp.ones(())]
  )(params)
  np.testing.assert_array_equal(values, [2.0, 1.0])
  np.testing.assert_array_equal(grads["a"], [[1.0, 1.0], [0.0, 0.0]])
  np.testing.assert_array_equal(grads["unused"], np.zeros((2, 3)))
  _, grads = optax_mtl.value_and_task_grads(
    lambda p: [jnp.sum(p["a"]), jnp.ones(())],
    shared={"a": True, "unused": False},
  )(params)
  np.testing.assert_array_equal(grads.combine(jnp.ones(2))["unused"], [0.0] * 3)


def test_aux_comes_from_the_one_forward_pass():
  """Whatever it holds; a callback in the function runs once."""
  calls = []

  def losses(params, key):
    noise = jax.random.normal(key, (2,))
    jax.debug.callback(lambda: calls.append(1))
    terms = [jnp.sum(params * noise), jnp.sum(params * noise**2)]
    return terms, {"noise": noise, "text": "kept"}

  key = jax.random.key(0)
  grads_of = optax_mtl.value_and_task_grads(losses, has_aux=True)
  (_, aux), grads = grads_of(jnp.ones(2), key)
  jax.effects_barrier()
  assert calls == [1] and aux["text"] == "kept"
  np.testing.assert_array_equal(grads[0], aux["noise"])
  np.testing.assert_array_equal(grads[1], aux["noise"] ** 2)
