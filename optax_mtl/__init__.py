"""Multi-task optimization as composable optax gradient transformations."""

from types import MappingProxyType as _MappingProxyType
from typing import TYPE_CHECKING as _TYPE_CHECKING

from optax_mtl import metrics as metrics
from optax_mtl import pareto as pareto
from optax_mtl import solvers as solvers
from optax_mtl import training as training
from optax_mtl._aliases import explain as _explain
from optax_mtl._checks import TaskArgument as TaskArgument
from optax_mtl._checks import task_argument as task_argument
from optax_mtl._facts import Facts as Facts
from optax_mtl._facts import facts as facts
from optax_mtl._reading import diagnostics as diagnostics
from optax_mtl._reading import method_state as method_state
from optax_mtl._reading import method_states as method_states
from optax_mtl._registry import METHODS as _METHODS
from optax_mtl._registry import MethodInfo as MethodInfo
from optax_mtl._registry import method as method
from optax_mtl._rule import UpdateRule as UpdateRule
from optax_mtl._rule import WeightRule as WeightRule
from optax_mtl._rule import from_step as from_step
from optax_mtl._rule import solved as solved
from optax_mtl._step import Step as Step
from optax_mtl._transformation import Method as Method
from optax_mtl._transformation import WeightState as WeightState
from optax_mtl._version import __version__ as __version__
from optax_mtl.diagnosis import Diagnosis as Diagnosis
from optax_mtl.diagnosis import diagnose as diagnose
from optax_mtl.methods.gradients import *
from optax_mtl.methods.gram import *
from optax_mtl.methods.losses import *
from optax_mtl.methods.preference import *
from optax_mtl.sources import TaskGradients as TaskGradients
from optax_mtl.sources import ntk_traces as ntk_traces
from optax_mtl.sources import (
  value_and_representation_grads as value_and_representation_grads,
)
from optax_mtl.sources import (
  value_and_task_batch_grads as value_and_task_batch_grads,
)
from optax_mtl.sources import value_and_task_grads as value_and_task_grads
from optax_mtl.wrappers import accumulate as accumulate
from optax_mtl.wrappers import drop_nonfinite as drop_nonfinite
from optax_mtl.wrappers import ema_weights as ema_weights
from optax_mtl.wrappers import from_extra_arg as from_extra_arg
from optax_mtl.wrappers import log_losses as log_losses
from optax_mtl.wrappers import normalize_gradients as normalize_gradients
from optax_mtl.wrappers import on_tasks as on_tasks
from optax_mtl.wrappers import on_trunk as on_trunk
from optax_mtl.wrappers import per_task as per_task
from optax_mtl.wrappers import refresh_every as refresh_every
from optax_mtl.wrappers import rename_args as rename_args
from optax_mtl.wrappers import skip_nonfinite as skip_nonfinite
from optax_mtl.wrappers import track as track
from optax_mtl.wrappers import weighted_then as weighted_then

#: Method name -> the function that builds it. What is known about a method
#: besides how it computes is its `info`, a `MethodInfo`; what it reads is found
#: by `facts`. A method of one's own, made with `method`, stands here too.
METHODS = _MappingProxyType(_METHODS)

if not _TYPE_CHECKING:  # A type checker would take any name for one of ours.

  def __getattr__(name: str):
    """Says what a name that is looked for here is called."""
    if name.startswith("_"):
      raise AttributeError(f"optax_mtl has no attribute {name}.", name=name)
    in_training = (f"training.{public}" for public in vars(training))
    raise AttributeError(_explain(name, (*globals(), *in_training)), name=name)
