"""What terms cost: operations and memory of the compiled program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import AS_USERS
from small_networks import normal
from test_terms import (
  FORMS,
  PARAMS,
  TERMS,
  WEIGHTS,
  boundary,
  decay,
  pde,
)

import optax_mtl
from optax_mtl.sources import as_task_gradients


def flops(function, *args):
  """FLOPs of the compiled program; of branches, the one that has most."""
  program = jax.jit(function).lower(*args).compile()
  return program.cost_analysis()["flops"]


def large():
  """Params and batches at which losses and gradients are what costs."""
  params = PARAMS | {"net": [normal(0, 2, 64), normal(1, 64, 1)]}
  points = {"x": normal(4, 2048, 2), "u": normal(5, 2048)}
  batches = {"pde": (normal(2, 256, 2), normal(3, 256)), "boundary": points}
  return params, batches | {"decay": ()}


def summed(params, batches):
  """The loss of who weighs nothing."""
  total = pde(params, *batches["pde"]) + decay(params)
  if "boundary" in batches:
    total += boundary(params, batches["boundary"])
  return total


@pytest.mark.parametrize("form", ["stacked", "trunk", "implicit"])
def test_a_step_costs_what_the_summed_loss_costs(form):
  """FLOPs within 5 %, also where a term is absent."""
  grads_of = optax_mtl.value_and_task_batch_grads(TERMS, **FORMS[form])
  params, batches = large()
  without = {name: b for name, b in batches.items() if name != "boundary"}

  def step(params, batches):
    losses, grads = grads_of(params, batches)
    grads = as_task_gradients(grads, 3, params)
    return losses, grads.combine(WEIGHTS)

  for chosen in (batches, without):
    plain = flops(jax.value_and_grad(summed), params, chosen)
    np.testing.assert_allclose(flops(step, params, chosen), plain, rtol=0.05)


def dearest_term(params, batches):
  """FLOPs of the gradient that costs most; which that is, compilers decide."""
  return max(
    flops(jax.grad(pde), params, *batches["pde"]),
    flops(jax.grad(boundary), params, batches["boundary"]),
  )


def test_one_term_of_several_costs_one_term():
  """Forward and backward of the dearest, where nothing else is asked for."""
  grads_of = optax_mtl.value_and_task_batch_grads(TERMS, source="implicit")
  params, batches = large()

  def one(params, batches, task):
    return grads_of(params, batches)[1].gradient_of(task)

  def both(params, batches, task):
    losses, grads = grads_of(params, batches)
    return losses, grads.gradient_of(task)

  dearest = dearest_term(params, batches)
  everything = flops(jax.value_and_grad(summed), params, batches)
  got = flops(one, params, batches, 0)
  np.testing.assert_allclose(got, dearest, rtol=0.05)
  assert dearest < 0.9 * everything
  # With the losses of all terms, their forward passes.
  assert flops(both, params, batches, 0) < dearest + everything / 2


def test_pairs_of_gradients_are_all_that_is_held():
  """Temp memory of the Gram matrix at T = 16, in the params' size."""
  width = 256
  terms = {
    f"{t}": lambda p, x, t=t: jnp.mean(jnp.square(x @ p) * (t + 1))
    for t in range(16)
  }

  def gram(source, params, batches):
    _, grads = optax_mtl.value_and_task_batch_grads(terms, source=source)(
      params, batches
    )
    return as_task_gradients(grads, 16, params).gram()

  def memory(source):
    run = jax.jit(functools.partial(gram, source))
    params = jax.ShapeDtypeStruct((width, width), jnp.float32)
    batch = jax.ShapeDtypeStruct((2, width), jnp.float32)
    program = run.lower(params, dict.fromkeys(terms, batch)).compile(AS_USERS)
    return program.memory_analysis().temp_size_in_bytes / (4 * width**2)

  # Two gradients, and what the loops and the branch carry, whatever T.
  assert memory("implicit") < 8 < 16 <= memory("stacked")


def test_the_means_of_terms_are_pulled_back_once():
  """With room for all: FLOPs of each part, and the sums over the parts.

  Those are 7 % here; a backward pass for each column would be 200 %.
  """
  params, batches = large()
  options = FORMS["implicit"] | {"chunk_size": 2}

  def gram(axis_name, params, batches):
    _, grads = optax_mtl.value_and_task_batch_grads(
      TERMS, axis_name=axis_name, **options
    )(params, batches)
    return grads.gram()

  parts = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batches)
  means = jax.vmap(functools.partial(gram, "data"), (None, 0), axis_name="data")
  np.testing.assert_allclose(
    flops(means, params, parts),
    2 * flops(functools.partial(gram, None), params, batches),
    rtol=0.1,
  )


def test_m_config_takes_the_gradient_of_one_term():
  """And the losses of all of them, as `gradient_of` by itself."""
  grads_of = optax_mtl.value_and_task_batch_grads(TERMS, **FORMS["implicit"])
  params, batches = large()
  tx = optax_mtl.m_config(3)

  def step(params, state, batches):
    losses, grads = grads_of(params, batches)
    return losses, tx.update(grads, state, params)

  dearest = dearest_term(params, batches)
  everything = flops(jax.value_and_grad(summed), params, batches)
  # The momenta are small beside the points.
  assert flops(step, params, tx.init(params), batches) < (
    dearest + everything / 2
  )
