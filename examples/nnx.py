"""Flax NNX: `nnx.Optimizer` passes the extra args on.

The loss function is pure: it merges the model, runs it once for all tasks, and
returns all that is no param as aux: BatchNorm's statistics, and the counts of
dropout's random streams, without which each step would drop out the same units.
A loop of `nnx.value_and_grad`, one a task, would move them once for every task.
"""

import digits
import jax
import optax
from flax import nnx

import optax_mtl


class Network(nnx.Module):
  def __init__(self, rngs):
    self.conv = nnx.Conv(1, 16, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(16, rngs=rngs)
    self.dense = nnx.Linear(8 * 8 * 16, 64, rngs=rngs)
    self.dropout = nnx.Dropout(0.2, rngs=rngs)
    self.heads = nnx.Dict(
      digit=nnx.Linear(64, 10, rngs=rngs),
      even=nnx.Linear(64, 2, rngs=rngs),
      ink=nnx.Linear(64, 1, rngs=rngs),
    )

  def __call__(self, images):
    z = nnx.relu(self.norm(self.conv(images)))
    z = self.dropout(nnx.relu(self.dense(z.reshape(len(z), -1))))
    return {task: self.heads[task](z) for task in digits.TASKS}


def shared(params):
  """Everything but the heads.

  By path, since the params are an `nnx.State` where the optimizer is made, and
  a plain tree where it is updated.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "heads" not in jax.tree_util.keystr(path), params
  )


@nnx.jit
def train_step(model, optimizer, batch):
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  def loss_fn(params):
    # copy=True: without it the merged model would write its statistics, which
    # are tracers here, into the variables of the model outside.
    merged = nnx.merge(graph, params, rest, copy=True)
    losses = digits.losses_of(merged(batch["image"]), batch)
    return losses, nnx.state(merged, nnx.Not(nnx.Param))

  (losses, rest), grads = optax_mtl.value_and_task_grads(loss_fn, has_aux=True)(
    params
  )
  nnx.update(model, rest)
  optimizer.update(model, grads, losses=losses)
  return losses


@nnx.jit(static_argnames="tx")
def implicit_step(model, tx, opt_state, batch):
  """The same step with gradients that are never stored.

  `nnx.Optimizer.update` filters the gradients as a tree of variables, and an
  implicit source is no tree. So the transformation is called as in plain optax.
  """
  graph, params, rest = nnx.split(model, nnx.Param, ...)
  params = nnx.as_pure(params)

  def loss_fn(params):
    merged = nnx.merge(graph, params, rest, copy=True)
    losses = digits.losses_of(merged(batch["image"]), batch)
    return losses, nnx.state(merged, nnx.Not(nnx.Param))

  (losses, rest), grads = optax_mtl.value_and_task_grads(
    loss_fn, has_aux=True, source="implicit", shared=shared
  )(params)
  updates, opt_state = tx.update(grads, opt_state, params, losses=losses)
  nnx.update(model, rest)
  nnx.update(model, optax.apply_updates(params, updates))
  return losses, opt_state


def main():
  data = digits.load()
  tx = optax.chain(optax_mtl.mgda(num_tasks=3), optax.adam(3e-3))
  model = Network(nnx.Rngs(0))
  # A source that knows the trunk gives no tree, and `nnx.Optimizer` takes
  # nothing else: here the transformation is told instead.
  optimizer = nnx.Optimizer(
    model, optax_mtl.on_trunk(tx, shared), wrt=nnx.Param
  )
  print("stacked source, nnx.Optimizer:")
  for step, batch in enumerate(digits.batches(data, num_steps=51)):
    losses = train_step(model, optimizer, batch)
    if step % 25 == 0:
      digits.report(step, losses)

  model = Network(nnx.Rngs(0))
  opt_state = tx.init(nnx.as_pure(nnx.state(model, nnx.Param)))
  print("implicit source, plain optax:")
  for step, batch in enumerate(digits.batches(data, num_steps=51)):
    losses, opt_state = implicit_step(model, tx, opt_state, batch)
    if step % 25 == 0:
      digits.report(step, losses)


if __name__ == "__main__":
  main()
