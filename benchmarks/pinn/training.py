"""Trains one method on all seeds, and all points of a sweep, in one step."""

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

import optax_mtl
from benchmarks.common import timing
from benchmarks.pinn.problem import Params, Problem

#: Steps beyond those asked for, at most, until the time is used up: so many
#: times the steps.
_MOST_STEPS = 2.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """How every method of a comparison is trained.

  Attributes:
    steps: Optimizer steps.
    num_seeds: Networks per method, trained at once.
    eval_every: Steps between two evaluations.
    rate: The learning rate over the steps, the same for every method.
  """

  steps: int
  num_seeds: int
  eval_every: int
  rate: optax.Schedule


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One method, ready to be trained.

  Attributes:
    label: Its name in tables and pictures.
    build: From a point (a row of `points`, traced) to the method.
    points: Array [N, ...]: N variants that are trained at once, the weights of
      a sweep.
    optimizer: From the learning rate to what comes after the method.
    traces_every: The method needs `traces`, computed at so many steps and held
      between; 0: it needs none.
    source: "stacked" or "implicit".
  """

  label: str
  build: Callable[[jax.Array], optax.GradientTransformationExtraArgs]
  points: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((1, 1))
  )
  optimizer: Callable[..., optax.GradientTransformation] = optax.adam
  traces_every: int = 0
  source: str = "stacked"


@dataclasses.dataclass
class Run:
  """What training left behind; N points, S seeds, E evaluations, T terms.

  Attributes:
    steps: [E], the step of each evaluation; steps beyond those asked for are
      there where a method is so cheap that it had time left.
    errors: [N, S, E], relative L2 errors.
    losses: [N, S, E, T], on points that are not those of the steps.
    weights: [N, S, E, T], the method's weights, averaged between evaluations;
      NaN where it has none.
    field: [points, ...], the first variant's values at the steps that were
      asked for, of the seed with the median error.
    scalars: [N, S], for each scalar that is trained beside the network.
    seconds_per_step: Of one variant and all seeds, in the fastest chunk: what a
      quiet machine would show.
    flops: Of one step and one variant, by XLA's analysis.
    compile_seconds: To trace and compile the training step.
  """

  steps: np.ndarray
  errors: np.ndarray
  losses: np.ndarray
  weights: np.ndarray
  field: np.ndarray
  scalars: dict[str, np.ndarray]
  seconds_per_step: float
  flops: float
  compile_seconds: float


def _differs(
  fun: Callable[..., Any], args: Any, differing: Sequence[bool]
) -> list[bool]:
  """Which output leaves depend on an input leaf that differs.

  Args:
    fun: Any function of arrays.
    args: Its arguments.
    differing: One for each leaf of `args`.

  Returns:
    One for each leaf of the result.
  """
  jaxpr = jax.make_jaxpr(fun)(*args).jaxpr
  found = {
    var for var, flag in zip(jaxpr.invars, differing, strict=True) if flag
  }

  def is_found(atom: Any) -> bool:
    return not isinstance(atom, core.Literal) and atom in found

  for equation in jaxpr.eqns:
    if any(is_found(atom) for atom in equation.invars):
      found.update(equation.outvars)
  return [is_found(atom) for atom in jaxpr.outvars]


def common_leaves(
  init: Callable[..., Any], step: Callable[..., Any], key: Any, point: Any
) -> list[int | None]:
  """The axis of each leaf of the carry: None where all networks have the same.

  A counter that is carried once leaves a `lax.cond` on it a branch under
  `vmap`; with one for each network both branches would always be computed.
  """
  differs = _differs(init, (key, point), [True] * 2)
  carry = jax.eval_shape(init, key, point)
  while True:
    args = (carry, point, key, jnp.zeros((), jnp.int32))
    after = _differs(step, args, [*differs, True, True, False])
    after = after[: len(differs)]
    both = [a or b for a, b in zip(differs, after, strict=True)]
    if both == differs:
      return [0 if flag else None for flag in both]
    differs = both


def _traces(
  problem: Problem, params: Params, batches: Any
) -> dict[str, jax.Array]:
  """The traces of the terms' tangent kernels, over the number of points."""

  def residual(name: str, params: Params, point: jax.Array) -> jax.Array:
    # The loss is the mean of its square.
    root = problem.terms[name].scale ** 0.5
    return root * problem.residuals(name, params, point[None])

  return optax_mtl.ntk_traces(
    {name: partial(residual, name) for name in batches},
    params,
    batches,
    reduction="mean",
  )


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The steps of all variants and seeds of one recipe, compiled.

  Attributes:
    chunk: `(carry, first step) -> (carry, mean weights)`, as many steps as lie
      between two evaluations. It takes the carry's buffers.
    start: The carry before the first step: params, states and traces.
    flops: Of one step and one variant, by XLA's analysis.
    seconds: That compiling took.
  """

  chunk: Callable[[Any, int], tuple[Any, jax.Array]]
  start: Any
  flops: float
  seconds: float


def compile_steps(
  problem: Problem, recipe: Recipe, settings: Settings
) -> Compiled:
  """Builds and compiles the steps.

  Networks with the same seed start from the same params and see the same
  points, whatever the method.

  Args:
    problem: The terms and the network.
    recipe: The method.
    settings: Steps, seeds and so on.

  Returns:
    The steps.
  """
  losses_and_grads = optax_mtl.value_and_task_batch_grads(
    {name: partial(problem.loss, name) for name in problem.task_names},
    source=recipe.source,
  )

  def transformation(point: jax.Array) -> optax.GradientTransformation:
    return optax.chain(recipe.build(point), recipe.optimizer(settings.rate))

  def init(key: jax.Array, point: jax.Array) -> Any:
    params = problem.init(key)
    traces = dict.fromkeys(problem.task_names, jnp.ones((), jnp.float32))
    return params, transformation(point).init(params), traces

  # Of a method that has none.
  none = jnp.full((problem.num_tasks,), jnp.nan)

  def step(
    carry: Any, point: jax.Array, key: jax.Array, index: jax.Array
  ) -> tuple[Any, Any]:
    params, state, traces = carry
    batches = problem.sample(jax.random.fold_in(key, index))
    losses, grads = losses_and_grads(params, batches)
    extra = {"losses": losses}
    if recipe.traces_every:
      traces = jax.lax.cond(
        index % recipe.traces_every == 0,
        lambda: _traces(problem, params, batches),
        lambda: traces,
      )
      extra["traces"] = traces
    updates, state = transformation(point).update(grads, state, params, **extra)
    weights = optax.tree.get(state, "weights", none)
    return (optax.apply_updates(params, updates), state, traces), weights

  num_points, num_seeds = len(recipe.points), settings.num_seeds
  keys = jnp.tile(jax.random.split(jax.random.key(0), num_seeds), num_points)
  points = jnp.repeat(
    jnp.asarray(recipe.points, jnp.float32), num_seeds, axis=0
  )
  flat = common_leaves(init, step, keys[0], points[0])
  structure = jax.tree.structure(jax.eval_shape(init, keys[0], points[0]))
  axes = jax.tree.unflatten(structure, flat)
  all_steps = jax.vmap(step, in_axes=(axes, 0, 0, None), out_axes=(axes, 0))

  def chunk(carry: Any, first: jax.Array) -> tuple[Any, jax.Array]:
    carry, weights = jax.lax.scan(
      lambda carry, index: all_steps(carry, points, keys, index),
      carry,
      first + jnp.arange(settings.eval_every),
    )
    return carry, jnp.mean(weights, axis=0)

  carry = jax.jit(jax.vmap(init, out_axes=axes))(keys, points)
  start = time.perf_counter()
  compiled = jax.jit(chunk, donate_argnums=0).lower(carry, 0).compile()
  seconds = time.perf_counter() - start
  # XLA counts a loop's body once: that is one step.
  flops = float(compiled.cost_analysis()["flops"]) / num_points
  return Compiled(compiled, carry, flops, seconds)


@functools.cache
def _evaluation(problem: Problem) -> Callable[[Any], tuple[Any, Any]]:
  """From the params of several networks to their errors and losses."""

  def evaluate(params: Params) -> tuple[jax.Array, jax.Array]:
    # Here and not in the steps, so that no method pays for losses that it does
    # not read. The points are the same for all.
    batches = problem.sample(jax.random.key(1))
    losses = [problem.loss(name, params, batches[name]) for name in batches]
    return problem.error(params), jnp.stack(losses)

  return jax.jit(jax.vmap(evaluate))


@functools.cache
def _solution(problem: Problem) -> Callable[[Params], jax.Array]:
  return jax.jit(problem.solved)


def train(
  problem: Problem,
  recipe: Recipe,
  settings: Settings,
  *,
  seconds: float = 0.0,
  on_progress: Callable[[int], None] = lambda steps: None,
) -> Run:
  """Trains every variant on every seed at once.

  Args:
    problem: The terms and the network.
    recipe: The method.
    settings: Steps, seeds and so on.
    seconds: Steps go on, up to twice as many, until one variant has used so
      much time: for a comparison at equal time.
    on_progress: Called with the number of steps done since the last call.

  Returns:
    The `Run`.
  """
  num_points, num_seeds = len(recipe.points), settings.num_seeds
  steps = compile_steps(problem, recipe, settings)
  carry = steps.start
  weights: list[np.ndarray] = []
  errors: list[np.ndarray] = []
  losses: list[np.ndarray] = []
  times: list[float] = []
  field = np.zeros(0)
  least = num_chunks = max(1, settings.steps // settings.eval_every)
  index = 0
  while index < num_chunks:
    start = time.perf_counter()
    carry, mean_weights = steps.chunk(carry, index * settings.eval_every)
    jax.block_until_ready(carry)
    times.append(time.perf_counter() - start)
    weights.append(np.asarray(mean_weights))
    error, loss = jax.device_get(_evaluation(problem)(carry[0]))
    errors.append(error)
    losses.append(loss)
    index += 1
    if index == least:
      of_seeds = np.nan_to_num(errors[-1][:num_seeds], nan=np.inf)
      median = np.argsort(of_seeds)[(num_seeds - 1) // 2]
      params = jax.tree.map(operator.itemgetter(median), carry[0])
      field = np.asarray(_solution(problem)(params))
      wanted = int(seconds / (min(times) / num_points))
      num_chunks = max(least, min(wanted, int(_MOST_STEPS * least)))
    if index <= least:
      on_progress(settings.eval_every)

  def by_model(arrays: Sequence[np.ndarray]) -> np.ndarray:
    stacked = np.stack(arrays, axis=1)
    return stacked.reshape(num_points, num_seeds, *stacked.shape[1:])

  return Run(
    steps=settings.eval_every * np.arange(1, num_chunks + 1),
    errors=by_model(errors),
    losses=by_model(losses),
    weights=by_model(weights),
    field=field,
    scalars={
      name: np.asarray(value).reshape(num_points, num_seeds)
      for name, value in carry[0].items()
      if name != "layers"
    },
    seconds_per_step=min(times) / num_points / settings.eval_every,
    flops=steps.flops,
    compile_seconds=steps.seconds,
  )


def time_steps(
  problem: Problem,
  recipes: Mapping[str, Recipe],
  settings: Settings,
  rounds: int = 3,
) -> dict[str, float]:
  """Seconds of one step of one variant, the methods timed in turn.

  On a machine that does other things too, those that were trained at a busy
  time look slow; so here each gets its turn in every round, and what counts is
  its fastest.

  Args:
    problem: What is trained.
    recipes: By label.
    settings: How.
    rounds: How often.

  Returns:
    Label to seconds.
  """

  def runner(recipe: Recipe) -> Callable[[], None]:
    steps = compile_steps(problem, recipe, settings)
    carry = [steps.start]

    def run() -> None:
      # A chunk takes its carry's buffers, and hands back the next.
      carry[0], _ = jax.block_until_ready(steps.chunk(carry[0], 0))

    return run

  runners = {label: runner(recipe) for label, recipe in recipes.items()}
  times = timing.interleave(runners, repeats=rounds, seconds=np.inf)
  return {
    label: times[label].least / len(recipe.points) / settings.eval_every
    for label, recipe in recipes.items()
  }
