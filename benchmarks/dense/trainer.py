"""One method's training step, and one network trained with it.

A step is one compiled call. Neither a loop over steps inside of the program nor
a `vmap` over seeds would pay on a CPU: in a loop XLA's convolutions run on its
naive kernel, and over seeds they become grouped ones.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.dense.problem import Problem, sample
from benchmarks.dense.recipes import Recipe
from benchmarks.dense.scenes import Batch

#: Images that are evaluated together.
_BLOCK = 50
#: All programs here are its results: a test, which runs each once, takes a
#: compiler that does less.
_JIT = jax.jit


def compiled(function: Callable[..., Any], **options: Any) -> Any:
  """The function as a program of its own."""
  return _JIT(function, **options)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How every method of a comparison is trained.

  Attributes:
    steps: Optimizer steps.
    batch_size: Images a step.
    num_seeds: Networks a method.
    eval_every: Steps between two evaluations.
    rates: Adam's learning rates, which fall to 0 by a cosine; of several,
      validation chooses one for each method.
  """

  steps: int
  batch_size: int
  num_seeds: int
  eval_every: int
  rates: tuple[float, ...]


@functools.cache
def _init(problem: Problem) -> Callable[[jax.Array], Any]:
  return compiled(problem.init)


@functools.cache
def _counts(problem: Problem) -> Callable[..., Any]:
  return compiled(problem.counts)


def evaluate(
  problem: Problem, params: Any, stats: Any, data: Batch
) -> np.ndarray:
  """The metrics [T] over a whole split."""
  added: dict[str, Any] = {}
  for first in range(0, len(data["image"]), _BLOCK):
    part = sample(data, slice(first, first + _BLOCK))
    for name, count in _counts(problem)(params, stats, part).items():
      added[name] = added.get(name, 0) + np.asarray(count, np.float64)
  return problem.metrics(added)


def batches(number: int, settings: Settings, seed: int) -> np.ndarray:
  """Which images each step sees: [steps, batch], every epoch in a new order."""
  rng = np.random.default_rng(seed)
  needed = settings.steps * settings.batch_size
  epochs = -(-needed // number)
  order = np.concatenate([rng.permutation(number) for _ in range(epochs)])
  shape = settings.steps, settings.batch_size
  return order[:needed].reshape(shape).astype(np.int32)


def make_step(
  problem: Problem, recipe: Recipe, settings: Settings
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """The first carry and the step of a method, neither compiled.

  Args:
    problem: What is trained.
    recipe: The method.
    settings: How.

  Returns:
    `init(params, stats, point) -> carry` and `step(carry, point, rate, data,
    rows) -> carry`; in the carry are params, statistics, the optimizer's state,
    the losses that this step would see now, and sums [T] of losses, of how
    often they were there, and of weights.
  """
  value_and_grads = problem.value_and_grads(recipe.source, recipe.heads)
  zeros = jnp.zeros(problem.num_tasks)

  def transformation(
    point: jax.Array, rate: jax.typing.ArrayLike
  ) -> optax.GradientTransformationExtraArgs:
    schedule = optax.cosine_decay_schedule(1.0, settings.steps)
    return optax.chain(
      recipe.build(point),
      recipe.optimizer(lambda count: rate * schedule(count)),
    )

  def init(params: Any, stats: Any, point: jax.Array) -> Any:
    state = transformation(point, 0.0).init(params)
    before = {name: jnp.ones(()) for name in problem.tasks}
    return params, stats, state, before, (zeros,) * 3

  def step(
    carry: Any,
    point: jax.Array,
    rate: jax.Array,
    data: Batch,
    rows: jax.Array,
  ) -> Any:
    batch = sample(data, rows)
    params, stats, state, before, sums = carry
    (losses, (stats, kpis)), grads = value_and_grads(params, stats, batch)
    active = problem.active(batch)
    may_pass = {"kpis": kpis, "preference": point, "previous_losses": before}
    extra = {name: may_pass[name] for name in recipe.passes}
    updates, state = transformation(point, rate).update(
      grads, state, params, losses=losses, active=active, **extra
    )
    params = optax.apply_updates(params, updates)
    if "previous_losses" in recipe.passes:
      before, _ = problem.forward(params, stats, batch)
    seen = (
      jnp.stack([losses[name] for name in problem.tasks]),
      jnp.stack([active[name] for name in problem.tasks]).astype(jnp.float32),
      optax.tree.get(state, "weights", jnp.full_like(zeros, jnp.nan)),
    )
    sums = tuple(a + b for a, b in zip(sums, seen, strict=True))
    return params, stats, state, before, sums

  return init, step


class Trainer:
  """A method's step, compiled; a call trains one network.

  Attributes:
    flops: Of one step.
    temp_mib: Of one step.
    seconds_per_step: The fastest so far.
  """

  def __init__(self, problem: Problem, recipe: Recipe, settings: Settings):
    """Compiles."""
    self._problem, self._settings = problem, settings
    init, step = make_step(problem, recipe, settings)
    self._first = compiled(init)
    self._point = jnp.asarray(recipe.points[0], jnp.float32)
    lowered = compiled(step, donate_argnums=0).lower(
      self._start(0, self._point),
      self._point,
      jnp.zeros(()),
      problem.train,
      jnp.zeros(settings.batch_size, jnp.int32),
    )
    self._step = lowered.compile()
    self.flops = float(self._step.cost_analysis()["flops"])
    memory = self._step.memory_analysis()
    self.temp_mib = memory.temp_size_in_bytes / 2**20
    self.seconds_per_step = np.inf

  def _start(self, seed: int, point: jax.Array) -> Any:
    params, stats = _init(self._problem)(jax.random.key(seed))
    return self._first(params, stats, point)

  def __call__(
    self,
    seed: int,
    point: np.ndarray,
    rate: float,
    on_progress: Callable[[int], None] = lambda steps: None,
  ) -> dict[str, Any]:
    """Trains a network.

    Args:
      seed: Of the params and of the order of the batches.
      point: The variant.
      rate: The learning rate at first.
      on_progress: Called with the number of steps done since the last call.

    Returns:
      The fields of a `Run` without the axis of seeds, and "params", "stats".
    """
    problem, settings = self._problem, self._settings
    carry = self._start(seed, jnp.asarray(point, jnp.float32))
    point, rate_now = (jnp.asarray(x, jnp.float32) for x in (point, rate))
    rows = batches(len(problem.train["image"]), settings, seed)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    validation: list[np.ndarray] = []
    for first in range(0, settings.steps, settings.eval_every):
      chunk = rows[first : first + settings.eval_every]
      start = time.perf_counter()
      for row in chunk:
        carry = self._step(carry, point, rate_now, problem.train, row)
      losses, there, weights = jax.device_get(carry[-1])
      seconds = (time.perf_counter() - start) / len(chunk)
      self.seconds_per_step = min(self.seconds_per_step, seconds)
      with np.errstate(invalid="ignore"):
        seen.append((losses / there, weights / len(chunk)))
      validation.append(
        evaluate(problem, carry[0], carry[1], problem.validation)
      )
      zeros = jnp.zeros(problem.num_tasks)
      carry = (*carry[:-1], (zeros, zeros + 0, zeros + 0))
      on_progress(len(chunk))
    losses, weights = map(np.stack, zip(*seen, strict=True))
    return {
      "params": carry[0],
      "stats": carry[1],
      "losses": losses,
      "weights": weights,
      "validation": np.stack(validation),
      "test": evaluate(problem, carry[0], carry[1], problem.test),
    }
