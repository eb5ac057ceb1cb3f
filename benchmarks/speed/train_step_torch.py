"""TorchJD's training steps on the networks of `step_networks`, layer for layer.

Imported only where torch and torchjd are installed.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchjd.aggregation
from torch import nn
from torchjd.autogram import Engine
from torchjd.autojac import jac_to_grad, mtl_backward

from benchmarks.common import timing
from benchmarks.speed import step_networks

Step = Callable[[], None]


class _Block(nn.Module):
  """One pre-norm block, as in `step_networks`."""

  def __init__(self, width: int, num_heads: int = 4):
    """Makes the layers."""
    super().__init__()
    self.num_heads = num_heads
    self.norm = nn.LayerNorm(width, elementwise_affine=False)
    self.qkv = nn.Linear(width, 3 * width)
    self.out = nn.Linear(width, width)
    self.up = nn.Linear(width, 4 * width)
    self.down = nn.Linear(4 * width, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [batch, length, width] to itself."""
    batch, length, width = x.shape
    q, k, v = (
      part.reshape(batch, length, self.num_heads, -1).transpose(1, 2)
      for part in self.qkv(self.norm(x)).chunk(3, dim=-1)
    )
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    mixed = (scores.softmax(-1) @ v).transpose(1, 2)
    x = x + self.out(mixed.reshape(batch, length, width))
    return x + self.down(torch.relu(self.up(self.norm(x))))


class _Mean(nn.Module):
  """The mean over the axes that hold space or time."""

  def __init__(self, *axes: int):
    """Takes the axes."""
    super().__init__()
    self.axes = axes

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Averages over the axes."""
    return x.mean(dim=self.axes)


def _trunk(name: str) -> nn.Module:
  sizes = step_networks.SIZES[name]
  width = sizes.width
  if name == "mlp":
    widths = [sizes.input_shape[0], *[width] * sizes.depth]
    pairs = zip(widths[:-1], widths[1:], strict=True)
    layers = [m for a, b in pairs for m in (nn.Linear(a, b), nn.ReLU())]
  elif name == "cnn":
    channels = [sizes.input_shape[-1], *[width] * sizes.depth]
    pairs = zip(channels[:-1], channels[1:], strict=True)
    layers = [
      m for a, b in pairs for m in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())
    ]
    layers.append(_Mean(2, 3))
  else:
    layers = [_Block(width) for _ in range(sizes.depth)] + [_Mean(1)]
  return nn.Sequential(*layers)


def _steps(name: str, num_tasks: int) -> dict[str, Step]:
  """Label -> a function that does one step of Adam."""
  torch.manual_seed(0)
  network = step_networks.build(name, num_tasks)
  x = torch.from_numpy(network.x)
  if name == "cnn":
    x = x.permute(0, 3, 1, 2).contiguous()
  y = torch.from_numpy(network.y)

  def make() -> tuple[nn.Module, nn.ModuleList, torch.optim.Optimizer]:
    trunk = _trunk(name)
    width = step_networks.SIZES[name].width
    heads = nn.ModuleList(
      nn.Linear(width, step_networks.HEAD_WIDTH) for _ in range(num_tasks)
    )
    parameters = [*trunk.parameters(), *heads.parameters()]
    return trunk, heads, torch.optim.Adam(parameters, 1e-3)

  def losses_of(heads: nn.ModuleList, z: torch.Tensor) -> list[torch.Tensor]:
    return [((head(z) - y[:, t]) ** 2).mean() for t, head in enumerate(heads)]

  def plain() -> Step:
    trunk, heads, adam = make()

    def step() -> None:
      adam.zero_grad()
      sum(losses_of(heads, trunk(x))).backward()
      adam.step()

    return step

  def autojac() -> Step:
    trunk, heads, adam = make()
    aggregator = torchjd.aggregation.UPGrad()

    def step() -> None:
      adam.zero_grad()
      z = trunk(x)
      mtl_backward(losses_of(heads, z), features=z)
      jac_to_grad(trunk.parameters(), aggregator)
      adam.step()

    return step

  def autogram() -> Step:
    trunk, heads, adam = make()
    weighting = torchjd.aggregation.UPGradWeighting()
    # The losses are means over the batch: no axis of theirs is the batch.
    engine = Engine(trunk, batch_dim=None)

    def step() -> None:
      adam.zero_grad()
      losses = torch.stack(losses_of(heads, trunk(x)))
      weights = weighting(engine.compute_gramian(losses))
      losses.backward(weights)
      adam.step()

    return step

  return {
    "torch plain": plain(),
    "torchjd mtl_backward, upgrad": autojac(),
    "torchjd autogram, upgrad": autogram(),
  }


def measure(
  name: str, num_tasks: int, repeats: int, block: int
) -> list[dict[str, Any]]:
  """Rows of TorchJD's steps; ratios are against torch's own plain step."""
  steps = _steps(name, num_tasks)
  rows: dict[str, dict[str, Any]] = {
    label: {"network": name, "tasks": num_tasks, "step": label}
    for label in steps
  }
  blocks: dict[str, Step] = {}
  for label, step in steps.items():
    try:
      step()
    except RuntimeError as error:
      rows[label]["error"] = str(error).splitlines()[0]
    else:
      blocks[label] = lambda step=step: [step() for _ in range(block)]
  seconds = timing.in_turn(blocks, repeats)
  for label, times in seconds.items():
    rows[label]["ms"] = 1e3 * statistics.median(times) / block
    rows[label]["ratio"] = timing.median_ratio(times, seconds["torch plain"])
  return list(rows.values())
