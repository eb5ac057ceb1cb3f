"""Where task gradients come from, and how methods see them."""

from optax_mtl.sources.masks import Heads
from optax_mtl.sources.one_batch import value_and_task_grads
from optax_mtl.sources.representation import value_and_representation_grads
from optax_mtl.sources.stacked import StackedTaskGradients, as_task_gradients
from optax_mtl.sources.tangent_kernels import ntk_traces
from optax_mtl.sources.task_batches import value_and_task_batch_grads
from optax_mtl.sources.task_gradients import TaskGradients

__all__ = [
  "Heads",
  "StackedTaskGradients",
  "TaskGradients",
  "as_task_gradients",
  "ntk_traces",
  "value_and_representation_grads",
  "value_and_task_batch_grads",
  "value_and_task_grads",
]
