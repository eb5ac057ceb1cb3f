"""Trains one method on all seeds, and all points of a sweep, in one step."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.networks.scores import Batch
from benchmarks.networks.trunk_and_heads import Problem, sample_batch

#: Params and the state of the optimizer.
Carry = tuple[Any, Any]
#: Losses [T], weights [T] and the share of conflicts of a step, or their means.
Seen = tuple[jax.Array, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How every method of a comparison is trained.

  Attributes:
    steps: Optimizer steps.
    batch_size: Examples per step.
    learning_rate: Of Adam, the same for every method.
    num_seeds: Networks per method, trained at once.
    eval_every: Steps between two evaluations.
    source: "stacked", "implicit" or "representation".
  """

  steps: int = 600
  batch_size: int = 128
  learning_rate: float = 1e-3
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
  """

  label: str
  build: Callable[[jax.Array], optax.GradientTransformationExtraArgs]
  points: np.ndarray
  point_is_preference: bool = False


@dataclasses.dataclass
class Run:
  """What training left behind; N points, S seeds, E evaluations.

  Attributes:
    steps: [E], the step of each evaluation.
    losses: [N, S, E, T], training losses, averaged between evaluations.
    weights: [N, S, E, T], the method's weights, likewise.
    test_metrics: [N, S, E, T].
    validation_metrics: [N, S, T], at the end.
    conflict_rate: Share of task pairs in conflict, over steps, points, seeds.
    compile_seconds: To trace and compile the training step.
    steps_per_second: Of the step that trains all N * S networks.
    peak_mib: Memory of that step, by XLA's analysis: arguments, outputs and
      temporaries.
  """

  steps: np.ndarray
  losses: np.ndarray
  weights: np.ndarray
  test_metrics: np.ndarray
  validation_metrics: np.ndarray
  conflict_rate: float
  compile_seconds: float
  steps_per_second: float
  peak_mib: float


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


def train(
  problem: Problem,
  recipe: Recipe,
  settings: Settings,
  *,
  train_set: Any,
  validation_set: Any,
  on_progress: Callable[[int], None] = lambda steps: None,
) -> Run:
  """Trains every point on every seed at once.

  Networks with the same seed start from the same params and see the same
  batches, whatever the method.

  Args:
    problem: Data, network and losses.
    recipe: The method.
    settings: Steps, seeds and so on.
    train_set: `{"x", "y"}` to draw batches from.
    validation_set: `{"x", "y"}` that is only evaluated, at the end.
    on_progress: Called with the number of steps done since the last call.

  Returns:
    The `Run`.
  """
  num_points, num_seeds = len(recipe.points), settings.num_seeds
  # The traced function of one network; `vmap` makes it all of them.
  losses_and_grads = _losses_and_grads(problem, settings.source)

  def transformation(
    point: jax.Array,
  ) -> optax.GradientTransformationExtraArgs:
    return optax.chain(
      optax_mtl.track_conflicts(recipe.build(point), problem.num_tasks),
      optax.adam(settings.learning_rate),
    )

  def init_carry(params: Any, points: jax.Array) -> Carry:
    def tile(leaf: jax.Array) -> jax.Array:
      return jnp.tile(leaf, (num_points,) + (1,) * (leaf.ndim - 1))

    params = jax.tree.map(tile, params)
    state = jax.vmap(lambda p, point: transformation(point).init(p))
    return params, state(params, points)

  def chunk(
    carry: Carry, point: jax.Array, key: jax.Array, first: jax.Array
  ) -> tuple[Carry, Seen]:
    tx = transformation(point)

    def step(carry: Carry, index: jax.Array) -> tuple[Carry, Seen]:
      params, state = carry
      batch = sample_batch(
        jax.random.fold_in(key, index), train_set, settings.batch_size
      )
      (losses, kpis), grads = losses_and_grads(params, batch)
      extra = {"losses": losses, "kpis": kpis}
      if recipe.point_is_preference:
        extra["preference"] = point
      updates, state = tx.update(grads, state, params, **extra)
      seen = (
        losses,
        # A method that makes its update from the gradients has none.
        optax.tree.get(state, "weights", jnp.full_like(losses, jnp.nan)),
        optax.tree.get(state, "conflict_rate"),
      )
      return (optax.apply_updates(params, updates), state), seen

    indices = first + jnp.arange(settings.eval_every)
    carry, seen = jax.lax.scan(step, carry, indices)
    return carry, jax.tree.map(lambda x: jnp.mean(x, axis=0), seen)

  seeds = jax.random.split(jax.random.key(0), num_seeds)
  keys = jnp.tile(seeds, num_points)
  points = jnp.repeat(
    jnp.asarray(recipe.points, jnp.float32), num_seeds, axis=0
  )
  init, evaluate = _init_and_evaluate(problem)
  carry = jax.jit(init_carry)(init(seeds), points)

  start = time.perf_counter()
  compiled = (
    jax.jit(jax.vmap(chunk, in_axes=(0, 0, 0, None)), donate_argnums=0)
    .lower(carry, points, keys, 0)
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
    carry, means = compiled(carry, points, keys, index * settings.eval_every)
    jax.block_until_ready(carry)
    seconds += time.perf_counter() - start
    seen.append(jax.device_get(means))
    metrics.append(np.asarray(evaluate(carry[0], problem.test)["metrics"]))
    on_progress(settings.eval_every)

  def by_model(arrays: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(arrays, axis=1)
    return stacked.reshape(num_points, num_seeds, *stacked.shape[1:])

  losses, weights, conflicts = zip(*seen, strict=True)
  validation = np.asarray(evaluate(carry[0], validation_set)["metrics"])
  return Run(
    steps=settings.eval_every * np.arange(1, num_chunks + 1),
    losses=by_model(losses),
    weights=by_model(weights),
    test_metrics=by_model(metrics),
    validation_metrics=validation.reshape(num_points, num_seeds, -1),
    conflict_rate=float(np.mean(conflicts)),
    compile_seconds=compile_seconds,
    steps_per_second=num_chunks * settings.eval_every / seconds,
    peak_mib=peak / 2**20,
  )
