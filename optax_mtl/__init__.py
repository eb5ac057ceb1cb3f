"""Multi-task optimization as composable optax gradient transformations."""

from types import MappingProxyType as _MappingProxyType

from optax_mtl import metrics, pareto, solvers
from optax_mtl._base import METHODS as _METHODS
from optax_mtl._base import MethodInfo
from optax_mtl.methods.aligned_mtl import aligned_mtl
from optax_mtl.methods.cagrad import cagrad
from optax_mtl.methods.config import config
from optax_mtl.methods.dtp import dtp
from optax_mtl.methods.dual_proj import dual_proj
from optax_mtl.methods.dwa import dwa
from optax_mtl.methods.equal import equal_weighting
from optax_mtl.methods.fairgrad import fairgrad
from optax_mtl.methods.fixed import fixed_weighting
from optax_mtl.methods.gradnorm import gradnorm
from optax_mtl.methods.imtl_g import imtl_g
from optax_mtl.methods.mgda import mgda
from optax_mtl.methods.nash_mtl import nash_mtl
from optax_mtl.methods.pcgrad import pcgrad
from optax_mtl.methods.uncertainty import (
  uncertainty_loss,
  uncertainty_weighting,
)
from optax_mtl.methods.upgrad import upgrad
from optax_mtl.pareto.pareto_mtl import pareto_mtl
from optax_mtl.sources import (
  value_and_representation_grads,
  value_and_task_batch_grads,
  value_and_task_grads,
)
from optax_mtl.sources.task_gradients import TaskGradients
from optax_mtl.wrappers import (
  accumulate,
  per_task,
  refresh_every,
  skip_nonfinite,
  track_conflicts,
)

__version__ = "0.1.0"

#: Method name -> the function that builds it. What is known about a method
#: besides how it computes is its `info`, a `MethodInfo`.
METHODS = _MappingProxyType(dict(sorted(_METHODS.items())))

__all__ = [
  "METHODS",
  "MethodInfo",
  "TaskGradients",
  "accumulate",
  "aligned_mtl",
  "cagrad",
  "config",
  "dtp",
  "dual_proj",
  "dwa",
  "equal_weighting",
  "fairgrad",
  "fixed_weighting",
  "gradnorm",
  "imtl_g",
  "metrics",
  "mgda",
  "nash_mtl",
  "pareto",
  "pareto_mtl",
  "pcgrad",
  "per_task",
  "refresh_every",
  "skip_nonfinite",
  "solvers",
  "track_conflicts",
  "uncertainty_loss",
  "uncertainty_weighting",
  "upgrad",
  "value_and_representation_grads",
  "value_and_task_batch_grads",
  "value_and_task_grads",
]
