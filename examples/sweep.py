"""A grid search over fixed weights as one jitted training run.

`optax.inject_hyperparams` puts the weights into the state, so `vmap` can give
each run weights of its own. All runs see the same batches.
"""

import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl

NUM_STEPS = 150


def init(key):
  trunk, head = jax.random.split(key)
  return {
    "trunk": jax.random.normal(trunk, (64, 16)) / 8,
    "head": jax.random.normal(head, (16, 11)) / 4,
  }


def loss_fn(params, batch):
  images = batch["image"].reshape(len(batch["image"]), -1)
  z = jax.nn.relu(images @ params["trunk"])
  out = z @ params["head"]
  outputs = {"digit": out[:, :10], "ink": out[:, 10:]}
  # Two of the three tasks: they compete for the 16 units of the trunk.
  losses = digits.losses_of(outputs | {"even": out[:, :2]}, batch)
  return {"digit": losses["digit"], "ink": losses["ink"]}


def make_tx(weights):
  method = optax.inject_hyperparams(
    optax_mtl.fixed_weighting, static_args=("num_tasks",)
  )(num_tasks=2, weights=weights)
  return optax.chain(method, optax.adam(3e-3))


def main():
  data = digits.load()
  order = np.random.default_rng(0).permutation(len(data["image"]))
  train = {key: value[order[:1300]] for key, value in data.items()}
  test = {key: value[order[1300:]] for key, value in data.items()}
  steps = list(digits.batches(train, NUM_STEPS))
  batches = {key: np.stack([b[key] for b in steps]) for key in train}

  on_digit = jnp.linspace(0.05, 0.95, 7)
  grid = jnp.stack([on_digit, 1 - on_digit], axis=1)
  tx = make_tx(grid[0])

  @jax.jit
  @jax.vmap
  def run(weights):
    params = init(jax.random.key(0))
    state = make_tx(weights).init(params)

    def step(carry, batch):
      params, state = carry
      _, grads = optax_mtl.value_and_task_grads(loss_fn)(params, batch)
      # The weights come from the state, whichever `tx` was built with.
      updates, state = tx.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, state), batches)
    return loss_fn(params, test)

  losses = run(grid)
  print("weights (digit, ink) -> losses on held-out data")
  for i, (a, b) in enumerate(grid):
    print(
      f"  {a:.2f} {b:.2f}  ->  digit {losses['digit'][i]:.4f}"
      f"  ink {losses['ink'][i]:.4f}"
    )


if __name__ == "__main__":
  main()
