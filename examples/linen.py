"""Flax linen: a train state, BatchNorm statistics through `has_aux`, dropout.

The statistics come out of the one forward pass that all tasks share, so they
move once a step, however many tasks there are; and all tasks see the same units
dropped out.
"""

from typing import Any

import digits
import flax.linen as nn
import jax
import optax

import optax_mtl
from optax_mtl.integrations.flax import TrainState


class Network(nn.Module):
  @nn.compact
  def __call__(self, images):
    z = nn.Conv(16, (3, 3), name="conv")(images)
    z = nn.relu(nn.BatchNorm(use_running_average=False, name="norm")(z))
    z = nn.relu(nn.Dense(64, name="dense")(z.reshape(len(z), -1)))
    z = nn.Dropout(0.2, deterministic=False)(z)
    return {
      "digit": nn.Dense(10, name="head_digit")(z),
      "even": nn.Dense(2, name="head_even")(z),
      "ink": nn.Dense(1, name="head_ink")(z),
    }


class State(TrainState):
  batch_stats: Any


def shared(params):
  """The trunk is every layer whose name does not say that it is a head."""
  return {name: not name.startswith("head") for name in params}


@jax.jit
def train_step(state, batch):
  def loss_fn(params):
    outputs, new = state.apply_fn(
      {"params": params, "batch_stats": state.batch_stats},
      batch["image"],
      mutable=["batch_stats"],
      # Another mask at each step.
      rngs={"dropout": jax.random.fold_in(jax.random.key(1), state.step)},
    )
    return digits.losses_of(outputs, batch), new["batch_stats"]

  (losses, batch_stats), grads = optax_mtl.value_and_task_grads(
    loss_fn, has_aux=True, shared=shared
  )(state.params)
  # Names of fields replace those fields; all others go to the method.
  state = state.apply_gradients(
    grads=grads, losses=losses, batch_stats=batch_stats
  )
  return state, losses


def main():
  data = digits.load()
  network = Network()
  variables = network.init(
    {"params": jax.random.key(0), "dropout": jax.random.key(1)},
    data["image"][:1],
  )
  state = State.create(
    apply_fn=network.apply,
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    tx=optax.chain(optax_mtl.mgda(num_tasks=3), optax.adam(3e-3)),
  )
  for step, batch in enumerate(digits.batches(data, num_steps=101)):
    state, losses = train_step(state, batch)
    if step % 25 == 0:
      digits.report(step, losses)
  weights = optax.tree.get(state.opt_state, "weights")
  print("last weights of the trunk:", weights.round(3))
  mean = state.batch_stats["norm"]["mean"]
  print("BatchNorm's running means of the first channels:", mean[:3].round(3))


if __name__ == "__main__":
  main()
