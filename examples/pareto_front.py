"""A whole Pareto front in one jitted computation.

The preference is an extra arg of the update, so `vmap` over preferences, and
over params and states with them, trains all the solutions side by side. The
problem is the one on which papers show that weighing the losses does not do:
its front is concave, so every weighted sum ends up at one of its ends.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl

NUM_PREFERENCES, DIM, NUM_STEPS = 10, 20, 400


def loss_fn(x):
  """Two losses in [0, 1), small near (1, ..., 1)/√d and its opposite."""
  center = 1 / np.sqrt(DIM)
  return [
    1 - jnp.exp(-jnp.sum((x - center) ** 2)),
    1 - jnp.exp(-jnp.sum((x + center) ** 2)),
  ]


def train_one(tx, start, **extra_args):
  """The losses [2] after training from one start."""

  def step(carry, _):
    x, state = carry
    losses, grads = optax_mtl.value_and_task_grads(loss_fn)(x)
    updates, state = tx.update(grads, state, x, losses=losses, **extra_args)
    return (optax.apply_updates(x, updates), state), None

  (x, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=NUM_STEPS)
  return jnp.stack(loss_fn(x))


def main():
  directions = optax_mtl.pareto.uniform_directions(NUM_PREFERENCES)
  directions = jnp.asarray(directions, jnp.float32)
  starts = jax.random.uniform(
    jax.random.key(0), (NUM_PREFERENCES, DIM), minval=-0.5, maxval=0.5
  )

  @jax.jit
  @jax.vmap
  def pareto_mtl(start, preference):
    method = optax_mtl.pareto_mtl(
      2, directions, feasibility_steps=NUM_STEPS // 5
    )
    tx = optax.chain(method, optax.sgd(1.0))
    return train_one(tx, start, preference=preference)

  @jax.jit
  @jax.vmap
  def weighted_sum(start, preference):
    method = optax_mtl.fixed_weighting(2, preference / preference.sum())
    return train_one(optax.chain(method, optax.sgd(1.0)), start)

  for name, train in (
    ("Pareto MTL", pareto_mtl),
    ("weighted sum", weighted_sum),
  ):
    losses = train(starts, directions)
    volume = optax_mtl.pareto.hypervolume_2d(losses, jnp.ones(2))
    print(f"{name}: hypervolume {volume:.4f} (the whole front: 0.3421)")
    for direction, pair in zip(directions, losses, strict=True):
      angle = np.degrees(np.arctan2(direction[1], direction[0]))
      got = np.degrees(np.arctan2(pair[1], pair[0]))
      print(
        f"  wanted at {angle:4.1f} degrees, found at {got:4.1f}: "
        f"losses {pair[0]:.3f} {pair[1]:.3f}"
      )


if __name__ == "__main__":
  main()
