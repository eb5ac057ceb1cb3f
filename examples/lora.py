"""A transformer with LoRA params: `lax.scan` over layers, `jax.checkpoint`.

The rows of a digit are its tokens. The base is frozen, so it is no param at
all: it is another argument of the loss, and has no gradients. What is trained
is a matrix of low rank beside each layer's own, which is the tasks' trunk, and
their heads. Each layer is computed again in the backward pass, once for each
task.
"""

import digits
import jax
import jax.numpy as jnp
import optax

import optax_mtl

LAYERS, TOKENS, WIDTH, RANK = 4, 8, 32, 4


def init(key):
  """The frozen base, and the params; leaves of layers are [LAYERS, ...]."""
  keys = jax.random.split(key, 6)
  normal = jax.random.normal
  base = {
    "embed": normal(keys[0], (8, WIDTH)) / 3,
    "place": normal(keys[1], (TOKENS, WIDTH)) / 3,
    "qkv": normal(keys[2], (LAYERS, WIDTH, 3 * WIDTH)) / WIDTH**0.5,
    "out": normal(keys[3], (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5,
  }
  params = {
    "lora": {
      "down": normal(keys[4], (LAYERS, WIDTH, RANK)) / WIDTH**0.5,
      "up": jnp.zeros(
        (LAYERS, RANK, 3 * WIDTH)
      ),  # At first the base is as it is.
    },
    "heads": {
      "digit": normal(keys[5], (WIDTH, 10)) / WIDTH**0.5,
      "even": jnp.zeros((WIDTH, 2)),
      "ink": jnp.zeros((WIDTH, 1)),
    },
  }
  return base, params


@jax.checkpoint
def layer(h, weights):
  """Attention of all tokens to all, with one head."""
  normed = h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)
  qkv = normed @ (weights["qkv"] + weights["down"] @ weights["up"])
  q, k, v = jnp.split(qkv, 3, axis=-1)
  scores = q @ k.swapaxes(-1, -2) / WIDTH**0.5
  return h + jax.nn.softmax(scores) @ v @ weights["out"], None


def loss_fn(params, base, batch):
  h = batch["image"][..., 0] @ base["embed"] + base["place"]
  weights = {"qkv": base["qkv"], "out": base["out"], **params["lora"]}
  h, _ = jax.lax.scan(layer, h, weights)
  z = jnp.mean(h, axis=1)
  outputs = {task: z @ head for task, head in params["heads"].items()}
  return digits.losses_of(outputs, batch)


def main():
  data = digits.load()
  base, params = init(jax.random.key(0))
  tx = optax.chain(optax_mtl.upgrad(num_tasks=3), optax.adam(1e-2))
  state = tx.init(params)
  # Trained are the first argument's leaves alone: the base is the second.
  task_grads = optax_mtl.value_and_task_grads(
    loss_fn, shared={"lora": True, "heads": False}
  )

  @jax.jit
  def train_step(params, state, batch):
    losses, grads = task_grads(params, base, batch)
    updates, state = tx.update(grads, state, params, losses=losses)
    return optax.apply_updates(params, updates), state, losses

  for step, batch in enumerate(digits.batches(data, num_steps=101)):
    params, state, losses = train_step(params, state, batch)
    if step % 50 == 0:
      digits.report(step, losses)
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
  print(f"trained: {count(params)} numbers beside {count(base)} frozen ones")


if __name__ == "__main__":
  main()
