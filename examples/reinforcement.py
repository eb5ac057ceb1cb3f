"""Multi-task reinforcement learning: each task has a batch of its own.

One policy moves a point to three goals. The rewards are in units that differ a
hundredfold, as those of benchmarks do, so that the summed gradient is that of
one task. Each task's episodes are its own batch; the networks see which task it
is. The gradient is REINFORCE's, with the mean return as baseline.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_mtl

GOALS = jnp.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
UNITS = jnp.array([1.0, 10.0, 100.0])
TASKS, EPISODES, LENGTH, NOISE = 3, 64, 8, 0.2


def init(key):
  keys = jax.random.split(key, 2)
  return {
    "trunk": jax.random.normal(keys[0], (2 + TASKS, 32)) / 2,
    "head": jax.random.normal(keys[1], (32, 2)) / 10,
  }


def policy(params, position, task):
  """The mean of the next move."""
  seen = jnp.concatenate([position, jax.nn.one_hot(task, TASKS)])
  return jnp.tanh(seen @ params["trunk"]) @ params["head"]


def episode(params, task, key):
  """Positions, moves [LENGTH, 2] and the return of one episode."""

  def move(position, key):
    mean = policy(params, position, task)
    action = mean + NOISE * jax.random.normal(key, (2,))
    new = position + action
    distance = jnp.sum((new - GOALS[task]) ** 2)
    return new, (position, action, -distance)

  keys = jax.random.split(key, LENGTH)
  _, (positions, actions, rewards) = jax.lax.scan(move, jnp.zeros(2), keys)
  return positions, actions, UNITS[task] * jnp.mean(rewards)


@jax.jit
def collect(params, key):
  """A batch for each task: leaves [T, EPISODES, ...]."""
  tasks = jnp.arange(TASKS)
  keys = jax.random.split(key, (TASKS, EPISODES))
  run = jax.vmap(jax.vmap(episode, (None, None, 0)), (None, 0, 0))
  positions, actions, returns = run(params, tasks, keys)
  return {
    "positions": positions,
    "actions": actions,
    "returns": returns,
    "task": jnp.broadcast_to(tasks[:, None], (TASKS, EPISODES)),
  }


def loss_fn(params, batch):
  """REINFORCE on the episodes of one task: its gradient is the policy's."""
  advantage = batch["returns"] - jnp.mean(batch["returns"])

  def log_probability(positions, actions, task):
    means = jax.vmap(policy, (None, 0, None))(params, positions, task)
    return -jnp.sum((actions - means) ** 2) / (2 * NOISE**2)

  logs = jax.vmap(log_probability)(
    batch["positions"], batch["actions"], batch["task"]
  )
  return -jnp.mean(advantage * logs)


def train(method):
  # One loss function for all tasks, each on its own row of the batch.
  task_grads = optax_mtl.value_and_task_batch_grads(loss_fn)
  tx = optax.chain(method, optax.sgd(optax.linear_schedule(0.02, 0.0, 400)))
  params = init(jax.random.key(0))
  state = tx.init(params)

  @jax.jit
  def train_step(params, state, key):
    losses, grads = task_grads(params, collect(params, key))
    updates, state = tx.update(grads, state, params, losses=losses)
    return optax.apply_updates(params, updates), state

  for key in jax.random.split(jax.random.key(1), 400):
    params, state = train_step(params, state, key)
  returns = collect(params, jax.random.key(2))["returns"]
  return -np.asarray(jnp.mean(returns, axis=1) / UNITS)


def main():
  start = collect(init(jax.random.key(0)), jax.random.key(2))["returns"]
  print("mean squared distance to each task's goal")
  row = "{:<28} {}".format
  print(row("at the start", -np.asarray(start.mean(axis=1) / UNITS).round(2)))
  equal = optax_mtl.equal_weighting(TASKS, reduction="mean")
  limited = optax.chain(equal, optax.clip_by_global_norm(1.0))
  found = train(limited)
  print(row("equal weights, norm 1", found.round(2)))
  other = train(optax_mtl.nash_mtl(TASKS, max_norm=1.0))
  print(row("Nash-MTL, norm 1", other.round(2)))
  print(f"the farthest goal: {found.max() / other.max():.1f} times nearer")


if __name__ == "__main__":
  main()
