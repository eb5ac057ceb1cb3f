"""Losses that cannot be transposed, and losses in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import AS_USERS
from jax.experimental.ode import odeint
from small_networks import T

import optax_mtl
from optax_mtl.sources import as_task_gradients, implicit

P = jnp.array([0.3, -0.7, 1.2, 0.5])


def with_backward(backward):
  """`tanh` whose backward pass is `backward(x, cotangent)`."""

  @jax.custom_vjp
  def function(x):
    return jnp.tanh(x)

  function.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (backward(x, g),))
  return function


def loops(x, g):
  def body(carry):
    step, g = carry
    return step + 1, g * (1 + x) / 2

  return jax.lax.while_loop(lambda carry: carry[0] < 3, body, (0, g))[1]


def calls_back(x, g):
  return jax.pure_callback(
    lambda x, g: np.asarray(g) * (1 - np.tanh(np.asarray(x)) ** 2),
    jax.ShapeDtypeStruct(x.shape, x.dtype),
    x,
    g,
    vmap_method="sequential",
  )


def solves(x):
  times = jnp.array([0.0, 1.0])
  return odeint(lambda y, _, x: -y * x, jnp.ones_like(x), times, x**2)[-1]


FUNCTIONS = {
  "odeint": solves,
  "while_loop": with_backward(loops),
  "pure_callback": with_backward(calls_back),
  "clip": with_backward(lambda x, g: jnp.clip(g, -1, 1) * x),
  "isnan": with_backward(
    lambda x, g: jnp.where(jnp.isnan(g), jnp.zeros_like(g), g * x)
  ),
}


def hard_losses(name):
  def losses(p):
    y = FUNCTIONS[name](p)
    return [jnp.sum(y), 3 * jnp.sum(y**2), jnp.sum(y[:2])]

  return losses


@pytest.mark.parametrize(
  "name, chunk_size", [*((name, None) for name in FUNCTIONS), ("isnan", 2)]
)
def test_a_backward_pass_that_cannot_be_transposed(name, chunk_size):
  losses = hard_losses(name)
  grads_of = optax_mtl.value_and_task_grads(
    losses, source="implicit", chunk_size=chunk_size
  )

  @jax.jit
  def run(p):
    _, grads = grads_of(p)
    each = [jax.grad(lambda p, t=t: losses(p)[t])(p) for t in range(T)]
    weights = jnp.array([1.0, 2.0, -1.0])
    other = grads.cross_gram(grads) if chunk_size else grads.gram()
    return jnp.stack(each), grads.gram(), grads.combine(weights), other

  rows, gram, combined, cross = run(P)
  np.testing.assert_allclose(gram, rows @ rows.T, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(gram, gram.T)
  np.testing.assert_allclose(cross, rows @ rows.T, rtol=1e-5, atol=1e-6)
  if name != "clip":  # which is not linear: see value_and_task_grads
    expected = rows[0] + 2 * rows[1] - rows[2]
    np.testing.assert_allclose(combined, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_tasks, chunk_size", [(1, 1), (5, 2), (4, 2)])
def test_pairs_of_chunks(num_tasks, chunk_size):
  """Chunks that do not divide the tasks; no more than two are held."""
  matrix = np.random.default_rng(0).standard_normal((num_tasks, 1000))
  matrix = jnp.asarray(matrix, jnp.float32)
  function = with_backward(loops)

  def gram(p):
    losses = lambda p: matrix @ function(p)  # noqa: E731
    _, grads = optax_mtl.value_and_task_grads(
      losses, source="implicit", chunk_size=chunk_size
    )(p)
    return grads.gram(), grads.stacked()

  got, rows = jax.jit(gram)(jnp.linspace(-1, 1, 1000))
  rows = np.asarray(rows, np.float64)
  lengths = np.linalg.norm(rows, axis=1)
  error = np.abs(got - rows @ rows.T) / np.outer(lengths, lengths)
  assert error.max() < 1e-6 * np.sqrt(1000)


def test_pairs_of_chunks_hold_two_of_them():
  """Temp memory of the compiled Gram matrix at T = 16."""
  size = 100_000
  function = with_backward(loops)

  def gram(p, x):
    losses = lambda p: x @ function(p)  # noqa: E731
    return optax_mtl.value_and_task_grads(losses, source="implicit")(p)[
      1
    ].gram()

  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((size,), (16, size))]
  memory = jax.jit(gram).lower(*shapes).compile(AS_USERS).memory_analysis()
  # Two gradients, tanh, and what the loop carries: far from 16 gradients.
  assert memory.temp_size_in_bytes < 8 * 4 * size


@pytest.mark.parametrize("name", FUNCTIONS)
def test_methods_that_need_no_gram_matrix_never_transpose(name, monkeypatch):
  calls = []
  monkeypatch.setattr(jax, "linear_transpose", lambda *_: calls.append(1))
  grads_of = optax_mtl.value_and_task_grads(
    hard_losses(name), source="implicit", shared=lambda p: True
  )
  jax.eval_shape(lambda p: grads_of(p)[1].combine(jnp.ones(T)), P)
  assert not calls
  jax.eval_shape(lambda p: grads_of(p)[1].gram(), P)
  assert calls


ROWS = np.array([[300.0, 1.0], [-299.0, 1.0]], np.float32)


def linear_losses(dtype):
  return lambda p: (jnp.asarray(ROWS) @ p).astype(dtype)


def half_source(kind, dtype):
  losses = linear_losses(dtype)
  if kind == "representation":
    return optax_mtl.value_and_representation_grads(
      lambda p: p["trunk"], lambda p, z: losses(z) + 0 * p["head"].astype(dtype)
    )
  return optax_mtl.value_and_task_grads(
    lambda p: losses(p["trunk"]) + 0 * p["head"].astype(dtype),
    source="stacked" if kind == "trunk" else kind,
    shared={"trunk": True, "head": False} if kind == "trunk" else None,
  )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
  "kind", ["stacked", "trunk", "implicit", "representation"]
)
def test_losses_in_half_precision(kind, dtype):
  """Gram matrix and weights do not pass through the losses' dtype."""
  params = {"trunk": jnp.zeros(2), "head": jnp.zeros(1)}

  @jax.jit
  def run(params, weights):
    losses, grads = half_source(kind, dtype)(params)
    grads = as_task_gradients(grads, 2, params)
    assert losses.dtype == dtype
    combine = jax.vmap(lambda w: grads.combine(w)["trunk"])
    return grads.gram(), combine(weights)

  # The shortest combination, weights that half precision cannot hold, and
  # weights that it holds exactly.
  weights = np.array(
    [[299 / 599, 300 / 599], [1e5, 3e9], [1e-30, 2e-36], [0.5, 2], [0, 0]],
    np.float32,
  )
  gram, combined = run(params, weights)
  np.testing.assert_array_equal(gram, ROWS @ ROWS.T)
  expected = weights.astype(np.float64) @ ROWS
  # Three pieces of at least 8 bits are float32's 24, but for the last bit of
  # each term.
  size = np.abs(weights.astype(np.float64)) @ np.abs(ROWS)
  assert (np.abs(combined - expected) <= 4 * 2.0**-23 * size).all()


