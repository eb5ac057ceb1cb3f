"""Trains one method at all rates and seeds, and all points, in one step."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.common import tuning
from benchmarks.networks.scores import Batch
from benchmarks.networks.trunk_and_heads import Problem, sample_batch

#: Params and the state of the optimizer.
Carry = tuple[Any, Any]
#: Losses [T], weights [T] and the share of conflicts of a step, or their means;
#: NaN where a method has no weights, or conflicts are not counted.
Seen = tuple[jax.Array, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How every method of a comparison is trained.

  Attributes:
    steps: Optimizer steps.
    batch_size: Examples per step.
    rates: Of Adam; of several, validation chooses one for each point of each
      method.
    num_seeds: Networks per method, trained at once.
    eval_every: Steps between two evaluations.
    source: "stacked", "implicit" or "representation".
  """

  steps: int = 600
  batch_size: int = 128
  rates: tuple[float, ...] = (1e-3,)
  num_seeds: int = 3
  eval_every: int = 30
  source: str = "stacked"


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One method, ready to be trained.

  Attributes:
    label: Its name in tables and pictures.
    build: From a point (a row of `points`, traced) to the method.
    points: Array [N, ...]: N variants that are trained at once, such as the
      weights of a sweep or the preferences of a front.
    point_is_preference: Whether the update takes the point as `preference`.
    conflicts: Whether to count them. Without, weights that are fixed take one
      backward pass.
    second_batch: Whether the update takes the gradients of another batch.
    optimizer: From the learning rate to what comes after the method.
  """

  label: str
  build: Callable[[jax.Array], optax.GradientTransformationExtraArgs]
  points: np.ndarray
  point_is_preference: bool = False
  conflicts: bool = True
  second_batch: bool = False
  optimizer: Callable[..., optax.GradientTransformation] = optax.adam


@dataclasses.dataclass
class Run:
  """What training left behind; N points, S seeds, E evaluations, R rates.

  Of each point, the networks with the rate that validation chose.

  Attributes:
    steps: [E], the step of each evaluation.
    losses: [N, S, E, T], training losses, averaged between evaluations.
    weights: [N, S, E, T], the method's weights, likewise.
    test_metrics: [N, S, E, T].
    validation_metrics: [N, S, T], at the end.
    rate: [N], as chosen.
    tried: [N, R], the score of each rate on validation, lower is better; of one
      rate alone, NaN.
    conflict_rate: Share of task pairs in conflict, over steps, points, seeds;
      NaN where they are not counted.
    compile_seconds: To trace and compile the training step.
    steps_per_second: Of the step that trains all N * R * S networks.
    peak_mib: Memory of that step, by XLA's analysis: arguments, outputs and
      temporaries.
  """

  steps: np.ndarray
  losses: np.ndarray
  weights: np.ndarray
  test_metrics: np.ndarray
  validation_metrics: np.ndarray
  rate: np.ndarray
  tried: np.ndarray
  conflict_rate: float
  compile_seconds: float
  steps_per_second: float
  peak_mib: float

  @classmethod
  def from_data(cls, data: Mapping[str, Any]) -> "Run":
    """The run that `dataclasses.asdict` made that of, through JSON."""
    return cls(
      **{
        name: np.asarray(value) if isinstance(value, list) else value
        for name, value in data.items()
      }
    )


def split_validation(train: Any, share: float = 0.15) -> tuple[Any, Any]:
  """A fixed random split of the training examples, to choose weights on."""
  number = len(train["y"])
  order = np.random.default_rng(0).permutation(number)
  held_out = int(number * share)

  def pick(rows: np.ndarray) -> Any:
    return jax.tree.map(lambda array: array[rows], train)

  return pick(order[held_out:]), pick(order[:held_out])


def _losses_and_grads(problem: Problem, source: str) -> Callable[..., Any]:
  """`(params, batch) -> ((losses, kpis), grads)` from a source by name."""
  if source != "representation":
    return optax_mtl.value_and_task_grads(
      problem.loss_and_kpis,
      has_aux=True,
      source=source,
      shared=problem.shared_mask,
    )

  value_and_grads = optax_mtl.value_and_representation_grads(
    lambda params, batch: (problem.trunk(params, batch["x"]), None),
    problem.heads_and_kpis,
    has_aux=True,
    shared=problem.shared_mask,
  )

  def at_representation(params: Any, batch: Batch) -> Any:
    (losses, (_, kpis)), grads = value_and_grads(params, batch)
    return (losses, kpis), grads

  return at_representation


@functools.lru_cache(maxsize=1)
def _init_and_evaluate(
  problem: Problem,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """For many networks at once; all methods of a comparison compile these."""
  # One after another: batched random numbers take longer to compile.
  init = jax.jit(lambda keys: jax.lax.map(problem.init, keys))
  return init, jax.jit(jax.vmap(problem.evaluate, in_axes=(0, None)))


def _scores(
  problem: Problem, validation: np.ndarray, baseline: np.ndarray | None
) -> np.ndarray:
  """What each point's rates are chosen by: [N, R] of metrics [N, R, S, T].

  Without a baseline point i is a network for task i alone, and has that metric.
  """
  up = problem.dataset.higher_is_better
  mean = validation.mean(axis=2)
  if baseline is not None:
    return tuning.score(mean, baseline, up)
  return np.stack(
    [
      tuning.score(mean[task, :, task, None], None, up[task : task + 1])
      for task in range(len(mean))
    ]
  )


def train(
  problem: Problem,
  recipe: Recipe,
  settings: Settings,
  *,
  train_set: Any,
  validation_set: Any,
  baseline: np.ndarray | None = None,
  on_progress: Callable[[int], None] = lambda steps: None,
) -> Run:
  """Trains every point at every rate on every seed, all at once.

  Networks with the same seed start from the same params and see the same
  batches, whatever the method.

  Args:
    problem: Data, network and losses.
    recipe: The method.
    settings: Steps, seeds and so on.
    train_set: `{"x", "y"}` to draw batches from.
    validation_set: `{"x", "y"}` that is only evaluated, at the end.
    baseline: [T], the single-task networks' metrics on it, which rates are
      chosen by; None for these networks themselves.
    on_progress: Called with the number of steps done since the last call.

  Returns:
    The `Run`.
  """
  num_points, num_seeds = len(recipe.points), settings.num_seeds
  num_rates = len(settings.rates)
  num_variants = num_points * num_rates
  # The traced function of one network; `vmap` makes it all of them.
  losses_and_grads = _losses_and_grads(
    problem, settings.source if recipe.conflicts else "implicit"
  )

  def transformation(
    point: jax.Array, rate: jax.Array
  ) -> optax.GradientTransformationExtraArgs:
    tx = recipe.build(point)
    if recipe.conflicts:
      tx = optax_mtl.track(tx, window=1)
    return optax.chain(tx, recipe.optimizer(rate))

  def init_carry(params: Any, points: jax.Array, rates: jax.Array) -> Carry:
    def tile(leaf: jax.Array) -> jax.Array:
      return jnp.tile(leaf, (num_variants,) + (1,) * (leaf.ndim - 1))

    params = jax.tree.map(tile, params)
    state = jax.vmap(lambda p, *which: transformation(*which).init(p))
    return params, state(params, points, rates)

  def chunk(
    carry: Carry,
    point: jax.Array,
    rate: jax.Array,
    key: jax.Array,
    first: jax.Array,
  ) -> tuple[Carry, Seen]:
    tx = transformation(point, rate)

    def grads_of_a_batch(params: Any, key: jax.Array) -> Any:
      batch = sample_batch(key, train_set, settings.batch_size)
      return losses_and_grads(params, batch)

    def step(carry: Carry, index: jax.Array) -> tuple[Carry, Seen]:
      params, state = carry
      key_of_step = jax.random.fold_in(key, index)
      (losses, kpis), grads = grads_of_a_batch(params, key_of_step)
      extra = {"losses": losses, "kpis": kpis}
      if recipe.second_batch:
        _, second_grads = grads_of_a_batch(
          params, jax.random.fold_in(key_of_step, 1)
        )
        extra["second_grads"] = second_grads
      if recipe.point_is_preference:
        extra["preference"] = point
      updates, state = tx.update(grads, state, params, **extra)
      seen = (
        losses,
        # A method that makes its update from the gradients has none.
        optax.tree.get(state, "weights", jnp.full_like(losses, jnp.nan)),
        optax_mtl.diagnostics(state, cosines=False)["conflict_rate"]
        if recipe.conflicts
        else jnp.asarray(jnp.nan),
      )
      return (optax.apply_updates(params, updates), state), seen

    indices = first + jnp.arange(settings.eval_every)
    carry, seen = jax.lax.scan(step, carry, indices)
    return carry, jax.tree.map(lambda x: jnp.mean(x, axis=0), seen)

  seeds = jax.random.split(jax.random.key(0), num_seeds)
  keys = jnp.tile(seeds, num_variants)
  points = jnp.repeat(
    jnp.asarray(recipe.points, jnp.float32), num_rates * num_seeds, axis=0
  )
  rates = jnp.tile(
    jnp.repeat(jnp.asarray(settings.rates, jnp.float32), num_seeds), num_points
  )
  init, evaluate = _init_and_evaluate(problem)
  carry = jax.jit(init_carry)(init(seeds), points, rates)

  start = time.perf_counter()
  compiled = (
    jax.jit(jax.vmap(chunk, in_axes=(0, 0, 0, 0, None)), donate_argnums=0)
    .lower(carry, points, rates, keys, 0)
    .compile()
  )
  compile_seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  peak = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )

  seen: list[Seen] = []
  metrics: list[np.ndarray] = []
  seconds = 0.0
  num_chunks = max(1, settings.steps // settings.eval_every)
  for index in range(num_chunks):
    start = time.perf_counter()
    done = index * settings.eval_every
    carry, means = compiled(carry, points, rates, keys, done)
    jax.block_until_ready(carry)
    seconds += time.perf_counter() - start
    seen.append(jax.device_get(means))
    metrics.append(np.asarray(evaluate(carry[0], problem.test)["metrics"]))
    on_progress(settings.eval_every)

  def by_model(array: np.ndarray) -> np.ndarray:
    shape = num_points, num_rates, num_seeds
    return array.reshape(*shape, *array.shape[1:])

  validation = by_model(
    np.asarray(evaluate(carry[0], validation_set)["metrics"])
  )
  tried = np.full((num_points, num_rates), np.nan)
  best = np.zeros(num_points, int)
  if num_rates > 1:
    tried = _scores(problem, validation, baseline)
    best = tried.argmin(axis=1)

  def chosen(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return by_model(np.stack(arrays, axis=1))[np.arange(num_points), best]

  losses, weights, conflicts = zip(*seen, strict=True)
  return Run(
    steps=settings.eval_every * np.arange(1, num_chunks + 1),
    losses=chosen(losses),
    weights=chosen(weights),
    test_metrics=chosen(metrics),
    validation_metrics=validation[np.arange(num_points), best],
    rate=np.asarray(settings.rates)[best],
    tried=tried,
    conflict_rate=float(np.mean(conflicts)),
    compile_seconds=compile_seconds,
    steps_per_second=num_chunks * settings.eval_every / seconds,
    peak_mib=peak / 2**20,
  )
