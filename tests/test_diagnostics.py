"""Figures by name, and where methods' states are, in optimizers as people have.

The figures are compared with those of loops in float64 over `jax.grad` of each
task's loss by itself.
"""

import functools

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx, serialization
from sources.small_networks import normal

import optax_mtl
from optax_mtl.integrations.flax import TrainState

# optax mixes dtypes.
pytestmark = pytest.mark.standard_promotion

#: In an order that is not sorted; rows are.
NAMES = ("normals", "depth", "labels")
SORTED = tuple(sorted(NAMES))
TRUNK = {"trunk": True, "heads": False}
WEIGHTS = np.array([0.5, 2.0, 1.0])
WINDOW, STEPS, RATE = 3, 5, 0.1


def params():
  return {"trunk": normal(0, 4, 5), "heads": normal(1, 3, 5)}


def trunk_fn(params, batch):
  return jnp.tanh(batch["x"] @ params["trunk"])


def one_loss(t, params, z, batch):
  error = jnp.einsum("bf,f->b", z, params["heads"][t]) - batch["y"][t]
  return jnp.mean(error**2)


def heads_fn(params, z, batch):
  return {n: one_loss(SORTED.index(n), params, z, batch) for n in NAMES}


def loss_fn(params, batch):
  return heads_fn(params, trunk_fn(params, batch), batch)


TERMS = {
  name: functools.partial(
    lambda params, batch, t: one_loss(
      t, params, trunk_fn(params, batch), batch
    ),
    t=SORTED.index(name),
  )
  for name in NAMES
}
SOURCES = {
  "stacked": optax_mtl.value_and_task_grads(loss_fn),
  "stacked, trunk": optax_mtl.value_and_task_grads(loss_fn, shared=TRUNK),
  "implicit, trunk": optax_mtl.value_and_task_grads(
    loss_fn, source="implicit", shared=TRUNK
  ),
  "representation": optax_mtl.value_and_representation_grads(
    trunk_fn, heads_fn, shared=TRUNK
  ),
  "terms, trunk": optax_mtl.value_and_task_batch_grads(TERMS, shared=TRUNK),
  "terms, implicit": optax_mtl.value_and_task_batch_grads(
    TERMS, source="implicit"
  ),
}


def batches(spoilt):
  """[steps, ...]; one label is NaN in step 3, if `spoilt`."""
  y = normal(3, STEPS, 3, 6)
  if spoilt:
    y = y.at[3, 2, 1].set(jnp.nan)
  return {"x": normal(2, STEPS, 6, 4), "y": y}


def actives():
  """Task 0 is absent in the first steps, so that it has no figure yet."""
  active = np.ones((STEPS, 3), bool)
  active[:2, 0] = False
  return active


def flat(tree):
  leaves = [
    np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)
  ]
  return np.concatenate(leaves)


def reference(source, batches, starts):
  """Gradients [steps, T, P] where the source measures them."""

  def gradient(t, start, batch):
    if source == "representation":
      return jax.grad(lambda z: one_loss(t, start, z, batch))(
        trunk_fn(start, batch)
      )
    grads = jax.grad(lambda p: one_loss(t, p, trunk_fn(p, batch), batch))(start)
    return grads["trunk"] if "trunk" in source else grads

  return np.array(
    [
      [
        flat(gradient(t, start, jax.tree.map(lambda b, i=i: b[i], batches)))
        for t in range(3)
      ]
      for i, start in enumerate(starts)
    ]
  )


def train(source, batches, jit):
  """The params before each step, and the figures after it."""
  method = optax_mtl.fixed_weighting(3, WEIGHTS)
  tx = optax.chain(
    optax_mtl.track(optax_mtl.drop_nonfinite(method), WINDOW), optax.sgd(RATE)
  )

  def step(params, state, batch, active):
    batch = {n: (batch,) for n in NAMES} if "terms" in source else batch
    losses, grads = SOURCES[source](params, batch)
    updates, state = tx.update(
      grads, state, params, losses=losses, active=active
    )
    figures = optax_mtl.diagnostics(state, losses, learning_rate=RATE)
    return optax.apply_updates(params, updates), state, figures

  step = jax.jit(step) if jit else step
  now, state, starts, found = params(), None, [], []
  for i, active in enumerate(actives()):
    state = tx.init(now) if state is None else state
    starts.append(now)
    batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
    now, state, figures = step(now, state, batch, active)
    found.append(figures)
  return starts, jax.tree.map(lambda *rows: np.stack(rows), *found)


