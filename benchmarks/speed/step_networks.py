"""The networks whose training steps are timed: an MLP, a CNN, a transformer.

Plain pytrees and functions, so that a peer in another framework can be built
layer for layer from the same sizes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = Any
Layer = dict[str, jax.Array]
Block = dict[str, Layer]
#: The init function of a trunk, `key -> layers`, and `(layers, x) -> z`.
Trunk = tuple[Callable[..., Any], Callable[..., jax.Array]]

#: Units of each task's head.
HEAD_WIDTH = 8


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What a network is made of.

  Attributes:
    batch: Examples in a batch.
    input_shape: Of one example.
    width: Units or channels of the trunk's layers.
    depth: How many layers or blocks the trunk has.
  """

  batch: int
  input_shape: tuple[int, ...]
  width: int
  depth: int


SIZES = {
  "mlp": Sizes(batch=128, input_shape=(784,), width=1024, depth=4),
  "cnn": Sizes(batch=16, input_shape=(16, 16, 3), width=64, depth=4),
  "transformer": Sizes(batch=8, input_shape=(32, 128), width=128, depth=3),
}


@dataclasses.dataclass(frozen=True)
class Network:
  """A trunk and heads as pure functions.

  Attributes:
    init: `key -> params`, a dict with the keys "trunk" and "heads".
    trunk: `(params, x, y) -> z` [batch, width].
    heads: `(params, z, x, y) -> losses` [T].
    x: The inputs of one batch.
    y: The targets [batch, T, HEAD_WIDTH].
  """

  init: Callable[[jax.Array], Params]
  trunk: Callable[..., jax.Array]
  heads: Callable[..., jax.Array]
  x: np.ndarray
  y: np.ndarray

  def losses(self, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """`(params, x, y) -> losses` [T]."""
    return self.heads(params, self.trunk(params, x, y), x, y)


def _dense(key: jax.Array, fan_in: int, fan_out: int) -> Layer:
  kernel = jax.random.normal(key, (fan_in, fan_out)) / np.sqrt(fan_in)
  return {"kernel": kernel, "bias": jnp.zeros((fan_out,))}


def _apply(layer: Layer, x: jax.Array) -> jax.Array:
  return x @ layer["kernel"] + layer["bias"]


def _norm(x: jax.Array) -> jax.Array:
  mean = jnp.mean(x, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(variance + 1e-5)


def _mlp(sizes: Sizes) -> Trunk:
  def init(key: jax.Array) -> list[Layer]:
    widths = [sizes.input_shape[0], *[sizes.width] * sizes.depth]
    keys = jax.random.split(key, sizes.depth)
    pairs = zip(keys, widths[:-1], widths[1:], strict=True)
    return [_dense(key, a, b) for key, a, b in pairs]

  def trunk(layers: list[Layer], x: jax.Array) -> jax.Array:
    for layer in layers:
      x = jax.nn.relu(_apply(layer, x))
    return x

  return init, trunk


def _cnn(sizes: Sizes) -> Trunk:
  def init(key: jax.Array) -> list[Layer]:
    channels = [sizes.input_shape[-1], *[sizes.width] * sizes.depth]
    keys = jax.random.split(key, sizes.depth)
    return [
      {
        "kernel": jax.random.normal(k, (3, 3, a, b)) / np.sqrt(9 * a),
        "bias": jnp.zeros((b,)),
      }
      for k, a, b in zip(keys, channels[:-1], channels[1:], strict=True)
    ]

  def trunk(layers: list[Layer], x: jax.Array) -> jax.Array:
    for layer in layers:
      x = jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      x = jax.nn.relu(x + layer["bias"])
    return jnp.mean(x, axis=(1, 2))

  return init, trunk


def _transformer(sizes: Sizes) -> Trunk:
  width, num_heads = sizes.width, 4

  def init(key: jax.Array) -> list[Block]:
    blocks: list[Block] = []
    for block in jax.random.split(key, sizes.depth):
      keys = jax.random.split(block, 4)
      blocks.append(
        {
          "qkv": _dense(keys[0], width, 3 * width),
          "out": _dense(keys[1], width, width),
          "up": _dense(keys[2], width, 4 * width),
          "down": _dense(keys[3], 4 * width, width),
        }
      )
    return blocks

  def attend(block: Block, x: jax.Array) -> jax.Array:
    batch, length, _ = x.shape
    split = lambda a: a.reshape(batch, length, num_heads, -1)  # noqa: E731
    q, k, v = map(split, jnp.split(_apply(block["qkv"], _norm(x)), 3, axis=-1))
    scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(q.shape[-1])
    mixed = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), v)
    return _apply(block["out"], mixed.reshape(batch, length, width))

  def trunk(blocks: list[Block], x: jax.Array) -> jax.Array:
    for block in blocks:
      x = x + attend(block, x)
      x = x + _apply(block["down"], jax.nn.relu(_apply(block["up"], _norm(x))))
    return jnp.mean(x, axis=1)

  return init, trunk


_TRUNKS = {"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}


def build(name: str, num_tasks: int) -> Network:
  """The network of that name, with a head for each of the tasks.

  Args:
    name: "mlp", "cnn" or "transformer".
    num_tasks: The number of tasks `T`.

  Returns:
    The `Network`, with a random batch.
  """
  sizes = SIZES[name]
  init_trunk, run_trunk = _TRUNKS[name](sizes)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((sizes.batch, *sizes.input_shape), np.float32)
  y = rng.standard_normal((sizes.batch, num_tasks, HEAD_WIDTH), np.float32)

  def init(key: jax.Array) -> Params:
    trunk_key, *keys = jax.random.split(key, 1 + num_tasks)
    heads = [_dense(k, sizes.width, HEAD_WIDTH) for k in keys]
    return {"trunk": init_trunk(trunk_key), "heads": heads}

  def trunk(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    del y
    return run_trunk(params["trunk"], x)

  def heads(
    params: Params, z: jax.Array, x: jax.Array, y: jax.Array
  ) -> jax.Array:
    del x
    outputs = jnp.stack([_apply(head, z) for head in params["heads"]], axis=1)
    return jnp.mean(jnp.square(outputs - y), axis=(0, 2))

  return Network(init, trunk, heads, x, y)
