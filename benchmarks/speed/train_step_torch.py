"""TorchJD's training steps on the networks of `step_networks`, layer for layer.

Imported only where torch and torchjd are installed.
"""

import statistics
import time

import torch
import torchjd.aggregation
from torch import nn
from torchjd.autogram import Engine
from torchjd.autojac import jac_to_grad, mtl_backward

from benchmarks.speed import step_networks


class _Block(nn.Module):
  """One pre-norm block, as in `step_networks`."""

  def __init__(self, width, num_heads=4):
    super().__init__()
    self.num_heads = num_heads
    self.norm = nn.LayerNorm(width, elementwise_affine=False)
    self.qkv = nn.Linear(width, 3 * width)
    self.out = nn.Linear(width, width)
    self.up = nn.Linear(width, 4 * width)
    self.down = nn.Linear(4 * width, width)

  def forward(self, x):
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

  def __init__(self, *axes):
    super().__init__()
    self.axes = axes

  def forward(self, x):
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


def _steps(name: str, num_tasks: int) -> dict:
  """Label -> a function that does one step of Adam."""
  torch.manual_seed(0)
  network = step_networks.build(name, num_tasks)
  x = torch.from_numpy(network.x)
  if name == "cnn":
    x = x.permute(0, 3, 1, 2).contiguous()
  y = torch.from_numpy(network.y)

  def make():
    trunk = _trunk(name)
    width = step_networks.SIZES[name].width
    heads = nn.ModuleList(
      nn.Linear(width, step_networks.HEAD_WIDTH) for _ in range(num_tasks)
    )
    parameters = [*trunk.parameters(), *heads.parameters()]
    return trunk, heads, torch.optim.Adam(parameters, 1e-3)

  def losses_of(heads, z):
    return [((head(z) - y[:, t]) ** 2).mean() for t, head in enumerate(heads)]

  def plain():
    trunk, heads, adam = make()

    def step():
      adam.zero_grad()
      sum(losses_of(heads, trunk(x))).backward()
      adam.step()

    return step

  def autojac():
    trunk, heads, adam = make()
    aggregator = torchjd.aggregation.UPGrad()

    def step():
      adam.zero_grad()
      z = trunk(x)
      mtl_backward(losses_of(heads, z), features=z)
      jac_to_grad(trunk.parameters(), aggregator)
      adam.step()

    return step

  def autogram():
    trunk, heads, adam = make()
    weighting = torchjd.aggregation.UPGradWeighting()
    # The losses are means over the batch: no axis of theirs is the batch.
    engine = Engine(trunk, batch_dim=None)

    def step():
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


def measure(name: str, num_tasks: int, repeats: int, block: int) -> list:
  """Rows of TorchJD's steps; ratios are against torch's own plain step."""
  steps = _steps(name, num_tasks)
  seconds = {label: [] for label in steps}
  failed = {}
  for repeat in range(repeats + 1):
    for label, step in steps.items():
      if label in failed:
        continue
      start = time.perf_counter()
      try:
        for _ in range(block):
          step()
      except RuntimeError as error:
        failed[label] = str(error).splitlines()[0]
        continue
      if repeat:
        seconds[label].append((time.perf_counter() - start) / block)
  plain = seconds["torch plain"]
  rows = []
  for label, times in seconds.items():
    row = {"network": name, "tasks": num_tasks, "step": label}
    if label in failed:
      rows.append(row | {"error": failed[label]})
      continue
    ratios = [a / b for a, b in zip(times, plain, strict=True)]
    rows.append(
      row
      | {
        "ms": 1e3 * statistics.median(times),
        "ratio": statistics.median(ratios),
      }
    )
  return rows
