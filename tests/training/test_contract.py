"""What holds for every function around a training step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training import quadratics as q

import optax_mtl
from optax_mtl import training

BILEVEL = ("auto_lambda", "moml", "forum")
METHODS = (*BILEVEL, "samo")
BATCH, VALIDATION = jnp.asarray(q.BATCHES[0]), jnp.asarray(q.VALIDATION[0])


def batches_of(name, batch=BATCH, validation=VALIDATION):
  return (batch,) if name == "samo" else (batch, validation)


def params_of():
  return q.params_of(jnp.asarray(q.X, jnp.float32))


def test_the_room_is_known():
  """All of it is here, as a function and the type of its state."""
  functions = {n for n in vars(training) if n.islower() and n[0] != "_"}
  assert functions == set(METHODS)


@functools.cache
def program(name):
  """Three solutions at once, with Adam; a method and its donated step."""
  optimizer = optax.adam(optax.exponential_decay(0.1, 10, 0.9))
  if name == "samo":
    optimizer = optax.chain(optax_mtl.equal_weighting(q.T), optimizer)
  settings = {} if name == "samo" else {"weight_optimizer": None}
  method = q.built(name, q.named_loss_fn, optimizer, **settings)
  return method, jax.jit(jax.vmap(method.update), donate_argnums=(0, 1))


def started(name):
  """Params and state of three solutions, and batches for each."""
  params, batches = jax.tree.map(
    lambda leaf: jnp.stack([leaf] * 3), (params_of(), batches_of(name))
  )
  return params, jax.vmap(program(name)[0].init)(params), batches


def lane(tree, number):
  """One solution, on the host."""
  return jax.tree.map(lambda leaf: np.asarray(leaf[number]), tree)


@pytest.mark.parametrize("name", METHODS)
def test_solutions_in_one_donated_program(name):
  """One program for all steps, with Adam, whose buffers are its own."""
  method, step = program(name)
  params, state, batches = started(name)
  first = method.init(params_of())
  leaves = jax.tree.leaves(first)
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
  for _ in range(3):
    params, state = step(params, state, *batches)
  assert step._cache_size() == 1
  got = [lane((params, state), number) for number in range(3)]
  chex.assert_trees_all_equal(*got)
  chex.assert_tree_all_finite(got[0])
  assert not np.allclose(q.vector(got[0][0]), q.X)


def array_loss_fn(params, centers):
  return jnp.stack(q.loss_fn(params, centers))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_loss_function_may_return(name):
  """And that dtypes stay: of the params theirs, of the state the solver's."""
  for fun, dtype in (
    (q.loss_fn, jnp.bfloat16),
    (q.named_loss_fn, jnp.float32),
    (array_loss_fn, jnp.float32),
  ):
    params = optax.tree.cast(params_of(), dtype)
    batches = [batch.astype(dtype) for batch in batches_of(name)]
    method = q.built(name, fun)
    state = method.init(params)
    seen = jax.eval_shape(method.update, params, state, *batches)
    like = jax.eval_shape(lambda *carry: carry, params, state)
    assert seen == like
    assert state.losses.dtype == jnp.float32
  with_aux = lambda *a: (q.loss_fn(*a), {"seen": a[1]})  # noqa: E731
  method = q.built(name, with_aux, has_aux=True)
  *_, aux = jax.eval_shape(method.update, params, method.init(params), *batches)
  assert aux["seen"].shape == BATCH.shape


@pytest.mark.parametrize("name", BILEVEL)
def test_nan_teaches_no_weight_and_shows(name):
  """In validation it reaches no weight; in training, the params see it."""
  _, step = program(name)
  params, state, (batch, validation) = started(name)
  params, state = step(params, state, batch, validation)
  before = lane(state, 0)
  params, state = step(
    params,
    state,
    batch.at[2, 0, 0].set(jnp.nan),
    validation.at[1, 0, 0].set(jnp.nan),
  )
  after, seen = lane(params, 1), lane(state, 1)
  assert np.isnan(seen.validation_losses).tolist() == [True, False, False]
  for field in ("weights", "weight_optimizer", "upper_method", "multipliers"):
    chex.assert_trees_all_equal(
      getattr(seen, field, ()), getattr(before, field, ())
    )
  # FORUM's step follows the validation gradients, the others' do not.
  assert np.isfinite(q.vector(after)).all() == (name != "forum")
  after, seen = lane(params, 2), lane(state, 2)
  assert np.isnan(q.vector(after)).all()
  assert np.isnan(seen.losses).tolist() == [True, False, False]
  assert np.isfinite(seen.weights).all()


