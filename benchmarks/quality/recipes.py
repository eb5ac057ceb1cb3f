"""How each registered method is set up for a comparison."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

import optax_mtl
from benchmarks.common import examples
from benchmarks.common.sweeps import sweep_weights
from benchmarks.networks.trunk_and_heads import Problem
from benchmarks.quality.training import Recipe, Settings

#: The rows that are always there, beside the methods.
SINGLE_TASK = "single_task"
EQUAL = "equal_weighting"
SWEEP = "fixed_weighting"
BASELINES = (SINGLE_TASK, EQUAL, SWEEP)

#: Pareto MTL trains this many preferences at once, if there are two tasks.
_NUM_PREFERENCES = 5

#: Methods that cannot take part, and why.
WITHOUT_ROW = {
  "bloop": "one task is the main one, and here all count alike",
  "dcgd": "one loss is the residual",
  "ntk_weighting": "needs the traces of residuals",
  "pcd": "one task is the primary one",
}


def _specific(
  name: str, problem: Problem, settings: Settings
) -> Mapping[str, Any]:
  """What a method has to be told about the problem; else its defaults hold."""
  steps_per_epoch = len(problem.dataset.train["y"]) // settings.batch_size
  epochs = {"steps_per_epoch": max(1, steps_per_epoch)}
  norm_params = {"norm_params": problem.last_shared_mask}
  return {
    "uncertainty_weighting": {"kind": problem.dataset.task_kinds},
    "dwa": epochs,
    "igb": epochs,
    "gradnorm": {} if settings.source == "representation" else norm_params,
    # No task lies.
    "krum": {"num_byzantine": 0},
    # Of two tasks' entries nothing is left without the largest and smallest.
    "trimmed_mean": {"trim": 0 if problem.num_tasks < 3 else 1},
  }.get(name, {})


def _preferences(num_tasks: int) -> tuple[np.ndarray, np.ndarray]:
  """Pareto MTL's directions [K, T], and those to train, the middle first."""
  middle = np.full((1, num_tasks), num_tasks**-0.5)
  if num_tasks == 2:
    directions = optax_mtl.pareto.uniform_directions(_NUM_PREFERENCES)
    others = np.delete(directions, _NUM_PREFERENCES // 2, axis=0)
    return directions, np.concatenate([middle, others])
  directions = optax_mtl.pareto.das_dennis_directions(num_tasks, 2)
  return np.concatenate([middle, directions]), middle


def recipe(
  name: str, problem: Problem, settings: Settings, size: int
) -> Recipe:
  """The recipe of a registered method, or of one of the rows always there.

  Args:
    name: A key of `optax_mtl.METHODS`, or `SINGLE_TASK`. `fixed_weighting`
      becomes the sweep.
    problem: What is trained.
    settings: How.
    size: Points of the sweep.

  Returns:
    The recipe.
  """
  num_tasks = problem.num_tasks
  if name in (SINGLE_TASK, SWEEP):
    weights = np.eye(num_tasks)
    if name == SWEEP:
      weights = sweep_weights(num_tasks, size)
    return Recipe(
      name,
      lambda point: optax_mtl.fixed_weighting(num_tasks, point),
      weights,
      conflicts=False,
    )
  build = optax_mtl.METHODS[name]
  if name == "pareto_mtl":
    directions, trained = _preferences(num_tasks)
    budget = max(1, settings.steps // 5)
    return Recipe(
      name,
      lambda point: build(num_tasks, directions, feasibility_steps=budget),
      trained,
      point_is_preference=True,
    )
  specific = _specific(name, problem, settings)
  return Recipe(
    name,
    lambda point: build(num_tasks, **specific),
    np.zeros((1, 1)),
    second_batch="second_grads" in examples.example(name, num_tasks)[1],
    # It is an Adam of its own.
    optimizer=optax.sgd if name == "m_config" else optax.adam,
  )