#: Without `jit` too: operation by operation, which is slow.
RUNS = [(source, True) for source in SOURCES] + [("terms, trunk", False)]


@pytest.mark.parametrize("source, jit", RUNS)
def test_against_each_tasks_own_gradient(source, jit):
  """Tasks are absent, one is NaN, and the window is shorter than the run.

  With a source of one backward pass for all, a NaN in one task's labels is one
  in all gradients: there, none.
  """
  spoilt = source.startswith(("stacked", "terms", "representation"))
  data = batches(spoilt)
  starts, found = train(source, data, jit)
  grads = reference(source, data, starts)
  counted = actives() & np.isfinite(grads).all(axis=2)
  assert counted[3].all() != spoilt
  weights = WEIGHTS * counted
  clean = np.where(counted[..., None], grads, 0)
  directions = np.einsum("st,stp->sp", weights, clean)
  want = harness.figures(
    clean, counted, RATE * directions, weights, SORTED, WINDOW
  )
  assert found.keys() == want.keys()
  assert np.isnan(want["norm/depth"][1]) and want["present/depth"][2] == 1 / 3
  for key, values in want.items():
    # Gradients of small networks in float32, and sums of tens of products.
    np.testing.assert_allclose(
      found[key], values, rtol=1e-4, atol=1e-5, err_msg=key
    )


def test_names():
  """From losses, a sequence, or gradients that carry them; else numbers."""
  tx = optax_mtl.track(optax_mtl.equal_weighting(3))
  state = tx.init(params())
  losses, grads = SOURCES["stacked, trunk"](
    params(), jax.tree.map(lambda leaf: leaf[0], batches(False))
  )
  by_name = list(optax_mtl.diagnostics(state, losses))
  assert by_name == sorted(by_name)
  assert by_name[-3:] == ["weight/depth", "weight/labels", "weight/normals"]
  assert "cosine/depth/normals" in by_name
  assert list(optax_mtl.diagnostics(state, SORTED)) == by_name
  assert list(optax_mtl.diagnostics(state, grads)) == by_name
  short = list(optax_mtl.diagnostics(state, cosines=False))
  assert short[-1] == "weight/2" and len(short) == 4 * 3 + 2
  with pytest.raises(TypeError, match="names must be the losses as a dict"):
    optax_mtl.diagnostics(state, "abc")
  for names in (["a", "b"], ["a", "b", "a"], {"a": 1, "b": 2}):
    with pytest.raises(ValueError, match="a name for each of the 3 tasks"):
      optax_mtl.diagnostics(state, names)
  four = optax_mtl.track(optax_mtl.equal_weighting(4)).init(params())
  with pytest.raises(ValueError, match="'cosine/a/b/c' would be that of two"):
    optax_mtl.diagnostics(four, ["a", "a/b", "b/c", "c"])


#: Optimizers in which `optax.tree.get(state, "weights")` finds two, or another.
AMBIGUOUS = {
  "a param": (
    optax.chain(optax_mtl.track(optax_mtl.mgda(2)), optax.adam(0.1)),
    {"weights": jnp.ones(3)},
  ),
  "a hyperparameter": (
    optax.inject_hyperparams(
      lambda weights: optax_mtl.track(optax_mtl.fixed_weighting(2, weights))
    )(jnp.ones(2)),
    {"w": jnp.ones(3)},
  ),
  "both, and wrappers": (
    optax_mtl.accumulate(
      optax_mtl.skip_nonfinite(
        optax.chain(
          optax_mtl.refresh_every(
            optax_mtl.ema_weights(optax_mtl.track(optax_mtl.mgda(2))), 2
          ),
          optax.masked(optax.adam(0.1), {"weights": True, "b": False}),
          optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
        )
      ),
      2,
      1,
    ),
    {"weights": jnp.ones(3), "b": jnp.ones(2)},
  ),
}


def first_step(tx, params):
  grads = jax.tree.map(
    lambda p: jnp.stack([jnp.arange(1.0, 1 + p.size), -jnp.ones(p.size)]),
    params,
  )
  _, state = tx.update(grads, tx.init(params), params)
  return state


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_a_state_is_found_by_its_type(what):
  tx, params = AMBIGUOUS[what]
  state = first_step(tx, params)
  with pytest.raises(KeyError, match="Found multiple values"):
    optax.tree.get(state, "weights")
  (found,) = optax_mtl.method_states(state).values()
  assert isinstance(found, optax_mtl.WeightState)
  assert optax_mtl.method_state(state) is found
  figures = optax_mtl.diagnostics(state, ["a", "b"])
  np.testing.assert_allclose(
    [figures["weight/a"], figures["weight/b"]], found.weights, rtol=1e-6
  )


