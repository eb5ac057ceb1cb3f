"""A whole training loop in plain JAX, and a checkpoint that goes on.

A schedule with warm-up, clipping, another rate for the heads, an average of the
params, early stopping on validation, and orbax: what was stopped and restored
ends at the same bits as what was never stopped.
"""

import pathlib
import tempfile

import digits
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

import optax_mtl

STEPS, EVERY, PATIENCE = 160, 20, 3
LABELS = {"trunk": "trunk", "heads": "heads"}

rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 20, STEPS)
tx = optax.chain(
  optax_mtl.mgda(num_tasks=3, normalize="loss"),
  # What follows a method sees one gradient, as everywhere in optax.
  optax.clip_by_global_norm(1.0),
  optax.partition(
    {"trunk": optax.adamw(rate), "heads": optax.adam(1e-2)}, LABELS
  ),
)
task_grads = optax_mtl.value_and_task_grads(
  digits.plain_losses, shared={"trunk": True, "heads": False}
)


def init():
  params = digits.init_plain(jax.random.key(0))
  return {"params": params, "opt": tx.init(params), "average": params}


@jax.jit
def train_step(state, batch):
  losses, grads = task_grads(state["params"], batch)
  updates, opt = tx.update(grads, state["opt"], state["params"], losses=losses)
  params = optax.apply_updates(state["params"], updates)
  average = optax.incremental_update(params, state["average"], 0.05)
  return {"params": params, "opt": opt, "average": average}, losses


evaluate = jax.jit(digits.plain_losses)


def train(state, first_step, data, held_out, checkpoint=None):
  """From a step on, to the end or until validation has stopped to improve."""
  best, since = np.inf, 0
  for step, batch in enumerate(digits.batches(data, STEPS)):
    if step < first_step:
      continue  # The batches come in the order in which they would have come.
    if step == STEPS // 2 and checkpoint is not None:
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(checkpoint, state)
    state, losses = train_step(state, batch)
    if step % EVERY == 0:
      digits.report(step, losses)
      # By logarithms each task counts alike, whatever its loss's unit.
      losses = evaluate(state["average"], held_out)
      new = sum(np.log(loss) for loss in losses.values())
      best, since = min(best, new), 0 if new < best else since + 1
      if since == PATIENCE:
        print(f"stopped early, after step {step}")
        break
  return state


def main():
  data = digits.load()
  held_out = {key: value[1500:] for key, value in data.items()}
  data = {key: value[:1500] for key, value in data.items()}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "half_way"
    whole = train(init(), 0, data, held_out, checkpoint=path)
    print("restored half-way:")
    with ocp.StandardCheckpointer() as checkpointer:
      state = checkpointer.restore(path, init())
    resumed = train(state, STEPS // 2, data, held_out)
  same = jax.tree.map(np.array_equal, whole, resumed)
  print("bit-identical:", all(jax.tree.leaves(same)))


if __name__ == "__main__":
  main()
