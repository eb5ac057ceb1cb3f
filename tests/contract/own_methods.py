"""Methods as a user writes them, outside of the package and by its public part.

One for each door: an update from the gradients themselves (`largest_entry`), a
weight rule with an optional extra arg (`even_fall`), one that reads a second
batch (`two_batches`), one that sees the solutions of all members of a front
(`grad_hv`), and a function around a whole training step (`keep_if_better`).
With each of the first three goes a plain NumPy loop, as for the package's own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optax_mtl


@optax_mtl.method(
  paper="Nobody, Whoever Shouts Loudest",
  url="https://example.org",
  weights_sum="none",
  claims=["scale_equivariant"],
)
def largest_entry(num_tasks: int) -> optax_mtl.UpdateRule[tuple[()]]:
  """In each entry the gradient that is largest there.

  Args:
    num_tasks: The number of tasks `T`.
  """
  del num_tasks

  def update(step: optax_mtl.Step, memory: tuple[()]) -> tuple[Any, tuple[()]]:
    def pick(grads: jax.Array) -> jax.Array:
      # Of a NaN `argmax` says that it is the largest.
      row = jnp.argmax(jnp.abs(grads), axis=0, keepdims=True)
      return jnp.take_along_axis(grads, row, axis=0)[0]

    return jax.tree.map(pick, step.stacked()), memory

  return optax_mtl.UpdateRule(update, lambda params: ())


class EvenFallMemory(NamedTuple):
  """What `even_fall` remembers.

  Attributes:
    fall_logits: Array [T].
    fallen_losses: Array [T], the losses of the last update; 0 for none.
  """

  fall_logits: jax.Array
  fallen_losses: jax.Array


@optax_mtl.method(
  paper="Nobody, Let All Losses Fall at One Rate",
  url="https://example.org",
  weights_sum="1",
  claims=[
    "simplex",
    "positive_weights",
    "scale_equivariant",
    "permutation_equivariant",
  ],
)
def even_fall(
  num_tasks: int, rate: jax.typing.ArrayLike = 0.3
) -> optax_mtl.WeightRule[EvenFallMemory]:
  """Shares that grow for tasks whose log-loss fell less than the mean.

  Args:
    num_tasks: The number of tasks `T`.
    rate: How far a difference moves the logits.
  """

  def init() -> EvenFallMemory:
    return EvenFallMemory(jnp.zeros((num_tasks,)), jnp.zeros((num_tasks,)))

  def weigh(
    step: optax_mtl.Step, memory: EvenFallMemory
  ) -> tuple[jax.Array, EvenFallMemory]:
    after = step.losses
    if step.has("previous_losses"):
      # Of the last batch, after the last update: what that update did to it.
      after = step.previous_losses
    learns = step.active & (memory.fallen_losses > 0)
    fall = jnp.log(memory.fallen_losses) - jnp.log(after)
    fall = jnp.where(learns, fall, 0.0)
    number = jnp.maximum(jnp.sum(learns.astype(fall.dtype)), 1)
    moved = fall - jnp.sum(fall) / number
    logits = memory.fall_logits - jnp.asarray(rate, fall.dtype) * moved
    logits = step.hold(logits, memory.fall_logits, learns)
    losses = step.hold(step.losses, memory.fallen_losses)
    share = jax.nn.softmax(logits, where=step.active)
    return share, EvenFallMemory(logits, losses)

  return optax_mtl.WeightRule(weigh, init)


class TwoBatchesMemory(NamedTuple):
  """What `two_batches` remembers.

  Attributes:
    shares: Array [T], a point of the simplex.
  """

  shares: jax.Array


@optax_mtl.method(
  paper="Chen, Fernando, Ying & Chen, Three-Way Trade-Off in Multi-Objective "
  "Learning: Optimization, Generalization and Conflict-Avoidance, NeurIPS 2023",
  url="https://arxiv.org/abs/2305.20057",
  weights_sum="1",
  claims=["positive_weights", "permutation_equivariant"],
)
def two_batches(
  num_tasks: int, rate: jax.typing.ArrayLike = 0.1
) -> optax_mtl.WeightRule[TwoBatchesMemory]:
  """Weights that descend `‖Σ w_i g_i‖²`, from two independent batches.

  Args:
    num_tasks: The number of tasks `T`.
    rate: Step length of the weights.
  """

  def init() -> TwoBatchesMemory:
    return TwoBatchesMemory(jnp.full((num_tasks,), 1.0 / num_tasks))

  def weigh(
    step: optax_mtl.Step, memory: TwoBatchesMemory
  ) -> tuple[jax.Array, TwoBatchesMemory]:
    # The active tasks share among them what they have of the simplex.
    mass = jnp.sum(step.only_active(memory.shares))
    known = mass > 0
    shares = step.only_active(
      jnp.where(
        known,
        memory.shares / jnp.where(known, mass, 1.0),
        1.0 / step.num_active,
      )
    )
    slope = step.cross_gram() @ shares
    moved = shares - jnp.asarray(rate, slope.dtype) * slope
    new = optax_mtl.solvers.project_simplex(moved, active=step.active)
    return shares, TwoBatchesMemory(step.hold(mass * new, memory.shares))

  return optax_mtl.WeightRule(weigh, init)


@optax_mtl.method(
  paper="Deist, Grewal, Dankers, Alderliesten & Bosman, Multi-Objective "
  "Learning Using HV Maximization, EMO 2023",
  url="https://arxiv.org/abs/2102.04523",
  weights_sum="1",
  claims=["positive_weights"],
)
def grad_hv(
  num_tasks: int,
  reference: tuple[float, ...] = (2.0, 2.0),
  *,
  axis_name: str = "front",
) -> optax_mtl.WeightRule[tuple[()]]:
  """Weights by how much a loss counts for the hypervolume of all solutions.

  Args:
    num_tasks: The number of tasks `T`, 2.
    reference: The corner that bounds the hypervolume.
    axis_name: The axis of the `vmap` over the solutions.
  """
  del num_tasks

  @optax_mtl.from_step
  def rule(step: optax_mtl.Step) -> jax.Array:
    front = jax.lax.all_gather(step.losses, axis_name)
    slopes = jax.grad(optax_mtl.pareto.hypervolume_2d)(
      front, jnp.asarray(reference, front.dtype)
    )
    # Zero for a solution that is dominated: it stands, for a user to see.
    mine = -slopes[jax.lax.axis_index(axis_name)]
    total = jnp.sum(mine)
    return mine / jnp.where(total > 0, total, 1.0)

  return rule


def keep_if_better(
  train_step: Callable[[Any, Any, Any], tuple[Any, Any]],
  loss_fn: Callable[[Any, Any], jax.Array],
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
  """A training step whose new params stay only if no task's loss rose.

  Methods that look at the loss function again, or that train in two levels, are
  such functions: no transformation of gradients can be.

  Args:
    train_step: Function `(params, state, batch) -> (params, state)`.
    loss_fn: Function `(params, batch) -> losses [T]`.

  Returns:
    A function like `train_step`; the optimizer's state goes on at any rate.
  """

  def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
    new, state = train_step(params, state, batch)
    better = jnp.all(loss_fn(new, batch) <= loss_fn(params, batch))
    return jax.tree.map(
      lambda n, o: jnp.where(better, n, o), new, params
    ), state

  return step


#: The names that the functions above have registered.
NAMES = ("largest_entry", "even_fall", "two_batches", "grad_hv")


def reference_even_fall(num_tasks, grads, extra, rate=0.3):
  logits, last, out = np.zeros(num_tasks), None, []
  after_steps = extra["previous_losses"]
  for losses, after in zip(extra["losses"], after_steps, strict=True):
    if last is not None:
      fall = np.log(last / after)
      logits = logits - rate * (fall - fall.mean())
    out.append(np.exp(logits) / np.exp(logits).sum())
    last = losses
  return np.stack(out)


def reference_two_batches(num_tasks, grads, extra, rate=0.1):
  shares, out = np.full(num_tasks, 1 / num_tasks), []
  for first, second in zip(grads, extra["second_grads"], strict=True):
    out.append(shares)
    moved = shares - rate * (first @ second.T) @ shares
    # Held et al.: the largest support on which all shares are positive.
    ordered = np.sort(moved)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, num_tasks + 1)
    shares = np.maximum(moved - excess[ordered > excess][-1], 0)
  return np.stack(out)


def reference_largest_entry(num_tasks, grads, extra):
  row = np.argmax(np.abs(grads), axis=1)[:, None]
  return np.take_along_axis(grads, row, axis=1)[:, 0]


REFERENCES = {
  "even_fall": reference_even_fall,
  "two_batches": reference_two_batches,
  "largest_entry": reference_largest_entry,
}