def test_weights_that_half_precision_holds_take_one_backward_pass():
  """The pieces that are zero are not pulled back: seen by a callback."""
  calls = []

  @jax.custom_vjp
  def watched(x):
    return x

  def backward(_, g):
    jax.debug.callback(lambda: calls.append(1))
    return (g,)

  watched.defvjp(lambda x: (x, None), backward)
  losses = lambda p: linear_losses("bfloat16")(watched(p))  # noqa: E731
  _, grads = optax_mtl.value_and_task_grads(losses, source="implicit")(
    jnp.zeros(2)
  )
  for weights, passes in (([1.0, 0.5], 1), ([1.0, 1 + 2**-9], 2)):
    calls.clear()
    jax.block_until_ready(grads.combine(jnp.array(weights)))
    jax.effects_barrier()
    assert len(calls) == passes


def test_gradients_over_256_within_a_network_in_half_precision():
  """Losses in float32, and float16 inside, where 300 * 300 is inf."""
  matrix = jnp.asarray(ROWS)

  def losses(p):
    return (matrix.astype(jnp.float16) @ p.astype(jnp.float16)).astype(
      jnp.float32
    )

  _, grads = optax_mtl.value_and_task_grads(losses, source="implicit")(
    jnp.zeros(2)
  )
  # Each product is rounded to float16 once.
  np.testing.assert_allclose(grads.gram(), ROWS @ ROWS.T, rtol=2.0**-10)


def test_the_pushforward_is_what_usual_losses_take():
  """Else the tests above would not see its absence."""
  _, grads = optax_mtl.value_and_task_grads(
    lambda p: [jnp.sum(p), jnp.sum(p**2)], source="implicit"
  )(P)
  assert isinstance(grads, implicit.ImplicitTaskGradients)
  assert grads._pushforward(None) is not None
