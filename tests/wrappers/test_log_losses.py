"""Training on the logarithms of the losses, as if those were returned."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl

SHARED = {"head": False, "trunk": True}
PARAMS = {"head": jnp.array([0.5, 2.0]), "trunk": jnp.array([1.0, -1.0, 2.0])}


def losses_of(params, x):
  """Positive, and so are the logarithms of the last two."""
  trunk, head = params["trunk"], params["head"]
  return {
    "a": jnp.exp(-jnp.sum((trunk - x) ** 2)) * (1 + head[0] ** 2),
    "b": 3 + jnp.sum((trunk + x) ** 2) * head[1] ** 2,
    "c": 9 + jnp.sum(trunk**4),
  }


def logs_of(params, x):
  return jax.tree.map(jnp.log, losses_of(params, x))


def two_steps(tx, fun, source):
  """Updates and states of two steps, the second with the losses after one."""
  x = jnp.array([0.5, 0.25, 1.0])
  grads_of = optax_mtl.value_and_task_grads(fun, source=source, shared=SHARED)
  state, outputs = tx.init(PARAMS), []
  for after in ({}, {"previous_losses": fun(PARAMS, 1.1 * x)}):
    losses, grads = grads_of(PARAMS, x)
    updates, state = tx.update(grads, state, PARAMS, losses=losses, **after)
    outputs.append((updates, state))
  return outputs


@pytest.mark.parametrize(
  "name, source",
  [("mgda", "implicit"), ("gradnorm", "stacked"), ("even_fall", "stacked")]
  + [("largest_entry", "stacked"), ("equal_weighting", "implicit")],
)
def test_as_if_the_logarithms_were_returned(name, source):
  """Updates of trunk and heads, weights, and what is learnt from losses."""
  method = harness.build(name)
  got = two_steps(optax_mtl.log_losses(method), losses_of, source)
  want = two_steps(method, logs_of, source)
  # A quotient before or after sums of a few products.
  chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "name",
  ["mgda", "cagrad", "imtl_g", "pcgrad", "gradvac", "nash_mtl", "upgrad"],
)
def test_log_variants_by_reference(name):
  """The reference on `g_i / L_i`; three have a LOG variant elsewhere."""
  rng = np.random.default_rng(0)
  grads = rng.standard_normal((3, 8))
  losses = np.array([0.2, 3.0, 40.0])
  tx = optax_mtl.log_losses(harness.build(name))
  update = jax.jit(lambda g, losses: tx.update(g, tx.init(g[0]), losses=losses))
  updates, state = update(jnp.asarray(grads, "f"), jnp.asarray(losses, "f"))
  logs = grads / losses[:, None]
  want = harness.REFERENCES[name](3, logs[None], {})
  want = harness.limited(name, want, logs[None].reshape(1, 3, 8))[0]
  size = np.abs(want) @ np.linalg.norm(logs, axis=1)
  # The Gram matrix in float32, times a condition number of about 100.
  np.testing.assert_allclose(updates, want @ logs, atol=2e-5 * size)
  weights = harness.limited(name, np.asarray(state.weights)[None], logs[None])
  np.testing.assert_allclose(weights[0], want, rtol=1e-3)


@pytest.mark.parametrize(
  "name",
  [
    n
    for n in harness.NAMES
    if harness.info(n).room == "gram"
    # A second batch, whose losses it does not know, is refused below.
    and n not in ("modo", "sdmgrad")
  ],
)
def test_it_stands_with_every_gram_method(name):
  """Traced: shapes, dtypes and the state's structure are the method's own."""
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, method = harness.row_of(data, 0), harness.build(name)
  extra = {"second_grads": None}
  plain = harness.traced(method, row, harness.params(), **extra)
  logs = harness.traced(
    optax_mtl.log_losses(method), row, harness.params(), **extra
  )
  assert harness.signature(plain) == harness.signature(logs)


def test_a_loss_that_is_not_positive():
  """Its gradient is NaN and shows; the wrapper inside drops the task."""
  grads, params = jnp.eye(3), jnp.zeros(3)
  losses = jnp.array([2.0, 0.0, -1.0])
  tx = optax_mtl.log_losses(optax_mtl.equal_weighting(3))
  for active, want in (
    (None, [np.nan] * 3),
    ([True, False, False], [0.5, 0.0, 0.0]),
  ):
    updates, _ = tx.update(
      grads, tx.init(params), params, losses=losses, active=active
    )
    np.testing.assert_array_equal(updates, want)
  tx = optax_mtl.log_losses(
    optax_mtl.drop_nonfinite(optax_mtl.equal_weighting(3))
  )
  updates, state = tx.update(grads, tx.init(params), params, losses=losses)
  np.testing.assert_array_equal(updates, [0.5, 0.0, 0.0])
  np.testing.assert_array_equal(state.weights, [1.0, 0.0, 0.0])


def test_what_it_needs():
  tx = optax_mtl.log_losses(harness.build("two_batches", (0, 1)))
  grads, state = jnp.eye(2), tx.init(jnp.zeros(2))
  with pytest.raises(TypeError, match="log_losses needs losses= with every"):
    tx.update(grads, state, second_grads=grads)
  with pytest.raises(TypeError, match="does not know those of the second"):
    tx.update(grads, state, second_grads=grads, losses=jnp.ones(2))
