"""Batches in which some task has no label at all.

Each batch here lacks the labels of one task, drawn at random. `active` [T] says
which tasks a batch has; it is an array, so nothing is compiled again.
"""

import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl


def init(key):
  keys = jax.random.split(key, 4)
  dense = lambda key, a, b: {  # noqa: E731
    "w": jax.random.normal(key, (a, b)) / np.sqrt(a),
    "b": jnp.zeros((1, b)),
  }
  return {
    "trunk": dense(keys[0], 64, 64),
    "heads": {
      "digit": dense(keys[1], 64, 10),
      "even": dense(keys[2], 64, 2),
      "ink": dense(keys[3], 64, 1),
    },
  }


def loss_fn(params, batch):
  apply = lambda layer, x: x @ layer["w"] + layer["b"]  # noqa: E731
  images = batch["image"].reshape(len(batch["image"]), -1)
  z = jax.nn.relu(apply(params["trunk"], images))
  outputs = {task: apply(head, z) for task, head in params["heads"].items()}
  losses = digits.losses_of(outputs, batch)
  # The loss of a task without labels is whatever the data set says: zero here.
  return {
    task: jnp.where(batch["active"][i], losses[task], 0.0)
    for i, task in enumerate(digits.TASKS)
  }


def train(use_active: bool):
  data = digits.load()
  tx = optax.chain(optax_mtl.mgda(num_tasks=3), optax.adam(3e-3))
  # Which leaves are the trunk is a fact of the model: the source is told.
  value_and_grads = optax_mtl.value_and_task_grads(
    loss_fn, shared={"trunk": True, "heads": False}
  )
  params = init(jax.random.key(0))
  opt_state = tx.init(params)

  @jax.jit
  def train_step(params, opt_state, batch):
    losses, grads = value_and_grads(params, batch)
    extra = {"active": batch["active"]} if use_active else {}
    updates, opt_state = tx.update(
      grads, opt_state, params, losses=losses, **extra
    )
    return optax.apply_updates(params, updates), opt_state

  rng = np.random.default_rng(1)
  start = params["trunk"]["w"]
  for batch in digits.batches(data, num_steps=300):
    batch["active"] = np.arange(3) != rng.integers(3)
    params, opt_state = train_step(params, opt_state, batch)
  losses = loss_fn(params, data | {"active": np.ones(3, bool)})
  digits.report(300, losses)
  moved = jnp.linalg.norm(params["trunk"]["w"] - start)
  print(f"           the trunk moved by {moved:.3f}")


def main():
  print("with active=, on all labels:")
  train(use_active=True)
  # A task with a zero gradient makes MGDA's min-norm point zero.
  print("without it, an absent task keeps the trunk from moving:")
  train(use_active=False)


if __name__ == "__main__":
  main()
