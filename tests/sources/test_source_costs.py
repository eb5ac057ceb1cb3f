"""What a step costs with each source: operations counted in its program."""

import functools

import harness
import jax
import jax.numpy as jnp
import pytest
from small_networks import T, normal

import optax_mtl
from optax_mtl._dtypes import solver_dtype

every_method = pytest.mark.parametrize("name", harness.NAMES)


def deep_losses(params, x):
  """Twelve matrix products forward, so that a few on [T, T] do not matter."""
  for kernel in params["trunk"]:
    x = jnp.tanh(x @ kernel)
  return jnp.stack([jnp.mean(x[:, t] ** (t + 1)) for t in range(T)])


DEPTH = 12


def deep_network():
  params = {"trunk": [normal(i, 6, 6) for i in range(DEPTH)]}
  return params, normal(99, 5, 6)


def step_products(name, source, summed=False):
  params, x = deep_network()
  tx = harness.build(name)
  extra = {k: v[0] for k, v in harness.data(num_steps=1).extra.items()}

  def run(params, x):
    if summed:
      return jax.value_and_grad(lambda p: jnp.sum(deep_losses(p, x)))(params)
    losses, grads = optax_mtl.value_and_task_grads(deep_losses, source=source)(
      params, x
    )
    updates, state = tx.update(
      grads, tx.init(params), params, **extra | {"losses": losses}
    )
    return losses, updates, state

  return harness.products(run, params, x)


def own_products(name):
  """The products that an update makes of gradients that are there."""
  params, _ = deep_network()
  tx = harness.build(name)
  extra = {k: v[0] for k, v in harness.data(num_steps=1).extra.items()}
  grads = jax.tree.map(lambda p: jnp.zeros((T, *p.shape)), params)
  return harness.products(
    lambda g, p: tx.update(g, tx.init(p), p, **extra), grads, params
  )


@every_method
def test_what_the_implicit_source_costs(name):
  """Losses only: one forward and one backward pass, as a summed loss.

  A backward pass is one product for each layer's kernel and one for each
  layer's input but the first; a forward tangent is two for each layer.
  """
  one = step_products(name, None, summed=True)
  assert one == DEPTH + DEPTH + DEPTH - 1
  if "second_grads" in optax_mtl.facts(harness.build(name)).needs:
    return  # What inner products of two batches cost is tested with these.
  cost = step_products(name, "implicit")
  facts = optax_mtl.facts(harness.build(name))
  if facts.single:
    return  # Those have tests of their own: what they keep has products too.
  if facts.stacked:
    # A backward pass for each task, and what the rule makes of the gradients.
    gradients = DEPTH + T * (2 * DEPTH - 1)
    assert cost == gradients + own_products(name)
    return
  if facts.norms:
    assert cost == DEPTH + (T + 1) * (2 * DEPTH - 1)
    return
  if not facts.gram:
    assert cost == one, f"{name} costs {cost / one:.2f} of one backward pass"
    return
  backward = 2 * DEPTH - 1
  forward_tangent = 2 * DEPTH - 1
  # The last task's column is known but for its own squared length.
  expected = DEPTH + (T + 1) * backward + (T - 1) * forward_tangent
  # What is left are products on [T, T] in the solver.
  assert expected <= cost <= expected + 60


def test_m_config_takes_one_backward_pass_whatever_the_number_of_tasks():
  """Beside the products of its momenta, which need no backward pass."""
  one = step_products("m_config", None, summed=True)
  assert step_products("m_config", "implicit") == own_products("m_config") + one


def test_bloop_takes_two_backward_passes_whatever_the_number_of_tasks():
  """The main gradient and the sum of the others; two products for each leaf."""
  cost = step_products("bloop", "implicit")
  assert cost == DEPTH + 2 * (2 * DEPTH - 1) + 2 * DEPTH


def test_one_forward_pass():
  """Of every source: the forward layers' tanh are counted."""
  params, x = deep_network()

  def tanhs(grads_of):
    def run(params, x):
      losses, grads = grads_of(params, x)
      grads = optax_mtl.sources.as_task_gradients(grads, T)
      return losses, grads.gram(), grads.combine(jnp.ones(T, solver_dtype()))

    return harness.count(jax.make_jaxpr(run)(params, x).jaxpr, {"tanh"})

  for source in ("stacked", "implicit"):
    grads_of = optax_mtl.value_and_task_grads(deep_losses, source=source)
    assert tanhs(grads_of) == DEPTH
  half = DEPTH // 2
  grads_of = optax_mtl.value_and_representation_grads(
    lambda p, x: functools.reduce(
      lambda z, k: jnp.tanh(z @ k), p["trunk"][:half], x
    ),
    lambda p, z, x: deep_losses({"trunk": p["trunk"][half:]}, z),
  )
  assert tanhs(grads_of) == DEPTH
