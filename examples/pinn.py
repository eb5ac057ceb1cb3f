"""A physics-informed network from start to end, in plain JAX.

`u'' = f` on [0, 1], with `u` given at both ends. The equation's residual takes
two derivatives of a wave, so its gradient is some four hundred times as long as
the boundary's. With equal weights Adam follows the equation, which the solution
plus any straight line solves as well, and the ends stay where they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl

NUM_STEPS = 2000
WIDTHS = (1, 32, 32, 1)


def solution(x):
  return jnp.sin(4 * jnp.pi * x)


def source(x):
  return -((4 * jnp.pi) ** 2) * solution(x)


def init(key):
  pairs = list(zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
  keys = jax.random.split(key, len(pairs))
  return [
    {
      "w": jax.random.normal(key, (a, b)) * np.sqrt(2 / (a + b)),
      "b": jnp.zeros(b),
    }
    for key, (a, b) in zip(keys, pairs, strict=True)
  ]


def u(params, x):
  """The network at one point, a scalar."""
  z = 4 * x[None] - 2
  for layer in params[:-1]:
    z = jnp.tanh(z @ layer["w"] + layer["b"])
  return (z @ params[-1]["w"] + params[-1]["b"])[0]


def second_derivative(fun, x):
  """Forward over forward: cheaper here than `jax.grad` of `jax.grad`."""
  slope = lambda x: jax.jvp(fun, (x,), (jnp.ones_like(x),))[1]  # noqa: E731
  return jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]


# Each loss is a function of its own, on points of its own.
def residual(params, points):
  u_xx = jax.vmap(lambda x: second_derivative(lambda x: u(params, x), x))
  return jnp.mean((u_xx(points) - source(points)) ** 2)


def boundary(params, points):
  values = jax.vmap(lambda x: u(params, x))(points)
  return jnp.mean((values - solution(points)) ** 2)


def sample(key):
  """A step's points, for each loss the arguments after the params."""
  inside = jax.random.uniform(key, (64,))
  return {"residual": (inside,), "boundary": (jnp.array([0.0, 1.0]),)}


def train(method):
  """Trains with a method, and returns the relative L2 error."""
  rate = optax.cosine_decay_schedule(3e-3, NUM_STEPS)
  tx = optax.chain(method, optax.adam(rate))
  value_and_grads = optax_mtl.value_and_task_batch_grads(
    {"residual": residual, "boundary": boundary}
  )

  def step(carry, key):
    params, opt_state = carry
    losses, grads = value_and_grads(params, sample(key))
    updates, opt_state = tx.update(grads, opt_state, params, losses=losses)
    return (optax.apply_updates(params, updates), opt_state), losses

  @jax.jit
  def run(params, keys):
    return jax.lax.scan(step, (params, tx.init(params)), keys)

  params = init(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), NUM_STEPS)
  (params, _), _ = run(params, keys)
  x = jnp.linspace(0, 1, 201)
  found = jax.vmap(lambda x: u(params, x))(x)
  return jnp.linalg.norm(found - solution(x)) / jnp.linalg.norm(solution(x))


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
