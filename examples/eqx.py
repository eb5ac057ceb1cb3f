"""Equinox: differentiate the arrays of a module, as always.

A model is a tree that also holds functions. `eqx.partition` takes the arrays
out; those are the params.
"""

import digits
import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import optax_mtl

HEADS = {"digit": 10, "even": 2, "ink": 1}


class Network(eqx.Module):
  trunk: eqx.nn.MLP
  heads: dict[str, eqx.nn.Linear]

  def __init__(self, key):
    keys = jax.random.split(key, 1 + len(HEADS))
    self.trunk = eqx.nn.MLP(
      64, 64, 64, depth=1, final_activation=jax.nn.relu, key=keys[0]
    )
    self.heads = {
      task: eqx.nn.Linear(64, size, key=key)
      for (task, size), key in zip(HEADS.items(), keys[1:], strict=True)
    }

  def __call__(self, image):
    z = self.trunk(jnp.ravel(image))
    return {task: head(z) for task, head in self.heads.items()}


def shared(params):
  """A tree like the params: True in the trunk, False in the heads."""
  mask = jax.tree.map(lambda leaf: True, params)
  heads = jax.tree.map(lambda leaf: False, params.heads)
  return eqx.tree_at(lambda params: params.heads, mask, heads)


def main():
  data = digits.load()
  params, static = eqx.partition(
    Network(jax.random.key(0)), eqx.is_inexact_array
  )
  tx = optax.chain(optax_mtl.gradnorm(num_tasks=3), optax.adam(3e-3))
  opt_state = tx.init(params)

  def loss_fn(params, batch):
    network = eqx.combine(params, static)
    return digits.losses_of(jax.vmap(network)(batch["image"]), batch)

  @jax.jit
  def train_step(params, opt_state, batch):
    losses, grads = optax_mtl.value_and_task_grads(loss_fn, shared=shared)(
      params, batch
    )
    updates, opt_state = tx.update(grads, opt_state, params, losses=losses)
    return eqx.apply_updates(params, updates), opt_state, losses

  for step, batch in enumerate(digits.batches(data, num_steps=151)):
    params, opt_state, losses = train_step(params, opt_state, batch)
    if step % 50 == 0:
      digits.report(step, losses)
  weights = optax.tree.get(opt_state, "weights")
  print("last weights of the trunk:", weights.round(3))


if __name__ == "__main__":
  main()
