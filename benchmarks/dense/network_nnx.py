"""The same network in Flax NNX."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from benchmarks.dense.network import (
  MOMENTUM,
  WIDTHS,
  Features,
  Model,
  Params,
  Stats,
  enlarged,
  is_last_shared,
  unfolded,
)


class Block(nnx.Module):
  """A convolution 3 x 3, BatchNorm, ReLU."""

  def __init__(self, inputs: int, channels: int, stride: int, rngs: nnx.Rngs):
    """See `network.Block`; `inputs` are the channels of what comes in."""
    self.conv = nnx.Conv(
      inputs, channels, (3, 3), stride, use_bias=False, rngs=rngs
    )
    self.norm = nnx.BatchNorm(channels, momentum=MOMENTUM, rngs=rngs)

  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps [N, H, W, C] to [N, H/stride, W/stride, channels]."""
    x = self.norm(self.conv(x), use_running_average=not train)
    return nnx.relu(x)


class Encoder(nnx.Module):
  """Features at half and at a quarter of the resolution."""

  def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs):
    """See `network.Encoder`."""
    half, quarter, _ = widths
    self.block_0 = Block(3, half, 2, rngs)
    self.block_1 = Block(half, half, 1, rngs)
    self.block_2 = Block(half, quarter, 2, rngs)
    self.block_3 = Block(quarter, quarter, 1, rngs)

  def __call__(self, images: jax.Array, train: bool) -> Features:
    """Maps [N, H, W, 3] to both."""
    fine = self.block_1(self.block_0(images, train), train)
    return fine, self.block_3(self.block_2(fine, train), train)


class Decoder(nnx.Module):
  """From the features to one task's output."""

  def __init__(self, channels: int, widths: tuple[int, ...], rngs: nnx.Rngs):
    """See `network.Decoder`."""
    half, quarter, width = widths
    self.block_0 = Block(quarter, width, 1, rngs)
    self.skip = nnx.Conv(half, width, (1, 1), rngs=rngs)
    self.block_1 = Block(width, width, 1, rngs)
    self.out = nnx.Conv(width, 4 * channels, (3, 3), rngs=rngs)

  def __call__(self, features: Features, train: bool) -> jax.Array:
    """Maps them to [N, H, W, channels]."""
    fine, coarse = features
    x = enlarged(self.block_0(coarse, train)) + self.skip(fine)
    return unfolded(self.out(self.block_1(x, train)))


class Network(nnx.Module):
  """The whole: `encode`, `decode`, and both."""

  def __init__(
    self,
    channels: Mapping[str, int],
    widths: tuple[int, ...] = WIDTHS,
    *,
    rngs: nnx.Rngs,
  ):
    """See `network.Network`."""
    self.trunk = Encoder(widths, rngs)
    self.heads = nnx.Dict(
      {task: Decoder(count, widths, rngs) for task, count in channels.items()}
    )

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


def nnx_model(
  channels: Mapping[str, int], widths: tuple[int, ...] = WIDTHS
) -> Model:
  """The network in NNX.

  Args:
    channels: Of each task's output, by name.
    widths: See `network.WIDTHS`.

  Returns:
    The `Model`; params and statistics are pure dicts with the keys "trunk" and
    "heads".
  """
  # What is no array; made without computing any.
  graph, *_ = nnx.split(
    nnx.eval_shape(lambda: Network(channels, widths, rngs=nnx.Rngs(0))),
    nnx.Param,
    ...,
  )

  def init(key: jax.Array, images: jax.Array) -> tuple[Params, Stats]:
    del images  # Layers know how many channels come in.
    network = Network(channels, widths, rngs=nnx.Rngs(key))
    _, params, stats, _ = nnx.split(network, nnx.Param, nnx.BatchStat, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

  def part(name: str) -> Callable[..., tuple[Any, Stats]]:
    def call(
      params: Params, stats: Stats, x: Any, train: bool
    ) -> tuple[Any, Stats]:
      # copy=True: what the merged network writes stays in it.
      network = nnx.merge(graph, params, stats, copy=True)
      result = getattr(network, name)(x, train)
      return result, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    return call

  def joined(of_trunk: Stats, of_heads: Stats) -> Stats:
    return {"trunk": of_trunk["trunk"], "heads": of_heads["heads"]}

  def last_shared(params: Params) -> Any:
    return jax.tree_util.tree_map_with_path(is_last_shared, params)

  return Model(
    init=init,
    encode=part("encode"),
    decode=part("decode"),
    joined=joined,
    shared=lambda params: {"trunk": True, "heads": False},
    last_shared=last_shared,
  )
