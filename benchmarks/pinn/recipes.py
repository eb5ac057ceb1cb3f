"""How each method is set up for a physics-informed problem."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import optax

import optax_mtl
from benchmarks.pinn.problem import RESIDUAL, Problem
from benchmarks.pinn.training import Recipe

EQUAL = "equal_weighting"
SWEEP = "fixed_weighting"
MUON = "muon"

#: Steps as large as those of Adam, as the authors advise.
muon = partial(optax.contrib.muon, consistent_rms=0.2)

#: What the conditions weigh, where the residual weighs 1.
SWEEP_FACTORS = (10.0, 100.0, 1000.0)


def sweep_weights(problem: Problem) -> np.ndarray:
  """Weights [N, T]: the residual's is 1, the conditions' one of the factors."""
  is_residual = [name == RESIDUAL for name in problem.task_names]
  return np.stack(
    [np.where(is_residual, 1.0, factor) for factor in SWEEP_FACTORS]
  )


#: jaxpi refreshes its weights so many times in one training.
_REFRESHES = 200

_Build = Callable[..., Any]
#: Label -> from the registered method's function, the number of terms and the
#: steps to the method; it is `build(num_tasks)` where nothing stands here.
_SPECIAL: Mapping[str, Callable[[_Build, int, int], Any]] = {
  "norm_balance": lambda build, num_tasks, steps: optax_mtl.refresh_every(
    build(num_tasks, **optax_mtl.NORM_BALANCE_SETTINGS["jaxpi"]),
    max(1, steps // _REFRESHES),
  ),
  "lr_annealing": lambda build, num_tasks, steps: optax_mtl.refresh_every(
    build(num_tasks, RESIDUAL), 10
  ),
  "db_pinn": lambda build, num_tasks, steps: optax_mtl.refresh_every(
    build(num_tasks, RESIDUAL), 100
  ),
  "mgda-l2": lambda build, num_tasks, steps: build(num_tasks, normalize="l2"),
  "dwa": lambda build, num_tasks, steps: build(num_tasks, steps_per_epoch=100),
}
#: Label -> the registered method, where that is another name.
_METHOD_OF = {"mgda-l2": "mgda"}

_METHODS = (
  "norm_balance",
  "lr_annealing",
  "ntk_weighting",
  "relobralo",
  "softadapt",
  "uncertainty_weighting",
  "gradnorm",
  "db_pinn",
  "conflict_free",
  "m_config",
  "upgrad",
  "mgda",
  "mgda-l2",
  "dwa",
  "famo",
)


#: Those that decide something, and what they are judged by.
SHORT = (
  EQUAL,
  SWEEP,
  "norm_balance",
  "lr_annealing",
  "relobralo",
  "uncertainty_weighting",
  "db_pinn",
  "upgrad",
  "mgda-l2",
)


def labels() -> list[str]:
  """All rows of the table, those to judge the others by first."""
  return [EQUAL, SWEEP, MUON, *_METHODS]


def recipe(label: str, problem: Problem, steps: int) -> Recipe:
  """The recipe of a row.

  Args:
    label: One of `labels`.
    problem: What is trained.
    steps: For how long.

  Returns:
    The recipe.
  """
  num_tasks = problem.num_tasks
  if label == EQUAL:
    return Recipe(label, lambda _: optax_mtl.equal_weighting(num_tasks))
  if label == MUON:
    return Recipe(
      label,
      lambda _: optax_mtl.equal_weighting(num_tasks),
      optimizer=muon,
    )
  if label == SWEEP:
    return Recipe(
      label,
      lambda point: optax_mtl.fixed_weighting(num_tasks, point),
      sweep_weights(problem),
    )
  build = optax_mtl.METHODS[_METHOD_OF.get(label, label)]
  make = _SPECIAL.get(label, lambda build, num_tasks, steps: build(num_tasks))
  return Recipe(
    label,
    lambda _: make(build, num_tasks, steps),
    # M-ConFIG is an optimizer itself.
    optimizer=optax.sgd if label == "m_config" else optax.adam,
    traces_every=100 if label == "ntk_weighting" else 0,
    source="implicit" if label == "m_config" else "stacked",
  )
