"""NTK weights, and the traces that they come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import AS_USERS
from one_step import close, step

import optax_mtl


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def test_weights():
  traces, active = [1.0, 4.0, 0.0, 5.0], [True, True, True, False]
  _, state = step(
    optax_mtl.ntk_weighting(4), np.eye(4), traces=traces, active=active
  )
  close(state.weights, [5.0, 1.25, 0.0, 0.0])
  _, state = step(
    optax_mtl.ntk_weighting(4, "mean"), np.eye(4), traces=traces, active=active
  )
  close(state.weights, [2.5, 0.625, 0.0, 0.0])


def test_traces_that_are_none():
  """Negative: an error, also inside of another program; traced, it is zero."""
  tx = optax_mtl.ntk_weighting(2)
  state = tx.init(jnp.zeros(2))
  traces = jnp.array([-1.0, 1.0])

  def weights(traces):
    return tx.update(jnp.eye(2), state, traces=traces)[1].weights

  for call in (weights, lambda traces: jax.eval_shape(lambda: weights(traces))):
    with pytest.raises(ValueError, match="traces= must .* negative.*-1.0, 1.0"):
      call(traces)
  close(jax.jit(weights)(traces), [0.0, 1.0])
  # None at all: nothing to train by; one that is NaN shows.
  close(weights(jnp.zeros(2)), [0.0, 0.0])
  assert np.isnan(weights(jnp.array([np.nan, 1.0]))).all()


def params():
  rng = np.random.default_rng(0)
  kernel, bias = rng.standard_normal((3, 4)), rng.standard_normal(4)
  return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}


def network(params, x):
  return jnp.sum(jnp.tanh(x @ params["kernel"] + params["bias"]))


RESIDUALS = {
  # The derivative of a network: gradients of gradients.
  "pde": lambda params, x: jnp.sum(jax.grad(network, argnums=1)(params, x)),
  "bc": lambda params, xy: network(params, xy["x"]) - xy["y"],
  "vector": lambda params, x: jnp.tanh(x @ params["kernel"]),
}


def batches():
  rng = np.random.default_rng(1)

  def points(count):
    return jnp.asarray(rng.standard_normal((count, 3)))

  return {
    "vector": points(5),
    "pde": points(7),
    "bc": {"x": points(3), "y": jnp.zeros(3)},
  }


def test_traces_are_those_of_explicit_jacobians():
  """Chunks of 3: with a rest, exactly one, and two with a rest."""
  found = jax.jit(
    lambda p, b: optax_mtl.ntk_traces(RESIDUALS, p, b, chunk_size=3)
  )(params(), batches())
  assert set(found) == set(RESIDUALS)
  for name, residual in RESIDUALS.items():
    whole = jax.vmap(residual, in_axes=(None, 0))
    jacobian = jax.jacrev(whole)(params(), batches()[name])
    square = sum(np.sum(np.square(leaf)) for leaf in jacobian.values())
    close(found[name], square, 1e-13)
  mean = jax.jit(
    lambda p, b: optax_mtl.ntk_traces(
      RESIDUALS, p, b, chunk_size=64, reduction="mean"
    )
  )(params(), batches())
  for name, count in {"pde": 7, "bc": 3, "vector": 5}.items():
    close(mean[name], found[name] / count, 1e-13)


def test_two_that_oppose():
  """The loss has no gradient, the kernel a trace of 2."""
  batch = jnp.array([1.0, -1.0])

  def residual(params, x):
    return params * x

  def loss(params):
    return jnp.sum(jax.vmap(residual, (None, 0))(params, batch))

  assert jax.grad(loss)(jnp.ones(())) == 0
  traces = optax_mtl.ntk_traces({"a": residual}, jnp.ones(()), {"a": batch})
  assert traces["a"] == 2.0


def test_named_to_the_end():
  """From residuals to weights by the tasks' names, whatever their order."""
  residuals = {"z": lambda p, x: 2 * p * x, "a": lambda p, x: p * x}
  batches = {"a": jnp.ones(2), "z": jnp.ones(2)}
  traces = optax_mtl.ntk_traces(residuals, jnp.ones(()), batches)
  tx = optax_mtl.ntk_weighting(2)
  grads = jnp.array([1.0, 10.0])
  updates, _ = tx.update(grads, tx.init(jnp.ones(())), traces=traces)
  # Traces 2 and 8.
  close(updates, 5.0 + 1.25 * 10)


def test_memory_of_one_chunk():
  """The largest array holds a chunk of gradients, and not all of them."""

  def residual(params, x):
    return jnp.sum(jnp.tanh(params * x))

  def trace(params, batch):
    return optax_mtl.ntk_traces(
      {"a": residual}, params, {"a": batch}, chunk_size=4
    )

  compiled = (
    jax.jit(trace).lower(jnp.ones(1000), jnp.ones(400)).compile(AS_USERS)
  )
  # Some copies of 4 x 1000 numbers of 8 bytes; all would be 3.2 MB.
  assert compiled.memory_analysis().temp_size_in_bytes < 10 * 4 * 1000 * 8


@pytest.mark.parametrize(
  "change, error, message",
  [
    ({"batches": {"b": jnp.ones(2)}}, ValueError, "of a, but the batches of b"),
    ({"batches": jnp.ones(2)}, TypeError, "batches must be a dict"),
    ({"batches": {"a": {}}}, ValueError, "batch of 'a' is a tree without"),
    ({"batches": {"a": jnp.ones(0)}}, ValueError, "batch of 'a' holds no"),
    ({"batches": {"a": jnp.ones(())}}, ValueError, "the only leaf .* a scalar"),
    (
      {"batches": {"a": (jnp.ones(2), jnp.ones(3))}},
      ValueError,
      r"differ in their number of samples \(leaf \[0\]: 2, leaf \[1\]: 3\)",
    ),
    ({"params": jnp.arange(2)}, TypeError, "of params has dtype int"),
    ({"residuals": {"a": lambda p, x: "x"}}, TypeError, "'a' must return an"),
    ({"residuals": {"a": lambda p, x: 3}}, TypeError, "floating .* got int"),
    ({"chunk_size": 0}, ValueError, "the number of samples to differentiate"),
    ({"reduction": "max"}, ValueError, "reduction must be one of 'sum'"),
  ],
)
def test_arguments(change, error, message):
  given = {
    "residuals": {"a": lambda p, x: jnp.sum(p) * x},
    "params": jnp.ones(2),
    "batches": {"a": jnp.ones(2)},
  }
  with pytest.raises(error, match=message):
    jax.eval_shape(lambda: optax_mtl.ntk_traces(**(given | change)))
