"""A physics-informed network from start to end, in Equinox.

The problem is that of `pinn.py`: `u'' = f` on [0, 1], with `u` given at both
ends. The network is a module on scalars, as Equinox's users write it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import optax_mtl

NUM_STEPS = 2000


def solution(x):
  return jnp.sin(4 * jnp.pi * x)


def glorot(network, key):
  """The network with Glorot normal kernels, and biases of zero."""
  draw = jax.nn.initializers.glorot_normal(in_axis=-1, out_axis=-2)

  def redrawn(layer, key):
    new = draw(key, layer.weight.shape), jnp.zeros_like(layer.bias)
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, new)

  keys = jax.random.split(key, len(network.layers))
  layers = tuple(map(redrawn, network.layers, keys))
  return eqx.tree_at(lambda network: network.layers, network, layers)


def make_losses(static):
  """Each loss is a function of its own, on points [N] of its own."""

  def u(params, x):
    return eqx.combine(params, static)(4 * x[None] - 2)[0]

  def residual(params, points):
    def u_x(x):
      return jax.jvp(lambda x: u(params, x), (x,), (jnp.ones_like(x),))[1]

    def at(x):
      u_xx = jax.jvp(u_x, (x,), (jnp.ones_like(x),))[1]
      return u_xx + (4 * jnp.pi) ** 2 * solution(x)

    return jnp.mean(jax.vmap(at)(points) ** 2)

  def boundary(params, points):
    values = jax.vmap(lambda x: u(params, x))(points)
    return jnp.mean((values - solution(points)) ** 2)

  return {"residual": residual, "boundary": boundary}


def train(method):
  """Trains with a method, and returns the relative L2 error."""
  network = eqx.nn.MLP(1, 1, 32, 2, jnp.tanh, key=jax.random.key(0))
  network = glorot(network, jax.random.key(0))
  params, static = eqx.partition(network, eqx.is_inexact_array)
  rate = optax.cosine_decay_schedule(3e-3, NUM_STEPS)
  tx = optax.chain(method, optax.adam(rate))
  value_and_grads = optax_mtl.value_and_task_batch_grads(make_losses(static))

  @jax.jit
  def train_step(params, opt_state, step):
    key = jax.random.fold_in(jax.random.key(1), step)
    batches = {
      "residual": (jax.random.uniform(key, (64,)),),
      "boundary": (jnp.array([0.0, 1.0]),),
    }
    losses, grads = value_and_grads(params, batches)
    updates, opt_state = tx.update(grads, opt_state, params, losses=losses)
    return eqx.apply_updates(params, updates), opt_state

  opt_state = tx.init(params)
  for step in range(NUM_STEPS):
    params, opt_state = train_step(params, opt_state, step)
  x = jnp.linspace(0, 1, 201)
  found = jax.vmap(eqx.combine(params, static))(4 * x[:, None] - 2)[:, 0]
  error = jnp.linalg.norm(found - solution(x))
  return error / jnp.linalg.norm(solution(x))


def main():
  # As jaxpi does it: each loss by the inverse norm of its gradient, averaged,
  # and computed anew every hundredth step.
  inverse = optax_mtl.norm_balance(
    num_tasks=2, **optax_mtl.NORM_BALANCE_SETTINGS["jaxpi"]
  )
  balanced = train(optax_mtl.refresh_every(inverse, 100, first=1))
  equal = train(optax_mtl.equal_weighting(num_tasks=2))
  print(f"relative error, equal weights: {equal:.4f}")
  print(f"relative error, inverse norms: {balanced:.4f}")
  print(f"equal weights / inverse norms: {equal / balanced:.0f}")


if __name__ == "__main__":
  main()
