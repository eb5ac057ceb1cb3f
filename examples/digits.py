"""The problem that the examples train on: three tasks on handwritten digits.

Which digit it is (ten classes), whether it is even (two classes), and how much
ink it took (a number).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

# The order of the rows, as JAX flattens a dict of losses: sorted.
TASKS = ("digit", "even", "ink")


def load() -> dict[str, np.ndarray]:
  """1,797 examples: `image` [N, 8, 8, 1], and a label [N] for each task."""
  images, digit = load_digits(return_X_y=True)
  ink = images.mean(axis=1)
  return {
    "image": (images / 16).reshape(-1, 8, 8, 1).astype(np.float32),
    "digit": digit.astype(np.int32),
    "even": (digit % 2 == 0).astype(np.int32),
    "ink": ((ink - ink.mean()) / ink.std()).astype(np.float32),
  }


def batches(data, num_steps: int, size: int = 128, seed: int = 0):
  """Batches drawn at random."""
  rng = np.random.default_rng(seed)
  for _ in range(num_steps):
    rows = rng.integers(len(data["image"]), size=size)
    yield {key: value[rows] for key, value in data.items()}


def losses_of(outputs, batch):
  """One scalar a task, from `digit` [N, 10], `even` [N, 2] and `ink` [N, 1]."""
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  return {
    "digit": jnp.mean(cross_entropy(outputs["digit"], batch["digit"])),
    "even": jnp.mean(cross_entropy(outputs["even"], batch["even"])),
    "ink": jnp.mean((outputs["ink"][:, 0] - batch["ink"]) ** 2),
  }


def init_plain(key):
  """Params of a network of two matrices, to be spread over devices."""
  keys = jax.random.split(key, 2)
  return {
    "trunk": jax.random.normal(keys[0], (64, 64)) / 8,
    "heads": jax.random.normal(keys[1], (64, 13)) / 8,
  }


def plain_losses(params, batch):
  """The losses of that network."""
  images = batch["image"].reshape(len(batch["image"]), -1)
  out = jax.nn.relu(images @ params["trunk"]) @ params["heads"]
  outputs = {"digit": out[:, :10], "even": out[:, 10:12], "ink": out[:, 12:]}
  return losses_of(outputs, batch)


def report(step: int, losses) -> None:
  """Prints one line: the loss of each task."""
  row = "  ".join(f"{task} {losses[task]:7.4f}" for task in TASKS)
  print(f"step {step:4d}  {row}")
