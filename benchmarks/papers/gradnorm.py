"""The toy of GradNorm (ICML 2018): similar tasks whose scales differ.

`f_i(x) = sigma_i tanh((B + E_i) x)` with a trunk of four layers of 100 units
and fresh batches. Reported is the paper's metric, the sum over tasks of test
loss over first test loss. The norms are taken over the last shared layer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.data import datasets
from benchmarks.networks import trunk_and_heads
from benchmarks.networks.scores import Batch
from benchmarks.papers import _report
from optax_mtl import plot

#: Name of a method -> what its training left; see `run`.
Results = dict[str, dict[str, Any]]

#: The paper's for this toy.
_ALPHA = 0.12
#: The paper has 10 tasks with scales that it does not list: ours.
PROBLEMS = {2: (1.0, 100.0), 10: tuple(np.geomspace(1, 100, 10).round(1))}
#: The paper states neither of these, nor how inputs are drawn.
_BATCH, _LEARNING_RATE = 100, 1e-3
_TEST = 1000
#: Of an independent run: two tasks, 6000 steps.
_INDEPENDENT = {
  "weights": (1.971, 0.029),
  "equal_weighting": 1.781,
  "gradnorm": 1.768,
}
STATIC = "gradnorm, static"
METHODS = ("equal_weighting", "gradnorm", "uncertainty_weighting", STATIC)


def _teacher(
  key: jax.Array, sigmas: Sequence[float]
) -> Callable[[jax.Array, int], Batch]:
  """`(key, count) ->` examples of one problem of `datasets.gradnorm_toy`."""
  shared_key, own_key = jax.random.split(key)
  shared = 10.0 * jax.random.normal(shared_key, (100, 250))
  own = 3.5 * jax.random.normal(own_key, (len(sigmas), 100, 250))
  matrices = shared[None] + own
  scales = jnp.asarray(sigmas, jnp.float32)[None, :, None]

  def draw(key: jax.Array, count: int) -> Batch:
    x = jax.random.uniform(key, (count, 250), minval=-1.0, maxval=1.0)
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    y = scales * jnp.tanh(jnp.einsum("toi,ni->nto", matrices, x))
    return {"x": x, "y": y}

  return draw


def _method(
  name: str, num_tasks: int, weights: jax.Array
) -> optax.GradientTransformationExtraArgs:
  if name == STATIC:
    return optax_mtl.fixed_weighting(num_tasks, weights)
  if name == "gradnorm":
    return optax_mtl.gradnorm(
      num_tasks, _ALPHA, norm_params=trunk_and_heads.last_shared_mask
    )
  return optax_mtl.METHODS[name](num_tasks)


def _trainer(
  name: str, sigmas: Sequence[float], steps: int, every: int
) -> Callable[..., Any]:
  """`(key, weights [T]) ->` what one seed's training leaves; see `run`."""
  # For the network only, since batches are drawn afresh.
  problem = trunk_and_heads.build(
    datasets.gradnorm_toy(sigmas=sigmas, num_train=1, num_test=1)
  )
  # The methods that ask for losses only cost one backward pass this way.
  losses_and_grads = optax_mtl.value_and_task_grads(
    problem.loss_fn, source="stacked" if name == "gradnorm" else "implicit"
  )

  def train(key: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    teacher_key, init_key, test_key, batch_key = jax.random.split(key, 4)
    draw = _teacher(teacher_key, sigmas)
    test = draw(test_key, _TEST)
    params = problem.init(init_key)
    first = problem.loss_fn(params, test)
    tx = optax.chain(
      _method(name, problem.num_tasks, weights), optax.adam(_LEARNING_RATE)
    )

    def step(carry: Any, index: jax.Array) -> Any:
      params, state = carry
      batch = draw(jax.random.fold_in(batch_key, index), _BATCH)
      losses, grads = losses_and_grads(params, batch)
      updates, state = tx.update(grads, state, params, losses=losses)
      params = optax.apply_updates(params, updates)
      return (params, state), optax.tree.get(state, "weights")

    def chunk(carry: Any, number: jax.Array) -> Any:
      carry, weights = jax.lax.scan(
        step, carry, number * every + jnp.arange(every)
      )
      ratios = problem.loss_fn(carry[0], test) / first
      return carry, (jnp.mean(weights, axis=0), ratios)

    carry = params, tx.init(params)
    (_, state), (weights, ratios) = jax.lax.scan(
      chunk, carry, jnp.arange(steps // every)
    )
    mean = optax.tree.get(state, "mean_weights", default=weights[-1])
    return {"weights": weights, "ratios": ratios, "mean_weights": mean}

  return train


def run(
  sigmas: Sequence[float],
  steps: int,
  num_seeds: int,
  num_evaluations: int = 30,
  names: Sequence[str] = METHODS,
) -> Results:
  """Trains every method on every seed; a method's seeds run at once.

  A seed has its own matrices, start and batches, the same for every method.

  Args:
    sigmas: Scales of the T tasks.
    steps: Of Adam.
    num_seeds: S.
    num_evaluations: E, at equal distances; at most `steps`.
    names: Members of `METHODS`; the static variant has to follow "gradnorm",
      whose mean weights it takes.

  Returns:
    For each method `weights` [S, E, T], means since the last evaluation;
    `ratios` [S, E, T], test loss over first test loss; `mean_weights` [S, T];
    `seconds`, compilation included.
  """
  sigmas = tuple(float(sigma) for sigma in sigmas)
  keys = jax.random.split(jax.random.key(0), num_seeds)
  weights = jnp.ones((num_seeds, len(sigmas)))
  every = max(1, steps // num_evaluations)
  results: Results = {}
  for name in names:
    if name == STATIC:
      weights = jnp.asarray(results["gradnorm"]["mean_weights"])
    train = jax.jit(jax.vmap(_trainer(name, sigmas, steps, every)))
    start = time.perf_counter()
    results[name] = jax.device_get(train(keys, weights))
    results[name]["seconds"] = time.perf_counter() - start
  return results


def metric(result: Mapping[str, Any]) -> np.ndarray:
  """The paper's metric at the end, [S]."""
  return result["ratios"][:, -1].sum(axis=-1)


def weights_are_ordered(result: Mapping[str, Any]) -> bool:
  """Whether in every seed a larger scale has ended with a smaller weight."""
  return bool((np.diff(result["weights"][:, -1], axis=-1) < 0).all())


def _rows(results: Results, num_tasks: int) -> list[list[str]]:
  rows: list[list[str]] = []
  for name, result in results.items():
    final = result["weights"][:, -1].mean(axis=0)
    published = ""
    if num_tasks == 2 and name in _INDEPENDENT:
      published = f"{_INDEPENDENT[name]:.3f}"
    rows.append(
      [
        name,
        _report.plus_minus(metric(result), 3),
        published,
        f"{final[0]:.4g}",
        f"{final[-1]:.4g}",
        f"{result['seconds']:.0f}",
      ]
    )
  return rows


def _figures(
  results: Results, sigmas: Sequence[float], steps: int
) -> dict[str, Any]:
  """Weights over time, and the metric over time for each method."""
  number = len(sigmas)
  count = next(iter(results.values()))["weights"].shape[1]
  at = steps // count * np.arange(1, count + 1)
  return {
    f"weights_{number}": plot.weights_over_time(
      {
        name: result["weights"]
        for name, result in results.items()
        if name not in ("equal_weighting", STATIC)
      },
      task_names=[f"sigma = {sigma:g}" for sigma in sigmas],
      steps=at,
      log=True,
    ),
    f"metric_{number}": plot.learning_curves(
      {
        name: result["ratios"].sum(axis=-1, keepdims=True)
        for name, result in results.items()
      },
      task_names=[f"{number} tasks"],
      steps=at,
      ylabel="sum of test losses over first test losses",
    ),
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table a problem; writes JSON and pictures; 1 if out of order."""
  args = _report.parse(
    "gradnorm",
    __doc__,
    argv,
    steps=(6000, "of Adam for two tasks; a quarter of them for ten"),
    seeds=(2, "networks a method"),
  )
  results: dict[str, Any] = {}
  figures: dict[str, Any] = {}
  ordered = True
  for number, sigmas in PROBLEMS.items():
    steps = args.steps if number == 2 else max(1, args.steps // 4)
    result = run(sigmas, steps, args.seeds)
    in_order = weights_are_ordered(result["gradnorm"])
    ordered &= in_order
    _report.print_table(
      f"GradNorm's toy, {number} tasks, {steps} steps, {args.seeds} seeds",
      (
        "",
        f"metric\nof {number}, ↓",
        "independent\nrun",
        "weight of\nsigma 1",
        "weight of\nsigma 100",
        "s",
      ),
      _rows(result, number),
      [
        "Every seed's weights are in the order of the scales: "
        f"{'yes' if in_order else 'no'}."
      ]
      + [
        "The independent run: one seed, 6000 steps, weights {} and {}.".format(
          *_INDEPENDENT["weights"]
        )
      ]
      * (number == 2),
    )
    results[str(number)] = {"sigmas": sigmas, "steps": steps, "methods": result}
    figures |= _figures(result, sigmas, steps)
  _report.write(
    args,
    "gradnorm",
    {"independent": _INDEPENDENT, "ordered": ordered, "problems": results},
    figures,
  )
  return 0 if ordered else 1


if __name__ == "__main__":
  raise SystemExit(main())
