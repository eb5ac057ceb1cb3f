"""Methods with the loss function: `python -m benchmarks.quality.with_loss_fn`.

Trains the functions of `optax_mtl.training` beside equal weights: several seeds
at once, from the same params, on the same batches. The second batch of those
that learn weights on validation is drawn from the training data too, as their
authors draw it, so that no row sees other data. Prints test metrics, what the
weights became, and the FLOPs of a step as multiples of a plain step's, which is
one forward and one backward pass of the summed loss.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl
from benchmarks.common import options, output
from benchmarks.data import datasets
from benchmarks.networks import trunk_and_heads
from benchmarks.networks.scores import Batch
from benchmarks.networks.trunk_and_heads import Problem, sample_batch
from optax_mtl import metrics, training

EQUAL = "equal_weighting"

#: Function from the number of inner steps to a method.
Build = Callable[[int], training.TrainingMethod]


class Row(NamedTuple):
  """What a method came to.

  Attributes:
    label: The method.
    values: [S, T], test metrics of each seed.
    weights: [S, T], the last step's weights; NaN where there are none.
    cost: FLOPs of a step by those of a plain step.
  """

  label: str
  values: np.ndarray
  weights: np.ndarray
  cost: float


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Reads the command line."""
  parser = options.new_parser("quality.with_loss_fn", __doc__)
  add = parser.add_argument
  known = list(datasets.DATASETS)
  add("--dataset", default="digits", choices=known, help="what to train on")
  add("--data-dir", help="folder of the .npz files; digits and toys need none")
  add("--steps", type=int, default=600, help="per network")
  add("--seeds", type=int, default=3, help="networks a method")
  add("--batch-size", type=int, default=128, help="examples a batch")
  add("--rate", type=float, default=1e-3, help="Adam's, and the virtual step's")
  add("--weight-rate", type=float, default=1e-3, help="Adam's for the weights")
  add("--inner-rate", type=float, default=0.1, help="of FORUM's inner steps")
  add("--held-out", type=int, default=0, help="examples to test on; 0: all")
  add("--markdown", action="store_true", help="print the table for the docs")
  args = parser.parse_args(argv)
  for name in ("steps", "seeds", "batch_size"):
    if getattr(args, name) < 1:
      parser.error(f"--{name.replace('_', '-')} must be at least 1")
  return args


def equal(num_tasks: int, loss_fn: Any, tx: Any) -> training.TrainingMethod:
  """The plain step, in the shape of the others."""
  del num_tasks

  def update(params: Any, state: Any, batch: Batch, _: Batch) -> Any:
    grads = jax.grad(lambda p: jnp.sum(loss_fn(p, batch)))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return training.TrainingMethod(tx.init, update)


def contenders(problem: Problem, args: argparse.Namespace) -> dict[str, Build]:
  """Label -> method; what it leaves at its default is not named here."""
  num_tasks, loss_fn = problem.num_tasks, problem.loss_fn
  adam, learner = optax.adam(args.rate), optax.adam(args.weight_rate)
  epoch = max(1, len(problem.dataset.train["y"]) // args.batch_size)
  virtual = {"virtual_rate": args.rate, "weight_optimizer": learner}

  def sharp(method: Any) -> training.TrainingMethod:
    tx = optax.chain(method, adam)
    samo = training.samo(num_tasks, loss_fn, tx, shared=problem.shared_mask)
    return samo._replace(
      update=lambda params, state, batch, _: samo.update(params, state, batch)
    )

  def forum(inner_steps: int) -> training.TrainingMethod:
    return training.forum(
      num_tasks,
      loss_fn,
      adam,
      inner_rate=args.inner_rate,
      inner_steps=inner_steps,
      steps_per_epoch=epoch,
      weight_optimizer=learner,
    )

  return {
    EQUAL: lambda _: equal(num_tasks, loss_fn, adam),
    "auto_lambda": lambda _: training.auto_lambda(
      num_tasks, loss_fn, adam, **virtual
    ),
    "auto_lambda, finite difference": lambda _: training.auto_lambda(
      num_tasks, loss_fn, adam, hypergradient="finite_difference", **virtual
    ),
    "moml": lambda _: training.moml(num_tasks, loss_fn, adam, **virtual),
    "forum": forum,
    "samo(equal_weighting)": lambda _: sharp(
      optax_mtl.equal_weighting(num_tasks)
    ),
  }


def flops(build: Build, problem: Problem, batch_size: int) -> float:
  """FLOPs of one step of one network, in the compiled program.

  XLA counts the body of a loop once, however often it runs: so FORUM's inner
  steps after the first are counted by a second program.
  """

  def counted(inner_steps: int) -> float:
    method = build(inner_steps)
    params = jax.eval_shape(problem.init, jax.random.key(0))
    state = jax.eval_shape(method.init, params)
    batch = jax.eval_shape(
      lambda: sample_batch(jax.random.key(0), problem.train, batch_size)
    )
    step = jax.jit(method.update).lower(params, state, batch, batch)
    return step.compile().cost_analysis()["flops"]

  one, two = counted(1), counted(2)
  # 5 inner steps, the default.
  return one + 4 * (two - one)


def train(
  problem: Problem, method: training.TrainingMethod, args: argparse.Namespace
) -> tuple[Any, Any]:
  """Params and state of all seeds after training, leaves [S, ...]."""
  draw = functools.partial(
    sample_batch, data=problem.train, size=args.batch_size
  )

  def run(key: jax.Array) -> tuple[Any, Any]:
    params = problem.init(key)

    def step(carry: Any, index: jax.Array) -> tuple[Any, None]:
      first, second = jax.random.split(jax.random.fold_in(key, index))
      return method.update(*carry, draw(first), draw(second)), None

    carry = params, method.init(params)
    return jax.lax.scan(step, carry, jnp.arange(args.steps))[0]

  return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), args.seeds))


