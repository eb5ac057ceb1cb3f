"""What does a model's own gradient say? Three models, three answers."""

import digits
import jax
import jax.numpy as jnp
import numpy as np
import pinn

import optax_mtl


def three_tasks():
  """Digits: a trunk that is known, and a head for each task."""

  def trunk(params, batch):
    images = batch["image"].reshape(len(batch["image"]), -1)
    return jax.nn.relu(images @ params["trunk"])

  def heads(params, z, batch):
    outputs = {task: z @ params[task] for task in digits.TASKS}
    return digits.losses_of(outputs, batch)

  keys = jax.random.split(jax.random.key(0), 4)
  shapes = {"trunk": (64, 64), "digit": (64, 10), "even": (64, 2)}
  shapes["ink"] = (64, 1)
  params = {
    name: jax.random.normal(key, shape) / np.sqrt(shape[0])
    for key, (name, shape) in zip(keys, shapes.items(), strict=True)
  }
  batches = list(digits.batches(digits.load(), num_steps=16))
  return (trunk, heads), params, batches


def equation():
  """The residual and the boundary of a differential equation."""
  terms = {"residual": pinn.residual, "boundary": pinn.boundary}
  rng = np.random.default_rng(0)
  batches = [
    {
      "residual": jnp.asarray(rng.uniform(size=64), jnp.float32),
      "boundary": jnp.array([0.0, 1.0]),
    }
    for _ in range(8)
  ]
  return terms, pinn.init(jax.random.key(0)), batches


def opposed():
  """One output for two readers, who want it elsewhere."""

  def losses(params, x):
    out = jnp.tanh(x @ params["hidden"]) @ params["out"]
    wanted = jnp.sin(x[:, :1])
    return {
      "left": jnp.mean((out - wanted - 1) ** 2),
      "right": jnp.mean((out - wanted + 1) ** 2),
    }

  hidden, out = jax.random.split(jax.random.key(0))
  params = {
    "hidden": jax.random.normal(hidden, (4, 32)) / 2,
    "out": jax.random.normal(out, (32, 1)) / 8,
  }
  rng = np.random.default_rng(0)
  batches = [
    jnp.asarray(1 + rng.normal(size=(128, 4)), "float32") for _ in range(8)
  ]
  return losses, params, batches


def main():
  for model in (three_tasks, equation, opposed):
    print(f"--- {model.__doc__}\n")
    # Timing compiles an update for each source: here for one model.
    costs = model is three_tasks
    print(optax_mtl.diagnose(*model(), costs=costs), "\n")


if __name__ == "__main__":
  main()
