"""Networks with a shared trunk and one head per task, and what they are for.

`build(dataset)` bundles everything a training loop needs as pure functions:

>>> from benchmarks.data import datasets
>>> problem = build(datasets.load("digits"))
>>> params = problem.init(jax.random.key(0))
>>> batch = sample_batch(jax.random.key(1), problem.train, 128)
>>> problem.loss_fn(params, batch).shape
(2,)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.data.dataset import Dataset
from benchmarks.networks.scores import (
  Batch,
  task_kpis,
  task_losses,
  task_metrics,
)

Params = Any
# Test sets are put through the network in blocks of at most this many rows: the
# one-hot codes of a table would else take gigabytes under vmap over seeds.
_BLOCK = 8192


def _as_float(x: jax.Array) -> jax.Array:
  """Images are stored as bytes; on the way into the network they are scaled."""
  if x.dtype == jnp.uint8:
    return x.astype(jnp.float32) * np.float32(1 / 255)
  return x.astype(jnp.float32)


class MLP(nn.Module):
  """ReLU layers on the flattened input.

  The last columns of a table may hold category codes. They become one-hot
  vectors in front of the first layer, which is an embedding of each column as
  wide as that layer, summed; its gradient is a matrix product, where that of a
  looked-up embedding is a scatter, which is slow on CPU.

  Attributes:
    widths: Units of each layer.
    cardinality: Number of categories of each of the last columns.
  """

  widths: tuple[int, ...]
  cardinality: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, ...] to [N, widths[-1]]."""
    x = _as_float(x).reshape(x.shape[0], -1)
    if self.cardinality:
      numeric = x.shape[1] - len(self.cardinality)
      column = np.repeat(np.arange(len(self.cardinality)), self.cardinality)
      code = np.concatenate([np.arange(size) for size in self.cardinality])
      hot = x[:, numeric + column] == code.astype(np.float32)[None]
      x = jnp.concatenate([x[:, :numeric], hot.astype(jnp.float32)], axis=1)
    for index, width in enumerate(self.widths):
      x = nn.relu(nn.Dense(width, name=f"layer_{index}")(x))
    return x


class CNN(nn.Module):
  """Two strided 3x3 convolutions and a dense layer, for images.

  Attributes:
    widths: Channels of the two convolutions, units of the dense layer.
  """

  widths: tuple[int, int, int]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, H, W] to [N, widths[-1]]."""
    x = _as_float(x)[..., None]
    for index, channels in enumerate(self.widths[:-1]):
      conv = nn.Conv(channels, (3, 3), (2, 2), name=f"layer_{index}")
      x = nn.relu(conv(x))
    x = x.reshape(x.shape[0], -1)
    last = len(self.widths) - 1
    return nn.relu(nn.Dense(self.widths[-1], name=f"layer_{last}")(x))


def shared_mask(params: Params) -> Params:
  """Which leaves are the shared trunk: a pytree of bools like `params`.

  Args:
    params: Of a `Problem`: a dict with the keys "trunk" and "heads".

  Returns:
    True for the leaves under "trunk", False under "heads".
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[0].key == "trunk", params
  )


def last_shared_mask(params: Params) -> Params:
  """The trunk's last layer only: the weights W of GradNorm's paper."""
  layers = [name for name in params["trunk"] if name.startswith("layer_")]
  last = max(layers, key=lambda name: int(name.removeprefix("layer_")))
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[0].key == "trunk" and path[1].key == last, params
  )


def sample_batch(key: jax.Array, data: Batch, size: int) -> Batch:
  """Draws `size` examples with replacement; for use inside jit and vmap.

  Args:
    key: A random key.
    data: `{"x": [N, ...], "y": [N, ...]}`.
    size: Examples in the batch.

  Returns:
    A dict like `data`, with `size` rows.
  """
  rows = jax.random.randint(key, (size,), 0, data["y"].shape[0])
  return jax.tree.map(lambda array: array[rows], data)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """A dataset and a network for it, as pure functions on a params pytree.

  Every function can be jitted, and vmapped over params or keys.

  Attributes:
    dataset: The `Dataset`.
    train: `{"x": [N, ...], "y": [N, T, ...]}` on the device.
    test: The same for the held-out examples.
    init: `key -> params`, a dict with the keys "trunk" and "heads".
    trunk: `(params, x) -> z`, the shared representation [N, width]. It reads
      `params["trunk"]` only.
    heads: `(params, z, y) -> losses [T]`. It reads `params["heads"]` only.
    outputs: `(params, x) ->` per task an array [N, num_outputs[t]].
    loss_fn: `(params, batch) -> losses [T]`.
    loss_and_kpis: `(params, batch) -> (losses [T], kpis [T])`, from one forward
      pass; for `has_aux=True`.
    heads_and_kpis: `(params, z, batch) ->` the same, from the representation.
    evaluate: `(params, data) ->` a dict of "losses", "metrics" and "kpis", each
      [T], over all of `data`.
    shared_mask: `params ->` pytree of bools, True in the trunk.
    last_shared_mask: `params ->` pytree of bools, True in its last layer.
  """

  dataset: Dataset
  train: Batch
  test: Batch
  init: Callable[[jax.Array], Params]
  trunk: Callable[[Params, jax.Array], jax.Array]
  heads: Callable[[Params, jax.Array, jax.Array], jax.Array]
  outputs: Callable[[Params, jax.Array], tuple[jax.Array, ...]]
  loss_fn: Callable[[Params, Batch], jax.Array]
  loss_and_kpis: Callable[[Params, Batch], tuple[jax.Array, jax.Array]]
  heads_and_kpis: Callable[
    [Params, jax.Array, Batch], tuple[jax.Array, jax.Array]
  ]
  evaluate: Callable[[Params, Batch], dict[str, jax.Array]]
  shared_mask: Callable[[Params], Params] = shared_mask
  last_shared_mask: Callable[[Params], Params] = last_shared_mask

  @property
  def num_tasks(self) -> int:
    """T."""
    return self.dataset.num_tasks