def test_one_task_that_is_not_finite_teaches_the_others_of_auto_lambda():
  """A training loss of inf with a derivative that is none spoils its own."""

  def loss_fn(params, scale):
    x = q.vector(params)
    return [jnp.sum(x**2), jnp.sum((x - 1) ** 2), scale * jnp.sum(x)]

  method = q.built("auto_lambda", loss_fn, initial_weights=[1.0, 1.0, 0.0])
  params = params_of()
  huge = jnp.asarray(3e38)
  _, state = jax.jit(method.update)(params, method.init(params), huge, 1.0)
  assert (state.weights[:2] != 1).all() and state.weights[2] == 0


def attempt(name, fun=q.named_loss_fn, optimizer=None, params=None, **changed):
  method = q.built(name, fun, optimizer, **changed)
  params = params_of() if params is None else params
  state = jax.eval_shape(method.init, params)
  return jax.eval_shape(method.update, params, state, *batches_of(name))


def two_losses(params, centers):
  return dict(list(q.named_loss_fn(params, centers).items())[:2])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
  "changed, error, match",
  [
    ({"fun": 3}, TypeError, "loss_fn must be a function .* got a int"),
    ({"optimizer": optax.adam}, TypeError, "optimizer must be .*'adam'"),
    ({"fun": two_losses}, ValueError, r"num_tasks=3.*2 losses \(edges, parts"),
    ({"fun": two_losses, "has_aux": True}, TypeError, "has_aux=True"),
    ({"params": {"w": jnp.arange(3)}}, TypeError, "has dtype int32"),
    ({"source": "none"}, ValueError, "source must be one of"),
  ],
)
def test_what_is_refused_by_all(name, changed, error, match):
  if name == "auto_lambda" and "source" in changed:
    return  # It has none: no gradient is stored.
  with pytest.raises(error, match=match):
    attempt(name, **changed)


@pytest.mark.parametrize("name", BILEVEL)
def test_an_optimizer_with_a_method_in_it_is_refused(name):
  for optimizer in (
    optax_mtl.mgda(q.T),
    optax.chain(optax_mtl.mgda(q.T), optax.sgd(0.1)),
  ):
    with pytest.raises(TypeError, match=f"mgda .* and {name} hands its opt"):
      attempt(name, optimizer=optimizer)
    with pytest.raises(TypeError, match="mgda .* weight_optimizer= is what"):
      attempt(name, weight_optimizer=optimizer)


@pytest.mark.parametrize(
  "name, changed, error, match",
  [
    ("auto_lambda", {"virtual_rate": 0}, ValueError, "virtual_rate must lie"),
    ("auto_lambda", {"virtual_rate": None}, TypeError, "virtual_rate must be"),
    ("auto_lambda", {"hypergradient": "x"}, ValueError, "hypergradient must"),
    (
      "auto_lambda",
      {"primary": {"a": 1, "b": 1, "c": 1}},
      ValueError,
      "a, b, c",
    ),
    ("auto_lambda", {"primary": [1.0]}, ValueError, "primary must hold one"),
    ("auto_lambda", {"initial_weights": "x"}, TypeError, "initial_weights"),
    ("moml", {"virtual_rate": -1.0}, ValueError, "virtual_rate must lie"),
    ("moml", {"method": optax.sgd(0.1)}, TypeError, "put an optax_mtl method"),
    ("forum", {"inner_rate": 0}, ValueError, "inner_rate must lie"),
    ("forum", {"inner_steps": 0}, ValueError, "inner_steps must lie"),
    ("forum", {"inner_steps": 2.0}, TypeError, "inner_steps must be a Python"),
    ("forum", {"steps_per_epoch": 1.5}, ValueError, "steps_per_epoch must"),
    ("forum", {"barrier": -0.1}, ValueError, "barrier must lie"),
    ("samo", {"radius": -1}, ValueError, "radius must lie"),
    ("samo", {"local_share": 2}, ValueError, "local_share must lie"),
    ("samo", {"difference": 0}, ValueError, "difference must lie"),
    ("samo", {"seed": 0.5}, TypeError, "seed must be an integer"),
    ("samo", {"heads": "x"}, ValueError, "heads must be one of"),
    ("samo", {"optimizer": optax.sgd(0.1)}, TypeError, "samo goes around a"),
  ],
)
def test_what_one_refuses(name, changed, error, match):
  with pytest.raises(error, match=match):
    attempt(name, **changed)
