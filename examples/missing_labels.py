"""Labels that single samples lack, and batches too small for one update.

Each loss is the mean over the labels that are there, and a task without any in
a batch takes no part in it: its mean is of nothing, and is kept from being NaN.
`accumulate` averages over four small batches; with the number of labels that
each mean is over, `counts=`, that is the mean over all labels, as of one batch.
"""

import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl

BATCHES, SIZE = 4, 32


def add_missing(batch, rng):
  """`has` [N] of bool a task; of `digit` one label in sixteen is there."""
  share = {"digit": 1 / 16, "even": 1 / 2, "ink": 1.0}
  has = {t: rng.random(len(batch["image"])) < share[t] for t in digits.TASKS}
  return batch | {"has": has}


def loss_fn(params, batch):
  """The means over the labels that are there, and how many there are."""
  # The losses of single samples: means over batches of one.
  one_by_one = jax.vmap(
    lambda sample: digits.plain_losses(
      params, jax.tree.map(lambda x: x[None], sample)
    )
  )
  samples = one_by_one({k: batch[k] for k in ("image", *digits.TASKS)})
  counts = {t: jnp.sum(has) for t, has in batch["has"].items()}
  losses = {
    # Chosen before the sum: a label that is not there may be NaN.
    t: jnp.sum(jnp.where(batch["has"][t], samples[t], 0.0))
    / jnp.maximum(counts[t], 1)
    for t in samples
  }
  return losses, counts


task_grads = optax_mtl.value_and_task_grads(
  loss_fn, has_aux=True, shared={"trunk": True, "heads": False}
)


def train(tx, batches, with_counts=True):
  params = digits.init_plain(jax.random.key(0))
  state = tx.init(params)

  @jax.jit
  def train_step(params, state, batch):
    (losses, counts), grads = task_grads(params, batch)
    # Without `counts=`, absent tasks have to be named by `active=` [T].
    active = jnp.stack([counts[t] > 0 for t in digits.TASKS])
    extra = {"counts": counts} if with_counts else {"active": active}
    updates, state = tx.update(grads, state, params, losses=losses, **extra)
    return optax.apply_updates(params, updates), state

  for batch in batches:
    params, state = train_step(params, state, batch)
  return params


def main():
  rng, data = np.random.default_rng(0), digits.load()
  large = [
    add_missing(batch, rng)
    for batch in digits.batches(data, num_steps=50, size=BATCHES * SIZE)
  ]
  small = [
    jax.tree.map(lambda x, i=i: x[i * SIZE : (i + 1) * SIZE], batch)
    for batch in large
    for i in range(BATCHES)
  ]
  chain = optax.chain(optax_mtl.mgda(num_tasks=3), optax.sgd(0.05))
  whole = train(chain, large, with_counts=False)
  parts = optax_mtl.accumulate(chain, num_tasks=3, every_k=BATCHES)

  def far(params):
    differences = jax.tree.map(
      lambda a, b: jnp.max(jnp.abs(a - b)), params, whole
    )
    return max(map(float, jax.tree.leaves(differences)))

  print("params after 50 updates, four small batches against one large one:")
  print(f"  with counts=    {far(train(parts, small)):.0e} apart")
  without = far(train(parts, small, with_counts=False))
  print(f"  without counts= {without:.0e} apart")
  digits.report(50, digits.plain_losses(whole, data))


if __name__ == "__main__":
  main()