# Kept small: a comparison trains every method on every seed.
_WIDTHS = {
  "digits": (128, 64),
  "gradnorm_toy": (100, 100, 100, 100),
  "uncertainty_toy": (32,),
}


def build(
  dataset: Dataset,
  widths: tuple[int, ...] | None = None,
  network: str = "mlp",
) -> Problem:
  """Puts a network on a dataset.

  Args:
    dataset: From `benchmarks.data.datasets`.
    widths: Units of the trunk's layers. By default 256 and 128, smaller for
      `digits`, and as in the papers for the toys.
    network: "mlp", or "cnn" for images. The MLP is the default for images too:
      a convolution under vmap over seeds is a grouped one, which is slow on
      CPU.

  Returns:
    A `Problem`.

  Raises:
    ValueError: `network` is unknown, or "cnn" for data that are not images.

  Example:
    >>> from benchmarks.data import datasets
    >>> problem = build(datasets.load("digits"))
    >>> params = problem.init(jax.random.key(0))
    >>> problem.evaluate(params, problem.test)["metrics"].shape
    (2,)
  """
  if network == "mlp":
    widths = widths or _WIDTHS.get(dataset.name, (256, 128))
    trunk_module = MLP(tuple(widths), dataset.cardinality)
  elif network == "cnn":
    if dataset.train["x"].ndim != 3:
      raise ValueError(
        f"network='cnn' takes images [N, H, W]; the inputs of {dataset.name!r}"
        f" have shape {dataset.train['x'].shape}. Use network='mlp'."
      )
    trunk_module = CNN(tuple(widths or (16, 32, 64)))
  else:
    raise ValueError(f"network must be 'mlp' or 'cnn'; got {network!r}.")
  head_modules = {
    name: nn.Dense(size)
    for name, size in zip(dataset.task_names, dataset.num_outputs, strict=True)
  }

  def init(key: jax.Array) -> Params:
    trunk_key, *head_keys = jax.random.split(key, 1 + len(head_modules))
    x = jnp.asarray(dataset.train["x"][:1])
    z, variables = trunk_module.init_with_output(trunk_key, x)
    heads = {
      name: module.init(head_key, z)["params"]
      for (name, module), head_key in zip(
        head_modules.items(), head_keys, strict=True
      )
    }
    return {"trunk": variables["params"], "heads": heads}

  def trunk(params: Params, x: jax.Array) -> jax.Array:
    return trunk_module.apply({"params": params["trunk"]}, x)

  def read_out(params: Params, z: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(
      module.apply({"params": params["heads"][name]}, z)
      for name, module in head_modules.items()
    )

  def outputs(params: Params, x: jax.Array) -> tuple[jax.Array, ...]:
    return read_out(params, trunk(params, x))

  def heads(params: Params, z: jax.Array, y: jax.Array) -> jax.Array:
    return task_losses(dataset, read_out(params, z), {"y": y})

  def loss_fn(params: Params, batch: Batch) -> jax.Array:
    return heads(params, trunk(params, batch["x"]), batch["y"])

  def heads_and_kpis(
    params: Params, z: jax.Array, batch: Batch
  ) -> tuple[jax.Array, jax.Array]:
    out = read_out(params, z)
    kpis = task_kpis(dataset, out, batch)
    return task_losses(dataset, out, batch), jax.lax.stop_gradient(kpis)

  def loss_and_kpis(
    params: Params, batch: Batch
  ) -> tuple[jax.Array, jax.Array]:
    return heads_and_kpis(params, trunk(params, batch["x"]), batch)

  def evaluate(params: Params, data: Batch) -> dict[str, jax.Array]:
    out = _in_blocks(functools.partial(outputs, params), data["x"])
    return {
      "losses": task_losses(dataset, out, data),
      "metrics": task_metrics(dataset, out, data),
      "kpis": task_kpis(dataset, out, data),
    }

  return Problem(
    dataset=dataset,
    train=jax.tree.map(jnp.asarray, dataset.train),
    test=jax.tree.map(jnp.asarray, dataset.test),
    init=init,
    trunk=trunk,
    heads=heads,
    outputs=outputs,
    loss_fn=loss_fn,
    loss_and_kpis=loss_and_kpis,
    heads_and_kpis=heads_and_kpis,
    evaluate=evaluate,
  )


def _in_blocks(
  function: Callable[[jax.Array], tuple[jax.Array, ...]], x: jax.Array
) -> tuple[jax.Array, ...]:
  """`function(x)`, which treats rows alone, on a block of rows at a time."""
  if x.shape[0] <= _BLOCK:
    return function(x)
  return jax.lax.map(
    lambda row: jax.tree.map(lambda out: out[0], function(row[None])),
    x,
    batch_size=_BLOCK,
  )
