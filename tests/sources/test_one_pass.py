"""Trunk and heads in one backward pass where no head serves two tasks."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import normal

import optax_mtl
from optax_mtl import _jax_programs

T, DEPTH, WIDTH = 3, 4, 6
TRUNK = {"trunk": True, "heads": False}
WEIGHTS = jnp.array([0.5, -2.0, 3.0])


def network(x):
  params = {
    "trunk": [normal(i, WIDTH, WIDTH) / 3 for i in range(DEPTH)],
    "heads": [
      [normal(10 * t + i, WIDTH, WIDTH) / 3 for i in range(DEPTH)]
      for t in range(T)
    ],
  }

  def trunk(params):
    z = x
    for kernel in params["trunk"]:
      z = jnp.tanh(z @ kernel)
    return z

  def head(t, kernels, z):
    for kernel in kernels:
      z = jax.nn.relu(z @ kernel)
    return jnp.mean(jnp.square(z[:, t]))

  return params, trunk, head


def separable(params, x):
  """Losses in each form, with values of the trunk read in several places."""
  _, trunk, head = network(x)
  z = trunk(params)
  return [head(t, params["heads"][t], z) for t in range(T)]


def stacked_by_hand(params, x):
  return jnp.stack(separable(params, x))


def as_dict(params, x):
  return dict(zip("cab", separable(params, x), strict=True))


def with_a_plain_task(params, x):
  """One task has no head, and one reads the trunk's own leaves."""
  _, trunk, head = network(x)
  z = trunk(params)
  decay = sum(jnp.sum(kernel**2) for kernel in params["trunk"])
  heads = params["heads"]
  return [head(0, heads[0], z) + decay, jnp.mean(z), head(2, heads[2], z)]


def rematerialized(params, x):
  _, trunk, head = network(x)
  z = jax.checkpoint(trunk)(params)
  return [
    jax.checkpoint(lambda k, z, t=t: head(t, k, z))(params["heads"][t], z)
    for t in range(T)
  ]


def in_half_precision(params, x):
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  return jnp.stack(separable(half, x.astype(jnp.bfloat16)))


def with_a_common_layer(params, x):
  """A head's layer that two tasks read has no task of its own."""
  _, trunk, head = network(x)
  z = trunk(params)
  heads = params["heads"]
  return [head(t, heads[min(t, 1)], z) for t in range(T)]


def compiled(params, x):
  """A call that nothing is known of."""
  return jax.jit(stacked_by_hand)(params, x)


ONE_PASS = [
  separable,
  stacked_by_hand,
  as_dict,
  with_a_plain_task,
  rematerialized,
  in_half_precision,
]
X = normal(99, 5, WIDTH)


def gradients(loss_fn):
  params = network(X)[0]
  return params, optax_mtl.value_and_task_grads(
    loss_fn, source="implicit", shared=TRUNK
  )


@pytest.mark.parametrize("loss_fn", [*ONE_PASS, with_a_common_layer, compiled])
def test_trunk_and_heads_get_their_weights(loss_fn, monkeypatch):
  """In one pass or in two, for head weights of any kind."""
  params, grads_of = gradients(loss_fn)
  found = []
  real = _jax_programs.separate
  monkeypatch.setattr(
    _jax_programs,
    "separate",
    lambda *args: found.append(real(*args)) or found[-1],
  )

  @jax.jit
  def run(params):
    _, grads = grads_of(params, X)
    zero = jnp.array([0.0, 1.0, 0.0])
    return (
      grads.combine(WEIGHTS),
      grads.combine(WEIGHTS, head_weights=jnp.array([2.0, 0.0, -1.0])),
      grads.combine(WEIGHTS * zero, keep=zero > 0),
      grads.stacked(),
    )

  *got, rows = run(params)
  assert all((both is not None) == (loss_fn in ONE_PASS) for both in found)
  # bfloat16 rounds on the way, in another place if a weight comes later.
  rtol = 2e-2 if loss_fn is in_half_precision else 1e-5
  zero = np.array([0.0, 1.0, 0.0])
  for combined, weights, head_weights in zip(
    got,
    (WEIGHTS, WEIGHTS, WEIGHTS * zero),
    (np.ones(T), np.array([2.0, 0.0, -1.0]), zero),
    strict=True,
  ):
    for part, w in (("trunk", weights), ("heads", head_weights)):
      jax.tree.map(
        lambda leaf, row, w=w: np.testing.assert_allclose(
          leaf,
          np.tensordot(np.asarray(w), row, 1),
          rtol=0,
          atol=rtol * np.abs(row).max() * 3 + 1e-9,
        ),
        combined[part],
        rows[part],
      )


def test_a_loss_only_method_costs_one_backward_pass():
  """Products, and the compiled program's FLOPs, beside a plain step's."""
  params, grads_of = gradients(separable)

  def plain(params):
    return jax.value_and_grad(lambda p: sum(separable(p, X)))(params)

  def step(params):
    losses, grads = grads_of(params, X)
    weights = 1 / jnp.stack(losses if isinstance(losses, list) else [*losses])
    return losses, grads.combine(weights)

  assert harness.products(step, params) == harness.products(plain, params)
  flops = [
    jax.jit(f).lower(params).compile().cost_analysis()["flops"]
    for f in (step, plain)
  ]
  # The weights and what they are multiplied with: a few numbers per product.
  assert flops[0] < 1.1 * flops[1]


def test_an_overflow_of_a_task_without_weight_does_no_harm():
  def losses(params):
    z = params["trunk"]
    steep = jnp.square(1e20 * jnp.sum(z * params["heads"][0]))
    return [jnp.sum(z * params["heads"][1]), steep]

  params = {"trunk": jnp.ones(2), "heads": [jnp.ones(2), jnp.ones(2)]}
  _, grads = optax_mtl.value_and_task_grads(
    losses, source="implicit", shared=TRUNK
  )(params)
  keep = jnp.array([True, False])
  combined = grads.combine(jnp.array([2.0, 0.0]), keep=keep)
  np.testing.assert_array_equal(combined["trunk"], [2.0, 2.0])
  np.testing.assert_array_equal(combined["heads"], [[0.0, 0.0], [1.0, 1.0]])
