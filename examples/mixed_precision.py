"""Half precision: bfloat16, and float16 with its losses scaled.

The params that are trained, the masters, stay float32; forward and backward
pass run in half precision. Gradients of float16 vanish below 6e-8, so the
losses are multiplied by a scale first, and the gradients divided by it in
float32, before the method: its state and its weights know nothing of the
scale. Where a gradient overflows all the same, the step is left out and the
scale halved.
"""

import digits
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl

TASKS = len(digits.TASKS)


def to(dtype, tree):
  return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def train(dtype, first_scale: float = 1.0):
  data = digits.load()
  # `skip_nonfinite` keeps the whole state from a step that is not finite.
  tx = optax_mtl.skip_nonfinite(
    optax.chain(optax_mtl.mgda(num_tasks=TASKS), optax.adam(3e-3))
  )

  @jax.jit
  def train_step(params, opt_state, scale, good, batch):
    def loss_fn(half):
      # Losses in float32: sums over a batch lose digits in half precision.
      losses = to(jnp.float32, digits.plain_losses(half, batch))
      return jax.tree.map(lambda loss: loss * scale, losses), losses

    # The aux holds the losses as they are.
    (_, losses), grads = optax_mtl.value_and_task_grads(loss_fn, has_aux=True)(
      to(dtype, params)
    )
    grads = jax.tree.map(lambda g: g / scale, to(jnp.float32, grads))
    updates, opt_state = tx.update(grads, opt_state, params, losses=losses)
    params = optax.apply_updates(params, updates)

    finite = jnp.all(
      jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)])
    )
    good = jnp.where(finite, good + 1, 0)
    # After 100 good steps in a row twice the scale is tried.
    scale = jnp.where(finite, jnp.where(good % 100 == 0, 2, 1), 0.5) * scale
    return params, opt_state, scale, good, losses

  params = digits.init_plain(jax.random.key(0))
  opt_state, good = tx.init(params), jnp.zeros((), jnp.int32)
  scale = jnp.asarray(first_scale, jnp.float32)
  skipped = 0
  for step, batch in enumerate(digits.batches(data, num_steps=201)):
    batch["image"] = batch["image"].astype(dtype)
    before = scale
    params, opt_state, scale, good, losses = train_step(
      params, opt_state, scale, good, batch
    )
    skipped += int(scale < before)
    if step % 100 == 0:
      digits.report(step, losses)
  kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
  print(f"           masters {kinds}, {skipped} steps left out")
  return np.array([losses[task] for task in digits.TASKS])


def main():
  print("float32:")
  right = train(jnp.float32)
  print("bfloat16:")
  half = train(jnp.bfloat16)
  print("float16, from a scale that is too large:")
  scaled = train(jnp.float16, first_scale=2.0**20)
  far = max(np.abs(half - right).max(), np.abs(scaled - right).max())
  print(f"all within {far:.2f} of float32's losses")


if __name__ == "__main__":
  main()
