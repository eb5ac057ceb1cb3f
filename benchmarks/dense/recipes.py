"""How each method is set up for dense prediction.

A label is the method's name, and after hyphens what else is said of it:
`mgda-l2-ub` measures the gradients at the representation, and normalises them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

import optax_mtl
from benchmarks.common.sweeps import sweep_weights
from benchmarks.dense import tasks
from benchmarks.dense.problem import Heads, Problem, Source

SINGLE_TASK = "single_task"
EQUAL = "equal_weighting"
SWEEP = "fixed_weighting"
BASELINES = (SINGLE_TASK, EQUAL, SWEEP)

#: Ending of a label -> arguments of the method that it stands for.
_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
  "l2": {"normalize": "l2"},
  "normalized": {"normalize": True},
}
#: Weights are computed at every tenth step, and kept between.
_REFRESHED = "refreshed"
_REFRESH_STEPS = 10
#: SGD with momentum in the place of Adam, at rates so many times Adam's: its
#: steps are as long as gradients are, here some hundredths for each parameter.
_SGD = "sgd"
_SGD_FACTOR = 30.0
#: Gradients at the representation, the upper bound of MGDA-UB.
_UPPER_BOUND = "ub"
#: The decoders get the trunk's weights.
_WEIGHTED = "weighted"

#: The rows of the whole comparison. Those to judge the others by come first.
LABELS = (
  SINGLE_TASK,
  EQUAL,
  SWEEP,
  "uncertainty_weighting",
  "uncertainty_weighting-weighted",
  "dwa",
  "dwa-weighted",
  "relobralo",
  "softadapt",
  "famo",
  "famo-weighted",
  "rlw",
  "gls",
  "scale_invariant",
  "imtl_l",
  "uw_so",
  "igb",
  "stch",
  "ldc_mtl",
  "go4align",
  "dtp",
  "dtp-normalized",
  "gradnorm",
  "gradnorm-weighted",
  "norm_balance",
  "mgda",
  "mgda-l2",
  "mgda-ub",
  "mgda-l2-ub",
  "pcgrad",
  "gradvac",
  "cagrad",
  "conic_grad",
  "grad_ops",
  "imtl_g",
  "imtl_g-ub",
  "nash_mtl",
  "nash_mtl-weighted",
  "fairgrad",
  "aligned_mtl",
  "upgrad",
  "dual_proj",
  "conflict_free",
  "graddrop-ub",
  "moco",
  "db_mtl",
  "excess_mtl",
  "lr_annealing",
  "db_pinn",
  "median",
  "trimmed_mean",
  "pareto_mtl",
)

#: What `--quick` trains: each kind of row.
SHORT = (
  SINGLE_TASK,
  EQUAL,
  SWEEP,
  "uncertainty_weighting",
  "uncertainty_weighting-weighted",
  "mgda-l2-ub",
)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One method, ready to be trained.

  Attributes:
    label: Its name in tables and pictures.
    build: From a point (a row of `points`, traced) to the method.
    points: Array [N, ...]: variants, of which validation chooses one.
    source: Where task gradients come from.
    heads: What the decoders get, "sum" or "weighted".
    passes: Extra args that it takes besides `losses` and `active`.
    optimizer: From the learning rate to what comes after the method.
    rate_factor: Its rates are so many times those of the settings.
  """

  label: str
  build: Callable[[jax.Array], optax.GradientTransformationExtraArgs]
  points: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((1, 1))
  )
  source: Source = "stacked"
  heads: Heads = "sum"
  passes: tuple[str, ...] = ()
  optimizer: Callable[..., optax.GradientTransformation] = optax.adam
  rate_factor: float = 1.0


def is_known(label: str) -> bool:
  """Whether a label names a method that can take part, and known endings."""
  name, *endings = label.split("-")
  known = {_UPPER_BOUND, _WEIGHTED, _REFRESHED, _SGD, *_ARGUMENTS}
  names = {one.split("-")[0] for one in LABELS}
  return name in names and set(endings) <= known


def _arguments(
  name: str, problem: Problem, steps: int, epoch: int, source: Source
) -> Mapping[str, Any]:
  """What a method has to be told about the problem; else its defaults hold."""
  num_tasks = problem.num_tasks
  if name == "uncertainty_weighting":
    return {
      "kind": {task: tasks.TASKS[task].likelihood for task in problem.tasks}
    }
  if name in ("dwa", "igb"):
    return {"steps_per_epoch": epoch}
  if name == "gradnorm" and source != "representation":
    return {"norm_params": problem.model.last_shared}
  if name == "trimmed_mean" and num_tasks < 3:
    # Of two tasks' entries nothing is left without the largest and smallest.
    return {"trim": 0}
  if name == "famo":
    # As in the authors' code.
    return {"max_norm": 1.0}
  if name == "pareto_mtl":
    directions = optax_mtl.pareto.das_dennis_directions(num_tasks, 2)
    return {
      "directions": np.concatenate([_middle(num_tasks), directions]),
      "feasibility_steps": max(1, steps // 5),
    }
  return {}


def _middle(num_tasks: int) -> np.ndarray:
  """The preference [1, T] that treats all tasks alike."""
  return np.full((1, num_tasks), num_tasks**-0.5)


def recipe(label: str, problem: Problem, steps: int, epoch: int) -> Recipe:
  """The recipe of a row.

  Args:
    label: A label that `is_known`.
    problem: What is trained; of `SINGLE_TASK`, for one task.
    steps: For how long.
    epoch: Steps an epoch.

  Returns:
    The recipe.
  """
  num_tasks = problem.num_tasks
  name, *endings = label.split("-")
  optimizer: Mapping[str, Any] = {}
  if _SGD in endings:
    optimizer = {
      "optimizer": partial(optax.sgd, momentum=0.9),
      "rate_factor": _SGD_FACTOR,
    }
  if name in (SINGLE_TASK, EQUAL):
    # Reads no Gram matrix: one backward pass of the sum.
    return Recipe(
      label,
      lambda point: optax_mtl.equal_weighting(num_tasks),
      source="implicit",
      **optimizer,
    )
  heads: Heads = "weighted" if _WEIGHTED in endings else "sum"
  if name == SWEEP:
    return Recipe(
      label,
      lambda point: optax_mtl.fixed_weighting(num_tasks, point),
      sweep_weights(num_tasks, 9),
      source="implicit",
      heads=heads,
      **optimizer,
    )
  build = optax_mtl.METHODS[name]
  chosen: dict[str, Any] = {}
  for ending in endings:
    chosen |= _ARGUMENTS.get(ending, {})
  gram = bool(build.info.room != "losses")
  source: Source = "stacked" if gram else "implicit"
  if _UPPER_BOUND in endings:
    source = "representation"
  chosen |= _arguments(name, problem, steps, epoch, source)
  passes = {
    "dtp": ("kpis",),
    "famo": ("previous_losses",),
    "pareto_mtl": ("preference",),
  }

  def make(point: jax.Array) -> optax.GradientTransformationExtraArgs:
    method = build(num_tasks, **chosen)
    if _REFRESHED in endings:
      return optax_mtl.refresh_every(method, _REFRESH_STEPS)
    return method

  return Recipe(
    label,
    make,
    points=_middle(num_tasks) if name == "pareto_mtl" else np.zeros((1, 1)),
    source=source,
    heads=heads,
    passes=passes.get(name, ()),
    **optimizer,
  )
