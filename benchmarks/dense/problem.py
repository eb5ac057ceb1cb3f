"""Scenes and a network for some tasks, as functions that a training needs.

>>> problem = build(("depth", "edges"), num_train=4, num_held_out=2, size=8)
>>> params, stats = jax.eval_shape(problem.init, jax.random.key(0))
>>> sorted(params)
['heads_depth', 'heads_edges', 'trunk']
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import optax_mtl
from benchmarks.dense import scenes, tasks
from benchmarks.dense.network import WIDTHS, Model, Params, Stats, linen_model
from benchmarks.dense.network_nnx import nnx_model
from benchmarks.dense.scenes import Batch

Source = Literal["stacked", "implicit", "representation"]
Heads = Literal["sum", "weighted"]
#: What the survey's data sets have, and what is compared by default.
TASKS = ("segmentation", "depth", "normals", "edges")
#: A quarter of the labels is missing.
MISSING = 0.25

_MODELS = {"linen": linen_model, "nnx": nnx_model}


def sample(data: Batch, rows: jax.typing.ArrayLike) -> Batch:
  """Some of the images, with their labels and masks; also inside jit."""
  return jax.tree.map(lambda array: array[rows], data)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """Data and a network.

  Attributes:
    tasks: T names, sorted, which is the order of all rows.
    make_model: From the channels of each task's output to a network.
    model: The network.
    train: See `scenes.render`; on the device, with the labels of these tasks.
    validation: To choose weights and rates by; all images have all labels.
    test: Likewise, to report.
  """

  tasks: tuple[str, ...]
  make_model: Callable[[Mapping[str, int]], Model]
  model: Model
  train: Batch
  validation: Batch
  test: Batch

  @property
  def num_tasks(self) -> int:
    """T."""
    return len(self.tasks)

  @property
  def higher_is_better(self) -> list[bool]:
    """T bools, of the metrics."""
    return [tasks.TASKS[name].higher_is_better for name in self.tasks]

  def only(self, task: str) -> "Problem":
    """The same for one task: a network with one decoder."""
    return dataclasses.replace(
      self,
      tasks=(task,),
      model=self.make_model(_channels((task,))),
      **{
        split: _of_tasks(getattr(self, split), (task,))
        for split in ("train", "validation", "test")
      },
    )

  def init(self, key: jax.Array) -> tuple[Params, Stats]:
    """Params, and BatchNorm's first statistics."""
    return self.model.init(key, self.train["image"][:1])

  def losses_and_kpis(
    self, outputs: Mapping[str, jax.Array], batch: Batch
  ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Both by task, 0 where no pixel of the batch has a label.

    Args:
      outputs: By task, [N, H, W, C].
      batch: With labels and masks.

    Returns:
      Losses and indicators.
    """

    def each(of: Callable[..., jax.Array]) -> dict[str, jax.Array]:
      return {
        name: of(
          tasks.TASKS[name],
          outputs[name],
          batch["labels"][name],
          batch["masks"][name],
        )
        for name in self.tasks
      }

    return each(tasks.loss), each(tasks.kpi)

  def active(self, batch: Batch) -> dict[str, jax.Array]:
    """Which tasks have a label anywhere in the batch: bools by name."""
    return {name: jnp.any(batch["masks"][name]) for name in self.tasks}

  def forward(self, params: Params, stats: Stats, batch: Batch) -> Any:
    """`(losses, (new stats, kpis))`, from one forward pass."""
    outputs, new = self.model.apply(params, stats, batch["image"], True)
    losses, kpis = self.losses_and_kpis(outputs, batch)
    return losses, (new, kpis)

  def value_and_grads(
    self, source: Source, heads: Heads = "sum"
  ) -> Callable[..., Any]:
    """One forward pass, and task gradients.

    Args:
      source: Where they come from.
      heads: What the decoders get.

    Returns:
      `(params, stats, batch) -> ((losses, (new stats, kpis)), grads)`.
    """
    model = self.model
    if source != "representation":
      return optax_mtl.value_and_task_grads(
        self.forward,
        has_aux=True,
        source=source,
        shared=model.shared,
        heads=heads,
      )

    def trunk(params: Params, stats: Stats, batch: Batch) -> Any:
      return model.encode(params, stats, batch["image"], True)

    def decoders(
      params: Params, features: Any, stats: Stats, batch: Batch
    ) -> Any:
      outputs, of_heads = model.decode(params, stats, features, True)
      losses, kpis = self.losses_and_kpis(outputs, batch)
      return losses, (of_heads, kpis)

    at_features = optax_mtl.value_and_representation_grads(
      trunk, decoders, has_aux=True, shared=model.shared, heads=heads
    )

    def value_and_grads(params: Params, stats: Stats, batch: Batch) -> Any:
      (losses, (of_trunk, (of_heads, kpis))), grads = at_features(
        params, stats, batch
      )
      return (losses, (model.joined(of_trunk, of_heads), kpis)), grads

    return value_and_grads

  def outputs(
    self, params: Params, stats: Stats, images: jax.Array
  ) -> dict[str, jax.Array]:
    """What the network predicts, with its running statistics."""
    return self.model.apply(params, stats, images, False)[0]

  def counts(
    self, params: Params, stats: Stats, batch: Batch
  ) -> dict[str, jax.Array]:
    """What the metrics are made of, by task; see `tasks.counts`."""
    outputs = self.outputs(params, stats, batch["image"])
    return {
      name: tasks.counts(
        tasks.TASKS[name],
        outputs[name],
        batch["labels"][name],
        batch["masks"][name],
      )
      for name in self.tasks
    }

  def metrics(self, added: Mapping[str, Any]) -> np.ndarray:
    """The metrics [T], from the sums of `counts` over a data set."""
    return np.array(
      [tasks.metric(tasks.TASKS[name], added[name]) for name in self.tasks]
    )


def _channels(names: Sequence[str]) -> dict[str, int]:
  """Of each task's output."""
  return {name: tasks.TASKS[name].channels for name in names}


def _of_tasks(data: Batch, names: Sequence[str]) -> Batch:
  """The data with the labels of these tasks alone."""
  return {
    "image": data["image"],
    **{
      part: {name: data[part][name] for name in names}
      for part in ("labels", "masks")
    },
  }


def build(
  names: Sequence[str] = TASKS,
  *,
  num_train: int = 1000,
  num_held_out: int = 250,
  size: int = 32,
  seed: int = 0,
  network: str = "linen",
  widths: tuple[int, ...] = WIDTHS,
) -> Problem:
  """Renders scenes, and puts a network on them.

  Args:
    names: Keys of `tasks.TASKS`.
    num_train: Images to train on; a quarter of the labels is missing.
    num_held_out: Images to validate on, and as many to test on.
    size: Pixels a side, a multiple of 4.
    seed: Of the scenes.
    network: "linen" or "nnx".
    widths: Channels; see `network.WIDTHS`.

  Returns:
    The problem.

  Raises:
    ValueError: A task or the network is unknown, or the size does not fit.
  """
  names = tuple(sorted(set(names)))
  if unknown := sorted(set(names) - set(tasks.TASKS)):
    raise ValueError(f"Unknown tasks {unknown}; there are {list(tasks.TASKS)}.")
  if network not in _MODELS:
    raise ValueError(
      f"network must be one of {list(_MODELS)}, got {network!r}."
    )
  if size % 4:
    raise ValueError(f"size must be a multiple of 4, got {size}.")

  def data(number: int, part: int, missing: float) -> Batch:
    rendered = scenes.render(number, size, 3 * seed + part, missing=missing)
    return jax.tree.map(jnp.asarray, _of_tasks(rendered, names))

  def make_model(channels: Mapping[str, int]) -> Model:
    return _MODELS[network](channels, widths)

  return Problem(
    tasks=names,
    make_model=make_model,
    model=make_model(_channels(names)),
    train=data(num_train, 0, MISSING),
    validation=data(num_held_out, 1, 0.0),
    test=data(num_held_out, 2, 0.0),
  )