def test_two_methods():
  """In one `partition`: each by its label."""
  tx = optax.partition(
    {
      "left": optax.chain(optax_mtl.track(optax_mtl.mgda(2)), optax.sgd(0.1)),
      "right": optax_mtl.track(optax_mtl.bloop(2)),
    },
    {"a": "left", "b": "right"},
  )
  state = first_step(tx, {"a": jnp.ones(3), "b": jnp.ones(3)})
  assert len(optax_mtl.method_states(state)) == 2
  left = optax_mtl.method_state(state, "'left'")
  assert left.weights.shape == (2,)
  assert "weight/0" in optax_mtl.diagnostics(state, where="'left'")
  right = optax_mtl.diagnostics(state, where="'right'")
  assert "weight/0" not in right and np.isfinite(right["norm/0"])
  for read in (optax_mtl.method_state, optax_mtl.diagnostics):
    with pytest.raises(ValueError, match="found 2 methods, .*'left'.*'right'"):
      read(state)
    with pytest.raises(ValueError, match="found 0 methods with 'middle' in"):
      read(state, where="middle")


def test_nothing_there():
  with pytest.raises(ValueError, match="found no state of a method .*tx.init"):
    optax_mtl.method_state(optax.adam(0.1).init(jnp.ones(2)))
  state = optax_mtl.mgda(2).init(jnp.ones(2))
  assert optax_mtl.method_states(state) == {"": state}
  with pytest.raises(ValueError, match="put optax_mtl.track around the method"):
    optax_mtl.diagnostics(state)


def test_many_runs_at_once():
  """A state of several runs gives figures of several runs, in `vmap` or not."""
  tx = optax_mtl.track(optax_mtl.mgda(2), 2)
  grads = normal(0, 4, 2, 3)
  states = jax.vmap(lambda g: tx.update(g, tx.init(jnp.ones(3)))[1])(grads)
  inside = jax.vmap(optax_mtl.diagnostics)(states)
  outside = optax_mtl.diagnostics(states)
  for key, values in outside.items():
    assert values.shape == (4,)
    np.testing.assert_array_equal(inside[key], values)


def test_saved_and_restored(tmp_path):
  """With msgpack and orbax, into a first state; in Flax's containers too."""
  tx = optax.chain(optax_mtl.track(optax_mtl.mgda(2), 3), optax.adam(0.1))
  params = {"weights": jnp.ones(3)}
  state = first_step(tx, params)
  want = optax_mtl.diagnostics(state)
  with orbax.checkpoint.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    orbax_state = checkpointer.restore(tmp_path / "state", tx.init(params))
  msgpack_state = serialization.from_bytes(
    tx.init(params), serialization.to_bytes(state)
  )
  train_state = TrainState.create(apply_fn=None, params=params, tx=tx)
  train_state = train_state.replace(opt_state=state)
  optimizer = nnx.Optimizer(
    nnx.Linear(2, 2, rngs=nnx.Rngs(0)), tx, wrt=nnx.Param
  )
  for restored in (orbax_state, msgpack_state, train_state):
    found = optax_mtl.diagnostics(restored)
    assert found.keys() == want.keys()
    for key, value in want.items():
      np.testing.assert_array_equal(found[key], value)
  assert optax_mtl.diagnostics(optimizer.opt_state).keys() == want.keys()


def test_what_is_no_name_and_no_rate():
  """Keys of gradients are those of params; a schedule is no rate."""
  tx = optax_mtl.track(optax_mtl.mgda(2))
  state = tx.init({"w": jnp.zeros(2), "b": jnp.zeros(2)})
  for grads in (
    {"w": jnp.eye(2), "b": jnp.eye(2)},
    {"w": {"x": 1.0}, "b": {"x": 1.0}},
  ):
    with pytest.raises(TypeError, match="no tasks' names"):
      optax_mtl.diagnostics(state, grads)
  with pytest.raises(TypeError, match="got WeightState"):
    optax_mtl.diagnostics(state, state)
  with pytest.raises(TypeError, match=r"schedule\(step\)"):
    optax_mtl.diagnostics(state, learning_rate=optax.constant_schedule(0.1))