def last_weights(state: Any, shape: tuple[int, ...]) -> np.ndarray:
  """The weights of the last step, [S, T]; NaN where there are none."""
  own = getattr(state, "weights", None)
  if own is None:
    found = optax_mtl.method_states(state).values()
    own = next((method.weights for method in found), np.full(shape, np.nan))
  return np.asarray(own)


def measure(problem: Problem, args: argparse.Namespace) -> list[Row]:
  """Trains all, equal weights first."""
  test = problem.test
  if args.held_out:
    test = jax.tree.map(lambda array: array[: args.held_out], test)
  evaluate = jax.jit(jax.vmap(problem.evaluate, in_axes=(0, None)))
  rows: list[Row] = []
  plain = np.nan
  for label, build in contenders(problem, args).items():
    cost = flops(build, problem, args.batch_size)
    plain = cost if label == EQUAL else plain
    params, state = train(problem, build(5), args)
    values = np.asarray(evaluate(params, test)["metrics"])
    weights = last_weights(state, values.shape)
    rows.append(Row(label, values, weights, cost / plain))
  return rows


def cells(problem: Problem, rows: Sequence[Row]) -> list[list[str]]:
  """The table: means and standard deviations over the seeds."""
  base = rows[0].values.mean(axis=0)
  table: list[list[str]] = []
  for row in rows:
    spread = row.values.std(axis=0, ddof=1 if len(row.values) > 1 else 0)
    mean = row.values.mean(axis=0)
    change = metrics.delta_m(mean, base, problem.dataset.higher_is_better)
    weights = row.weights.mean(axis=0)
    table.append(
      [
        row.label,
        *(f"{m:.4f} ± {s:.4f}" for m, s in zip(mean, spread, strict=True)),
        f"{float(change):+.2f}",
        " ".join(f"{w:.2f}" for w in weights)
        if np.isfinite(weights).all()
        else "1 each",
        f"{row.cost:.1f}",
      ]
    )
  return table


def header(problem: Problem) -> list[str]:
  """The columns' titles."""
  data = problem.dataset
  return [
    "method",
    *(
      f"{task} {metric} {'↑' if up else '↓'}"
      for task, metric, up in zip(
        data.task_names, data.metrics, data.higher_is_better, strict=True
      )
    ),
    "Δm to equal % ↓",
    "last weights",
    "FLOPs",
  ]


def main(argv: Sequence[str] | None = None) -> int:
  """Trains and prints; returns the exit status."""
  args = parse(argv)
  console = output.new_console(160)
  try:
    dataset = datasets.load(args.dataset, args.data_dir)
  except (FileNotFoundError, ValueError) as error:
    console.print(str(error), style="red", markup=False)
    return 2
  problem = trunk_and_heads.build(dataset)
  rows = measure(problem, args)
  table = output.new_table(dataset.name, header(problem))
  for row in cells(problem, rows):
    table.add_row(*row)
  console.print(table)
  if args.markdown:
    lines = [header(problem), ["---", *["---:"] * (problem.num_tasks + 3)]]
    for line in [*lines, *cells(problem, rows)]:
      text = f"| {' | '.join(line)} |"
      console.print(text, markup=False, soft_wrap=True)
  finite = all(np.isfinite(row.values).all() for row in rows)
  if not finite:
    console.print("[yellow]Some metrics are not finite: see the table.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
