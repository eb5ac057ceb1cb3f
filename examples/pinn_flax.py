"""A physics-informed network from start to end, in Flax linen.

The problem is that of `pinn.py`: `u'' = f` on [0, 1], with `u` given at both
ends. The losses go into the train state's `apply_gradients`, so that a method
which reads them can take the place of this one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import optax_mtl
from optax_mtl.integrations.flax import TrainState

NUM_STEPS = 2000


class Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    z = 4 * x[..., None] - 2
    for _ in range(2):
      z = nn.tanh(nn.Dense(32, kernel_init=nn.initializers.glorot_normal())(z))
    return nn.Dense(1, kernel_init=nn.initializers.glorot_normal())(z)[..., 0]


NETWORK = Network()


def solution(x):
  return jnp.sin(4 * jnp.pi * x)


# Each loss is a function of its own, on points [N] of its own.
def residual(params, points):
  """`u''` by forward over forward mode, at all points at once."""

  def u(x):
    return NETWORK.apply(params, x)

  def u_x(x):
    return jax.jvp(u, (x,), (jnp.ones_like(x),))[1]

  u_xx = jax.jvp(u_x, (points,), (jnp.ones_like(points),))[1]
  return jnp.mean((u_xx + (4 * jnp.pi) ** 2 * solution(points)) ** 2)


def boundary(params, points):
  return jnp.mean((NETWORK.apply(params, points) - solution(points)) ** 2)


@jax.jit
def train_step(state):
  key = jax.random.fold_in(jax.random.key(1), state.step)
  value_and_grads = optax_mtl.value_and_task_batch_grads(
    {"residual": residual, "boundary": boundary}
  )
  batches = {
    "residual": (jax.random.uniform(key, (64,)),),
    "boundary": (jnp.array([0.0, 1.0]),),
  }
  losses, grads = value_and_grads(state.params, batches)
  return state.apply_gradients(grads=grads, losses=losses), losses


def train(method):
  """Trains with a method, and returns the relative L2 error."""
  rate = optax.cosine_decay_schedule(3e-3, NUM_STEPS)
  state = TrainState.create(
    apply_fn=NETWORK.apply,
    params=NETWORK.init(jax.random.key(0), jnp.zeros(1)),
    tx=optax.chain(method, optax.adam(rate)),
  )
  for _ in range(NUM_STEPS):
    state, losses = train_step(state)
  print("last losses:", {k: f"{loss:.2g}" for k, loss in losses.items()})
  x = jnp.linspace(0, 1, 201)
  error = state.apply_fn(state.params, x) - solution(x)
  return jnp.linalg.norm(error) / jnp.linalg.norm(solution(x))


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
