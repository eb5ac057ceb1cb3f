"""An encoder that all tasks share, and a decoder for each, in Flax linen.

BatchNorm stands in both. `Model` is what the training knows of a network; it is
also made from Flax NNX, in `network_nnx`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

#: Channels: of the encoder at half, and at a quarter of the resolution; and of
#: a decoder. A step of 16 images of 32 x 32 pixels and four tasks takes some 20
#: to 30 ms on one core.
WIDTHS = (24, 48, 16)
#: Of the running statistics: a training here takes hundreds of steps, and not
#: the many thousands that the default of .99 is for.
MOMENTUM = 0.9

Params = Any
Stats = Any
#: What the tasks share: features [N, H/2, W/2, C] and [N, H/4, W/4, C'].
Features = tuple[jax.Array, jax.Array]


class Block(nn.Module):
  """A convolution 3 x 3, BatchNorm, ReLU."""

  channels: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [N, H, W, C] to [N, H/stride, W/stride, channels]."""
    x = nn.Conv(
      self.channels, (3, 3), self.stride, use_bias=False, name="conv"
    )(x)
    norm = nn.BatchNorm(
      use_running_average=not train, momentum=MOMENTUM, name="norm"
    )
    return nn.relu(norm(x))


class Encoder(nn.Module):
  """Features at half and at a quarter of the resolution."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, images: jax.Array, train: bool) -> Features:
    """Maps [N, H, W, 3] to both."""
    half, quarter, _ = self.widths
    x = Block(half, 2, name="block_0")(images, train)
    fine = Block(half, name="block_1")(x, train)
    x = Block(quarter, 2, name="block_2")(fine, train)
    return fine, Block(quarter, name="block_3")(x, train)


def enlarged(x: jax.Array) -> jax.Array:
  """Twice the resolution: [N, H, W, C] to [N, 2H, 2W, C]."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def unfolded(x: jax.Array) -> jax.Array:
  """Four channels become 2 x 2 pixels: [N, H, W, 4C] to [N, 2H, 2W, C]."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, 2 * h, 2 * w, c // 4)


class Decoder(nn.Module):
  """From the features to one task's output."""

  channels: int
  width: int

  @nn.compact
  def __call__(self, features: Features, train: bool) -> jax.Array:
    """Maps them to [N, H, W, channels]."""
    fine, coarse = features
    x = enlarged(Block(self.width, name="block_0")(coarse, train))
    x = x + nn.Conv(self.width, (1, 1), name="skip")(fine)
    x = Block(self.width, name="block_1")(x, train)
    return unfolded(nn.Conv(4 * self.channels, (3, 3), name="out")(x))


class Network(nn.Module):
  """The whole: `encode`, `decode`, and both.

  Attributes:
    channels: Of each task's output, by name.
    widths: See `WIDTHS`.
  """

  channels: Mapping[str, int]
  widths: tuple[int, ...] = WIDTHS

  def setup(self) -> None:
    """The layers are called trunk, heads_depth and so on."""
    self.trunk = Encoder(self.widths)
    self.heads = {
      task: Decoder(channels, self.widths[-1])
      for task, channels in self.channels.items()
    }

  def encode(self, images: jax.Array, train: bool = True) -> Features:
    """What the tasks share."""
    return self.trunk(images, train)

  def decode(
    self, features: Features, train: bool = True
  ) -> dict[str, jax.Array]:
    """The outputs by task."""
    return {task: head(features, train) for task, head in self.heads.items()}

  def __call__(
    self, images: jax.Array, train: bool = True
  ) -> dict[str, jax.Array]:
    """Images [N, H, W, 3] to outputs [N, H, W, C] by task."""
    return self.decode(self.encode(images, train), train)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A network as pure functions.

  With `train` its BatchNorm takes the statistics of the batch.

  Attributes:
    init: `(key, images) -> (params, stats)`.
    encode: `(params, stats, images, train) -> (features, stats)`, the latter
      with what the trunk's BatchNorm has seen.
    decode: `(params, stats, features, train) -> (outputs, stats)`, likewise of
      the heads.
    joined: `(stats from encode, stats from decode) -> stats`.
    shared: `params ->` a prefix of bools, True in the trunk.
    last_shared: The same, True in the trunk's last convolution alone.
  """

  init: Callable[[jax.Array, jax.Array], tuple[Params, Stats]]
  encode: Callable[..., tuple[Features, Stats]]
  decode: Callable[..., tuple[dict[str, jax.Array], Stats]]
  joined: Callable[[Stats, Stats], Stats]
  shared: Callable[[Params], Any]
  last_shared: Callable[[Params], Any]

  def apply(
    self, params: Params, stats: Stats, images: jax.Array, train: bool
  ) -> tuple[dict[str, jax.Array], Stats]:
    """Outputs by task, and the statistics after."""
    features, of_trunk = self.encode(params, stats, images, train)
    outputs, of_heads = self.decode(params, stats, features, train)
    return outputs, self.joined(of_trunk, of_heads)


def is_last_shared(path: tuple[Any, ...], _: Any) -> bool:
  """Whether a leaf is of the trunk's last convolution, from its path."""
  name = jax.tree_util.keystr(path)
  return "trunk" in name and "block_3" in name and "conv" in name


def linen_model(
  channels: Mapping[str, int], widths: tuple[int, ...] = WIDTHS
) -> Model:
  """The network in linen.

  Args:
    channels: Of each task's output, by name.
    widths: See `WIDTHS`.

  Returns:
    The `Model`; params and statistics are dicts with the keys "trunk" and
    "heads_<task>".
  """
  network = Network(dict(channels), widths)

  def init(key: jax.Array, images: jax.Array) -> tuple[Params, Stats]:
    variables = network.init(key, images)
    return variables["params"], variables["batch_stats"]

  def part(name: str) -> Callable[..., tuple[Any, Stats]]:
    def call(
      params: Params, stats: Stats, x: Any, train: bool
    ) -> tuple[Any, Stats]:
      result, new = network.apply(
        {"params": params, "batch_stats": stats},
        x,
        train,
        method=name,
        mutable=["batch_stats"],
      )
      return result, new["batch_stats"]

    return call

  def joined(of_trunk: Stats, of_heads: Stats) -> Stats:
    return {**of_heads, "trunk": of_trunk["trunk"]}

  def last_shared(params: Params) -> Any:
    return jax.tree_util.tree_map_with_path(is_last_shared, params)

  return Model(
    init=init,
    encode=part("encode"),
    decode=part("decode"),
    joined=joined,
    shared=lambda params: {name: name == "trunk" for name in params},
    last_shared=last_shared,
  )
